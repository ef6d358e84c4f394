"""Bad input gets a clear answer, harms no neighbour, and leaves the service as it was."""

from __future__ import annotations

import base64
import io
import struct
import zlib
from collections.abc import Callable

import pytest
from PIL import Image

from tests.integration.support import TRUE, Running, drawing, uri


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **options)
    return buffer.getvalue()


def huge_png() -> bytes:
    """100 megapixels of one grey in about 100 KB: a decompression bomb."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    side = 10_000
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    rows = zlib.compress(b"\0" * (side + 1) * side, 9)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    )


BROKEN_IMAGES: dict[str, tuple[Callable[[], bytes], str]] = {
    "truncated JPEG": (lambda: drawing("JPEG")[:2000], "image_undecodable"),
    "text named .jpg": (lambda: b"this is only text", "image_format_unsupported"),
    "no bytes": (lambda: b"", "image_empty"),
    "bomb": (huge_png, "image_too_large"),
    "SVG": (
        lambda: b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>',
        "image_format_unsupported",
    ),
    "zeros": (lambda: bytes(5000), "image_format_unsupported"),
}

BROKEN_STRINGS = {
    "https://example.com/cat.jpg": "image_url_disabled",
    "http://169.254.169.254/latest/meta-data": "image_url_disabled",
    "file:///etc/passwd": "image_path_refused",
    "/etc/passwd": "image_path_refused",
    "../cat.jpg": "image_path_refused",
    "data:image/png;base64,@@@@": "image_encoding_invalid",
    "data:,hello": "image_encoding_invalid",
    "": "image_empty",
}

_SQUARE = Image.new("RGB", (64, 64), "red")
UNUSUAL_IMAGES: dict[str, Callable[[], bytes]] = {
    "CMYK JPEG": lambda: encoded(_SQUARE.convert("CMYK"), "JPEG"),
    "16-bit PNG": lambda: encoded(Image.new("I;16", (64, 64), 40000), "PNG"),
    "palette PNG": lambda: encoded(_SQUARE.convert("P"), "PNG"),
    "alpha PNG": lambda: encoded(Image.new("RGBA", (64, 64), (255, 0, 0, 0)), "PNG"),
    "AVIF": lambda: encoded(_SQUARE, "AVIF"),
    "WebP": lambda: encoded(_SQUARE, "WEBP"),
    "1 x 1": lambda: encoded(Image.new("RGB", (1, 1)), "PNG"),
}


def neighbours(demo: Running, broken: str) -> list[dict[str, object]]:
    """Results of a broken image between two good ones."""
    body = {"images": [uri(drawing()), broken, uri(drawing())], "texts": [TRUE]}
    answer = demo.http.post("/v1/score", json=body)
    assert answer.status_code == 200, answer.text
    results: list[dict[str, object]] = answer.json()["results"]
    return results


@pytest.mark.parametrize("name", BROKEN_IMAGES)
def test_a_broken_image_is_its_own_error(demo: Running, name: str) -> None:
    make, code = BROKEN_IMAGES[name]
    data = make()
    files = [
        ("image", ("a.png", drawing(), "image/png")),
        ("image", ("b.jpg", data, "image/jpeg")),
    ]
    results = demo.http.post("/v1/score", files=files, data={"text": TRUE}).json()["results"]
    assert results[1]["error"]["code"] == code
    assert results[1]["error"]["detail"]
    alone = demo.http.post("/v1/score", json={"images": [uri(drawing())], "texts": [TRUE]}).json()
    assert results[0]["score"] == pytest.approx(alone["results"][0]["score"], abs=1e-5)


@pytest.mark.parametrize("value", BROKEN_STRINGS)
def test_a_broken_image_string_is_its_own_error(demo: Running, value: str) -> None:
    first, broken, last = neighbours(demo, value)
    assert broken["error"]["code"] == BROKEN_STRINGS[value]  # type: ignore[index]
    assert first["score"] == pytest.approx(last["score"], abs=1e-5)


@pytest.mark.parametrize("name", UNUSUAL_IMAGES)
def test_an_unusual_image_is_scored(demo: Running, name: str) -> None:
    _, result, _ = neighbours(demo, uri(UNUSUAL_IMAGES[name]()))
    assert isinstance(result.get("score"), float), result


@pytest.mark.parametrize("kind", ["GIF", "WEBP"])
def test_of_an_animation_the_first_frame_is_scored_with_a_warning(demo: Running, kind: str) -> None:
    frames = [Image.new("RGB", (64, 64), colour) for colour in ("red", "blue")]
    buffer = io.BytesIO()
    frames[0].save(buffer, format=kind, save_all=True, append_images=frames[1:], lossless=True)
    _, result, _ = neighbours(demo, uri(buffer.getvalue()))
    assert [warning["code"] for warning in result["warnings"]] == ["animated_first_frame"]  # type: ignore[attr-defined]


def test_orientation_is_applied(demo: Running) -> None:
    upright = Image.open(io.BytesIO(drawing()))
    exif = Image.Exif()
    exif[0x0112] = 3  # rotated by 180 degrees
    turned = encoded(upright.rotate(180), "PNG", exif=exif)
    first, result, _ = neighbours(demo, uri(turned))
    assert result["score"] == pytest.approx(first["score"], abs=1e-5)


BROKEN_TEXTS = {"": "text_empty", "   ": "text_empty", "x" * 10_001: "text_too_large"}


@pytest.mark.parametrize("text", BROKEN_TEXTS, ids=["empty", "blank", "large"])
def test_a_broken_text_is_its_own_error(demo: Running, text: str) -> None:
    body = {"images": [uri(drawing())], "texts": [TRUE, text]}
    results = demo.http.post("/v1/score", json=body).json()["results"]
    assert results[1]["error"]["code"] == BROKEN_TEXTS[text]
    assert results[0]["score"] > 0


@pytest.mark.parametrize("text", ["a red\0circle", "a red circle 🔴", "赤い丸"])
def test_an_unusual_text_is_scored(demo: Running, text: str) -> None:
    body = {"images": [uri(drawing())], "texts": [text]}
    assert demo.http.post("/v1/score", json=body).status_code == 200


def test_a_long_text_is_never_cut_silently(demo: Running) -> None:
    body = {"images": [uri(drawing())], "texts": ["a red circle " * 769, TRUE]}
    result, plain = demo.http.post("/v1/score", json=body).json()["results"]
    (warning,) = result["warnings"]
    assert warning["code"] == "text_truncated"
    assert warning["tokens"] > 2000
    assert warning["limit"] < 100
    assert "warnings" not in plain
    answer = demo.http.post("/v1/score", json={**body, "on_truncate": "error"})
    refused, plain = answer.json()["results"]
    assert refused["error"]["code"] == "text_too_long"
    assert "score" in plain


def bodies() -> dict[str, tuple[dict[str, object], int, str]]:
    """Whole requests that are refused: arguments, status, code."""
    image = uri(drawing())
    good = {"images": [image], "texts": [TRUE]}
    json_type = {"content-type": "application/json"}
    return {
        "empty body": ({"content": b"", "headers": json_type}, 400, "invalid_json"),
        "not JSON": ({"content": b"{", "headers": json_type}, 400, "invalid_json"),
        "not UTF-8": ({"content": b'{"a": "\xff"}', "headers": json_type}, 400, "invalid_json"),
        "a list": ({"json": []}, 422, "invalid_request"),
        "nothing": ({"json": {}}, 422, "invalid_request"),
        "both forms": (
            {"json": {**good, "pairs": [{"image": image, "text": TRUE}]}},
            422,
            "invalid_request",
        ),
        "half a form": ({"json": {"images": [image]}}, 422, "invalid_request"),
        "no images": ({"json": {"images": [], "texts": [TRUE]}}, 422, "invalid_request"),
        "unknown field": ({"json": {**good, "colour": 1}}, 422, "invalid_request"),
        "wrong type": ({"json": {**good, "texts": "one"}}, 422, "invalid_request"),
        "number for text": ({"json": {**good, "texts": [1]}}, 422, "invalid_request"),
        "NaN": (
            {"content": b'{"images": [NaN], "texts": ["a"]}', "headers": json_type},
            422,
            "invalid_request",
        ),
        "unknown model": ({"json": {**good, "model": "demmo"}}, 404, "unknown_model"),
        "unknown metric": ({"json": {**good, "metrics": ["beauty"]}}, 422, "unknown_metric"),
        "bad on_truncate": ({"json": {**good, "on_truncate": "cut"}}, 422, "invalid_request"),
        "257 pairs": ({"json": {**good, "texts": ["t"] * 257}}, 422, "too_many_pairs"),
        "wrong media type": (
            {"content": b"x", "headers": {"content-type": "text/plain"}},
            415,
            "unsupported_media_type",
        ),
        "broken multipart": (
            {"content": b"x", "headers": {"content-type": "multipart/form-data"}},
            422,
            "invalid_request",
        ),
        "every item fails": (
            {"json": {"images": ["/etc/passwd"], "texts": [TRUE]}},
            422,
            "all_items_failed",
        ),
    }


@pytest.mark.parametrize("name", bodies())
def test_a_bad_request_is_a_problem_that_says_what_is_wrong(demo: Running, name: str) -> None:
    arguments, status, code = bodies()[name]
    answer = demo.http.post("/v1/score", **arguments)  # type: ignore[arg-type]
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["detail"]
    assert answer.json()["request_id"] == answer.headers["x-request-id"]


def test_exactly_the_limit_is_taken(demo: Running) -> None:
    body = {"images": [uri(drawing())], "texts": [f"a red circle {n}" for n in range(256)]}
    answer = demo.http.post("/v1/score", json=body)
    assert answer.status_code == 200
    assert len(answer.json()["results"]) == 256


def test_a_body_beyond_the_limit_is_refused(demo: Running) -> None:
    large = base64.b64encode(bytes(50 * 2**20)).decode()
    answer = demo.http.post("/v1/score", json={"images": [large], "texts": [TRUE]})
    assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")


@pytest.mark.slow
def test_500_bad_inputs_leave_the_service_ready_and_its_memory_flat(demo: Running) -> None:
    import itertools

    import psutil

    def memory() -> int:
        total = 0
        for process in psutil.process_iter():
            try:
                title = process.cmdline()[0] if process.cmdline() else ""
                if title.startswith("ray::ServeReplica") and demo.name in title:
                    total += process.memory_full_info().uss
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
        return total

    requests: list[dict[str, object]] = [arguments for arguments, _, _ in bodies().values()]
    for make, _ in BROKEN_IMAGES.values():
        files = [("image", ("x", make(), "image/png")), ("image", ("y", drawing(), "image/png"))]
        requests.append({"files": files, "data": {"text": TRUE}})
    for value in BROKEN_STRINGS:
        requests.append({"json": {"images": [value, uri(drawing())], "texts": [TRUE, ""]}})

    def send(count: int) -> None:
        for arguments in itertools.islice(itertools.cycle(requests), count):
            answer = demo.http.post("/v1/score", **arguments)  # type: ignore[arg-type]
            assert answer.status_code < 500, answer.text

    before_score = demo.http.post(
        "/v1/score", json={"images": [uri(drawing())], "texts": [TRUE]}
    ).json()["results"][0]["score"]
    send(2 * len(requests))
    before = memory()
    assert before > 0
    send(500)
    after = memory()
    assert after < 1.05 * before, f"{before / 2**20:.0f} MiB grew to {after / 2**20:.0f} MiB"
    assert demo.http.get("/readyz").status_code == 200
    answer = demo.http.post("/v1/score", json={"images": [uri(drawing())], "texts": [TRUE]})
    assert answer.json()["results"][0]["score"] == pytest.approx(before_score, abs=1e-5)
