import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from serve_app.client.images import image_bytes

PIXELS = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3)


def decoded(content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content))


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def test_files_and_bytes_go_as_they_are(tmp_path: Path) -> None:
    content = b"not even an image: the service decides"
    path = tmp_path / "image.jpg"
    path.write_bytes(content)
    assert image_bytes(str(path)) == content
    assert image_bytes(path) == content
    assert image_bytes(content) == content
    assert image_bytes(bytearray(content)) == content
    assert image_bytes(memoryview(content)) == content
    with path.open("rb") as file:
        assert image_bytes(file) == content


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "absent.png"
    with pytest.raises(FileNotFoundError, match=str(path)) as caught:
        image_bytes(str(path))
    assert caught.value.filename == str(path)


def test_a_str_is_a_path_even_where_it_looks_like_something_else() -> None:
    with pytest.raises(FileNotFoundError, match="https://example"):
        image_bytes("https://example.org/a.png")


@pytest.mark.parametrize(
    ("array", "mode"),
    [
        (PIXELS, "RGB"),
        (np.dstack([PIXELS, np.full((4, 5), 9, np.uint8)]), "RGBA"),
        (PIXELS[:, :, 0], "L"),
        (PIXELS[:, :, :1], "L"),
        (PIXELS[::-1, ::-1], "RGB"),
    ],
)
def test_arrays_are_encoded_without_loss(array: np.ndarray, mode: str) -> None:
    image = decoded(image_bytes(array))
    assert (image.format, image.mode) == ("PNG", mode)
    np.testing.assert_array_equal(np.asarray(image), array.squeeze())


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (PIXELS.astype(np.float32) / 255, "must be uint8.*float32"),
        (PIXELS.astype(np.int64), "must be uint8.*int64"),
        (PIXELS.transpose(2, 0, 1), "channels last; this one is 3x4x5"),
        (PIXELS[None], "1x4x5x3"),
        (PIXELS[:0], "must have pixels"),
    ],
)
def test_arrays_that_are_no_image_are_refused(array: np.ndarray, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        image_bytes(array)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_pillow_images_keep_their_mode_and_pixels(mode: str) -> None:
    image = Image.fromarray(PIXELS).convert(mode)
    sent = decoded(image_bytes(image))
    assert sent.mode == mode
    assert sent.convert("RGBA").tobytes() == image.convert("RGBA").tobytes()


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr", "HSV"])
def test_modes_that_png_lacks_are_converted(mode: str) -> None:
    image = Image.fromarray(PIXELS).convert(mode)
    assert decoded(image_bytes(image)).tobytes() == image.convert("RGB").tobytes()


def test_a_mode_without_an_8_bit_meaning_is_refused() -> None:
    with pytest.raises(TypeError, match="mode F"):
        image_bytes(Image.new("F", (2, 2)))


def test_an_opened_file_is_turned_upright_as_the_service_does() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # rotated by a quarter
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).save(buffer, format="JPEG", exif=exif)
    assert decoded(image_bytes(Image.open(buffer))).size == (4, 5)


@pytest.mark.parametrize("value", [None, 3, ["a.png"], io.StringIO("text")])
def test_other_things_are_refused(value: object) -> None:
    with pytest.raises(TypeError, match="image"):
        image_bytes(value)
