"""What a caller may hand over as an image, turned into encoded bytes; knows no transport."""

from __future__ import annotations

import errno
import io
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

    ImageInput: TypeAlias = (
        str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO | Image.Image
        | NDArray[np.uint8]
    )  # fmt: skip
else:
    ImageInput: TypeAlias = Any

_KINDS = "a path, bytes, an open binary file, a PIL image or a uint8 array"

# Modes that PNG holds as they are; what is left converts without loss of what a model sees.
_PNG_MODES = {"1", "L", "LA", "P", "RGB", "RGBA", "I;16"}
_CONVERSIONS = {
    "CMYK": "RGB",
    "YCbCr": "RGB",
    "HSV": "RGB",
    "LAB": "RGB",
    "RGBX": "RGB",
    "PA": "RGBA",
    "La": "LA",
    "RGBa": "RGBA",
}


def image_bytes(image: ImageInput) -> bytes:
    """Encodes one image for the wire; files and bytes go as they are, pixels losslessly as PNG.

    Args:
        image: A path (a `str` is always a path, read here and not by the service), the bytes of
            an image file, an open binary file, a PIL image, or an array: uint8, RGB or RGBA of
            shape (height, width, 3 or 4), or grey of shape (height, width).

    Raises:
        FileNotFoundError: The path does not exist; other `OSError`s as reading gives them.
        TypeError: It is none of these; for arrays, says what is wrong with shape or dtype.
    """
    if isinstance(image, (str, os.PathLike)):
        return _read_file(os.fspath(image))
    if isinstance(image, bytes):
        return image
    if isinstance(image, (bytearray, memoryview)):
        return bytes(image)
    # Neither library is needed to send a file, and each takes a while to import: a value can only
    # be of theirs where it is imported already.
    if hasattr(image, "read"):
        content = image.read()
        if not isinstance(content, bytes):
            raise TypeError("the open image file is in text mode; open it with mode 'rb'")
        return content
    if hasattr(image, "__array_interface__") and hasattr(image, "dtype"):
        return _encode_array(image)
    if _is_pillow(image):
        return _encode_pillow(image)
    raise TypeError(f"an image must be {_KINDS}, not {type(image).__name__}")


def _read_file(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except FileNotFoundError:
        raise FileNotFoundError(errno.ENOENT, "There is no image file at", path) from None


def _is_pillow(image: object) -> bool:
    from PIL import Image

    return isinstance(image, Image.Image)


def _encode_pillow(image: Any) -> bytes:
    from PIL import ImageOps

    if image.mode not in _PNG_MODES and image.mode not in _CONVERSIONS:
        raise TypeError(
            f"a PIL image of mode {image.mode} has no 8-bit meaning; convert it to RGB or L first"
        )
    # As the service does for files: the same picture must score the same either way.
    upright = ImageOps.exif_transpose(image)
    if upright.mode in _CONVERSIONS:
        upright = upright.convert(_CONVERSIONS[upright.mode])
    buffer = io.BytesIO()
    # Level 1: lossless all the same, and several times faster than the default.
    upright.save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()


def _encode_array(array: Any) -> bytes:
    from PIL import Image

    shape = "x".join(str(length) for length in array.shape)
    if array.dtype.name != "uint8":
        raise TypeError(
            f"an image array must be uint8 (0-255), not {array.dtype.name}; for floats in 0-1 use "
            "(array * 255).round().astype('uint8')"
        )
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim != 2 and not (array.ndim == 3 and array.shape[2] in (3, 4)):
        raise TypeError(
            f"an image array must have shape (height, width), (height, width, 3) or (height, "
            f"width, 4), channels last; this one is {shape}"
        )
    if 0 in array.shape:
        raise TypeError(f"an image array must have pixels; this one is {shape}")
    return _encode_pillow(Image.fromarray(array))
