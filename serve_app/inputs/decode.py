"""Decodes an image file to RGB within bounds; knows no model and no transport.

Sizes are checked in the header, before any pixel is decoded. Pillow's plugin classes are called
directly, not through `Image.open`: that keeps its other fifty formats away from callers' bytes,
and its global `MAX_IMAGE_PIXELS`, which warns through a global of its own, out of the way.
Everything here may run in many threads at once, and no Python warning leaves it.

Decoding is exact: JPEG draft mode, which changes pixels, is never used; colour profiles are
ignored, as they were when models were trained.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    WebPImagePlugin,
)

from serve_app.errors import (
    ImageEmptyError,
    ImageFormatError,
    ImageTooLargeError,
    ImageUndecodableError,
    ItemError,
)
from serve_app.inputs.containers import Container, read_container, read_orientation
from serve_app.inputs.formats import SUPPORTED, ImageFormat, require_supported
from serve_app.types import ItemWarning

MAX_SIDE = 65_535
"""Pixels of one side; more than most formats can say, and decoders take longer rows badly."""

_PLUGINS: dict[ImageFormat, type[ImageFile.ImageFile]] = {
    "JPEG": JpegImagePlugin.JpegImageFile,
    "PNG": PngImagePlugin.PngImageFile,
    "WebP": WebPImagePlugin.WebPImageFile,
    "GIF": GifImagePlugin.GifImageFile,
    "AVIF": AvifImagePlugin.AvifImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
}
_UPRIGHT: dict[int, Image.Transpose] = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True, slots=True)
class DecodeLimits:
    """Bounds on one image.

    Attributes:
        max_image_bytes: Bytes of the encoded file.
        max_pixels: Width x height.
    """

    max_image_bytes: int
    max_pixels: int


@dataclass(frozen=True, slots=True)
class DecodedImage:
    """A decoded image.

    Attributes:
        image: Mode RGB, upright, on white where it was transparent; without metadata.
        warnings: `animated_first_frame`, where only the first of several frames was decoded.
    """

    image: Image.Image
    warnings: tuple[ItemWarning, ...] = ()


class OpenedImage:
    """An image whose header was read and found within bounds, and whose pixels were not decoded.

    Made by `open_image`; used by one thread at a time, and decoded once.

    Attributes:
        format: The file's format.
        width: Pixels, before the orientation is applied.
        height: Pixels, before the orientation is applied.
    """

    def __init__(
        self,
        image_format: ImageFormat,
        size: tuple[int, int],
        container: Container,
        file: ImageFile.ImageFile | None,
    ) -> None:
        self.format = image_format
        self.width, self.height = size
        self._container = container
        self._file = file

    @property
    def decoded_bytes(self) -> int:
        """Bytes to reserve: width x height x 4, as Pillow stores RGB in four bytes.

        Turning and compositing take the same once more while they last, and so do the working
        buffers of WebP and of progressive JPEG.
        """
        return self.width * self.height * 4

    def decode(self) -> DecodedImage:
        """Decodes the (first frame's) pixels.

        Raises:
            ImageUndecodableError: The file is truncated or corrupt.
        """
        try:
            file = self._file or _open_plugin(self.format, self._container)
            if file.size != (self.width, self.height):  # then it is not what was reserved
                raise ImageUndecodableError(f"The {self.format} image has two different sizes.")
            file.load()
            image = _to_rgb(file, self._container.bit_depth)
            method = _UPRIGHT.get(self._orientation(file))
            if method is not None:  # the first of them is 0
                image = image.transpose(method)
        except Exception as error:  # decoders raise nearly anything on corrupt bytes
            raise _undecodable(self.format, error) from error
        image.info = {}
        return DecodedImage(image, self._warnings(file))

    def _orientation(self, file: ImageFile.ImageFile) -> int:
        if self.format in ("WebP", "AVIF"):
            exif = file.info.get("exif")
            return read_orientation(exif) if isinstance(exif, bytes) else 1
        return self._container.orientation

    def _warnings(self, file: ImageFile.ImageFile) -> tuple[ItemWarning, ...]:
        animated = self._container.animated
        if animated is None:
            animated = bool(getattr(file, "is_animated", False))
        if not animated:
            return ()
        detail = f"The {self.format} image is animated; only its first frame was used."
        return (ItemWarning("animated_first_frame", detail),)


def open_image(data: bytes, limits: DecodeLimits) -> OpenedImage:
    """Reads an image file's header, so that its memory can be reserved before it is decoded.

    Args:
        data: The file: JPEG, PNG, WebP, GIF, AVIF or BMP.
        limits: Bounds.

    Raises:
        ImageEmptyError: There are no bytes.
        ImageTooLargeError: More bytes or pixels than the limits allow.
        ImageFormatError: Not one of the formats; the detail says what it looks like.
        ImageUndecodableError: The header is truncated or corrupt.
    """
    if not data:
        raise ImageEmptyError("The image has no bytes.")
    if len(data) > limits.max_image_bytes:
        raise ImageTooLargeError(
            f"The image has {len(data):,} bytes; the limit is {limits.max_image_bytes:,}."
        )
    image_format = require_supported(data)
    container = read_container(image_format, data)
    file, size = None, container.size
    if size is None:
        try:
            file = _open_plugin(image_format, container)
        except Exception as error:
            raise _undecodable(image_format, error) from error
        size = file.size
    _check_size(image_format, size, limits)
    if file is not None and any(tile.codec_name == "bmp_rle" for tile in file.tile):
        # Pillow unpacks these in pure Python, which would hold up all other threads.
        raise ImageFormatError(
            f"BMP with run-length encoding is not decoded; save it as PNG. Supported: {SUPPORTED}."
        )
    return OpenedImage(image_format, size, container, file)


def decode_image(data: bytes, limits: DecodeLimits) -> DecodedImage:
    """Decodes an image file to RGB: `open_image` and `decode` in one.

    Raises:
        ItemError: As `open_image` and `OpenedImage.decode` say.
    """
    return open_image(data, limits).decode()


def _open_plugin(image_format: ImageFormat, container: Container) -> ImageFile.ImageFile:
    return _PLUGINS[image_format](io.BytesIO(container.data))


def _check_size(image_format: ImageFormat, size: tuple[int, int], limits: DecodeLimits) -> None:
    width, height = size
    most = limits.max_pixels
    if image_format in ("GIF", "WebP") and Image.MAX_IMAGE_PIXELS is not None:
        # These two plugins consult Pillow's own limit while they open; stay below what it warns at.
        most = min(most, Image.MAX_IMAGE_PIXELS)
    if width * height > most:
        raise ImageTooLargeError(
            f"The image is {width} x {height} = {width * height:,} pixels; the limit is {most:,}. "
            "Scale it down first."
        )
    if max(size) > MAX_SIDE:
        raise ImageTooLargeError(
            f"The image is {width} x {height} pixels; no side may have more than {MAX_SIDE:,}."
        )


def _undecodable(image_format: ImageFormat, error: Exception) -> ItemError:
    if isinstance(error, ItemError):
        return error
    reason = str(error) or type(error).__name__
    return ImageUndecodableError(
        f"The {image_format} image is truncated or corrupt and cannot be decoded ({reason})."
    )


def _to_rgb(image: Image.Image, bit_depth: int) -> Image.Image:
    """Converts any mode of the supported formats: 1, L, LA, P, PA, I;16, RGB, RGBA, CMYK."""
    transparency = image.info.get("transparency")
    if image.mode.startswith("I;16"):
        return _grey16_to_rgb(image, transparency)
    if image.mode in ("RGBA", "LA", "PA") or (image.mode == "P" and transparency is not None):
        return _on_white(image)
    if image.mode in ("1", "L", "RGB") and transparency is not None:
        image.info["transparency"] = _in_8_bits(transparency, bit_depth)
        return _on_white(image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _on_white(image: Image.Image) -> Image.Image:
    layer = image if image.mode == "RGBA" else image.convert("RGBA")
    canvas = Image.new("RGB", layer.size, "white")
    canvas.paste(layer, mask=layer)
    return canvas


def _grey16_to_rgb(image: Image.Image, transparency: object) -> Image.Image:
    """Scales 16-bit grey to 8 bits by its high byte, as Pillow does 16-bit colour.

    Pillow's own conversion clips instead: everything above 255 becomes white.
    """
    samples = np.asarray(image)
    grey = (samples >> 8).astype(np.uint8)
    if isinstance(transparency, int):
        grey[samples == transparency] = 255
    return Image.fromarray(grey).convert("RGB")


def _in_8_bits(transparency: object, bit_depth: int) -> object:
    """The transparent colour in the scale of decoded samples; PNG gives it in the file's own."""

    def scaled(value: int) -> int:
        return value >> 8 if bit_depth == 16 else value * 255 // ((1 << bit_depth) - 1)

    if isinstance(transparency, tuple):
        return tuple(scaled(value) for value in transparency)
    # Pillow scales the one of 1-bit images, and of no others.
    return scaled(transparency) if isinstance(transparency, int) and bit_depth > 1 else transparency
