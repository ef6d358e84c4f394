"""What a caller's string is taken for; nothing here may ever be read from a disk or a network."""

import base64
import io
import os

import pytest
from PIL import Image

from serve_app.errors import TextEmptyError
from serve_app.inputs.source import check_text, fault, parse_image_string
from serve_app.types import ImageUrl, ItemFault

LIMIT = 100_000


def image_file(image_format: str) -> bytes:
    buffer = io.BytesIO()
    Image.effect_noise((20, 20), 40).convert("RGB").save(buffer, image_format)
    return buffer.getvalue()


@pytest.fixture(params=["JPEG", "PNG", "WEBP", "GIF", "BMP", "AVIF"])
def encoded(request) -> bytes:
    return image_file(request.param)


def code(value: str, limit: int = LIMIT) -> str | None:
    result = parse_image_string(value, limit)
    return result.code if isinstance(result, ItemFault) else None


def test_data_uri(encoded):
    text = base64.b64encode(encoded).decode()
    for head in (
        "data:image/jpeg;base64,",
        "DATA:text/plain;charset=utf-8;BASE64,",
        "data:;base64,",
        " data:image/png;base64, ",
    ):
        assert parse_image_string(head + text, LIMIT) == encoded


def test_percent_encoded_data_uri(encoded):
    text = base64.b64encode(encoded).decode().replace("+", "%2B").replace("/", "%2F")
    assert parse_image_string("data:image/png;base64," + text.replace("=", "%3D"), LIMIT) == encoded


def test_bare_base64(encoded):
    text = base64.b64encode(encoded).decode()
    wrapped = "\r\n".join(text[at : at + 76] for at in range(0, len(text), 76))
    urlsafe = base64.urlsafe_b64encode(encoded).decode()
    for value in (text, text.rstrip("="), wrapped, f"\n {text}\t", urlsafe, urlsafe.rstrip("=")):
        assert parse_image_string(value, LIMIT) == encoded


def test_beginning_of_a_jpeg_is_no_path():
    assert parse_image_string("/9j/4AAQ", LIMIT) == b"\xff\xd8\xff\xe0\x00\x10"


def test_bytes_that_are_no_image_are_left_to_the_decoder():
    assert parse_image_string(base64.b64encode(b"plain text").decode(), LIMIT) == b"plain text"


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/a.jpg",
        "HTTPS://example.com/a.jpg",
        "https://169.254.169.254/latest/meta-data",
        "ftp://example.com/a.jpg",
        "s3://bucket/key",
        "gs://bucket/key",
        "custom+scheme://x",
        "  https://example.com",
        "www.example.com/a.jpg",
    ],
)
def test_url_is_left_to_who_fetches(url):
    result = parse_image_string(url, LIMIT)
    assert result == ImageUrl(url.strip())
    assert "example" not in repr(result), "it may hold a signature"


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        "/etc",
        "/home/someone/picture",
        "/srv/pictures",
        "/proc/self/environ",
        "C:\\Users\\x.png",
        "c:/x.png",
        "\\\\server\\share\\x",
        "./a.jpg",
        "../a",
        "..\\a",
        "~/x",
        "~root",
        "a.png",
        "pictures/cat.jpeg",
        "/9j/x.png",
        "/pictures/cät.png",
        "file:///etc/passwd",
        "FILE:/etc/passwd",
        "file:a.png",
    ],
)
def test_path_is_refused(path):
    result = parse_image_string(path, LIMIT)
    assert isinstance(result, ItemFault)
    assert result.code == "image_path_refused"
    assert "never reads files" in result.detail


def test_existing_file_is_not_read(tmp_path):
    path = tmp_path / "picture.png"
    path.write_bytes(image_file("PNG"))
    assert code(str(path)) == "image_path_refused"
    assert code(path.as_uri()) == "image_path_refused"
    assert code(os.path.relpath(path)) == "image_path_refused"


@pytest.mark.parametrize(
    "value",
    [
        "not base64!",
        "AAAAA",  # no base64 has 4n + 1 characters
        "AA=A",
        "AAAA====",
        "äöü€",
        "\ud800AAA",
        "AAAA\0AAA",
        "javascript:alert(1)",
        "data:image/png;base64,???",
        "data:image/png;base64,AAAAA",
        "data:image/svg+xml,<svg/>",
        "data:image/png;base64",
        "data:base64,AAAA",
        "data:",
        "x" * 10_001,
    ],
)
def test_malformed_encoding(value):
    assert code(value) == "image_encoding_invalid"


@pytest.mark.parametrize(
    "value", ["", "  \n", "=", "==", "data:;base64,", "data:image/png;base64, "]
)
def test_empty(value):
    assert code(value) == "image_empty"


def test_too_many_bytes():
    at_limit = base64.b64encode(bytes(99)).decode()
    assert parse_image_string(at_limit, 99) == bytes(99)
    assert code(at_limit, 98) == "image_too_large"
    assert code("data:image/png;base64," + at_limit, 98) == "image_too_large"


def test_long_values_are_not_echoed_whole():
    result = parse_image_string("/etc/" + "a/" * 2000 + "b", LIMIT)
    assert isinstance(result, ItemFault)
    assert len(result.detail) < 400


@pytest.mark.parametrize(
    "text", ["a red circle", "nul \0 inside", "\0", "👩‍👩‍👧", "ĸ", "x" * 10_000]
)
def test_text_is_fine(text):
    assert check_text(text, 10_000) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "text_empty"),
        (" \t\n\u3000", "text_empty"),
        ("x" * 10_001, "text_too_large"),
        (" " * 10_001, "text_too_large"),
        ("a \ud83d b", "text_invalid"),
        ("\udc00", "text_invalid"),
    ],
)
def test_text_is_refused(text, expected):
    result = check_text(text, 10_000)
    assert result is not None
    assert result.code == expected
    assert result.detail.encode()


def test_fault_carries_code_and_detail():
    assert fault(TextEmptyError("why")) == ItemFault("text_empty", "why")
