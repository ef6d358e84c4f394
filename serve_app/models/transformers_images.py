"""Image preprocessing as a transformers checkpoint describes it, as an `ImagePreprocess`.

Images are resized by Pillow, as when these models were trained; the library's own default is
torchvision now, whose antialiasing gives other pixels by a grey level or two.
"""

from __future__ import annotations

from typing import Any

from PIL import Image

from serve_app.errors import ModelLoadError
from serve_app.inputs.preprocess import ImagePreprocess, Interpolation, ResizeMode

_INTERPOLATIONS: dict[int, Interpolation] = {
    int(Image.Resampling.NEAREST): "nearest",
    int(Image.Resampling.BILINEAR): "bilinear",
    int(Image.Resampling.BICUBIC): "bicubic",
    int(Image.Resampling.LANCZOS): "lanczos",
}
_TO_ONE = 1 / 255


def image_preprocess(processor: Any) -> ImagePreprocess:
    """What an image processor does to an image.

    Raises:
        ModelLoadError: It does something that cannot be done here; the message says what.
    """
    if hasattr(processor, "max_num_patches"):
        raise _unsupported(
            "cuts images into a number of patches that depends on the image (NaFlex)"
        )
    if not _says(processor, "do_resize", True):
        raise _unsupported("does not resize images, so they would have any size")
    if _says(processor, "do_pad", False):
        raise _unsupported("pads images")
    scale = float(getattr(processor, "rescale_factor", _TO_ONE))
    if not _says(processor, "do_rescale", True) or abs(scale - _TO_ONE) > 1e-9:
        raise _unsupported(f"scales pixels by {scale:g} and not by 1/255")
    if getattr(processor, "rescale_offset", False):
        raise _unsupported("moves pixels by an offset")
    resample = int(getattr(processor, "resample", Image.Resampling.BICUBIC))
    if resample not in _INTERPOLATIONS:
        raise _unsupported(f"resizes with the filter {resample}")
    resized, mode = _resized(processor)
    size = resized
    if _says(processor, "do_center_crop", False):
        size = _sides(processor.crop_size)
    normalised = _says(processor, "do_normalize", True)
    same = mode == "squash" or resized[0] == resized[1]
    return ImagePreprocess(
        size=size,
        resize_mode=mode,
        interpolation=_INTERPOLATIONS[resample],
        mean=_channels(processor.image_mean) if normalised else (0.0, 0.0, 0.0),
        std=_channels(processor.image_std) if normalised else (1.0, 1.0, 1.0),
        resized=None if same and resized == size else resized,
        crop_down=True,
    )


def _resized(processor: Any) -> tuple[tuple[int, int], ResizeMode]:
    """Height and width after the resize, and how the aspect ratio is treated."""
    size = processor.size
    shortest = _get(size, "shortest_edge")
    if shortest and not _get(size, "longest_edge"):
        if not _says(processor, "do_center_crop", False):
            raise _unsupported("fits the shorter side without a crop, so images have any size")
        return (int(shortest), int(shortest)), "shortest"
    return _sides(size), "squash"


def _sides(size: Any) -> tuple[int, int]:
    height, width = _get(size, "height"), _get(size, "width")
    if not height or not width:
        raise _unsupported(f"resizes to {size}")
    return int(height), int(width)


def _get(size: Any, name: str) -> Any:
    return size.get(name) if isinstance(size, dict) else getattr(size, name, None)


def _says(processor: Any, name: str, default: bool) -> bool:
    found = getattr(processor, name, None)
    return default if found is None else bool(found)


def _channels(values: Any) -> tuple[float, float, float]:
    red, green, blue = (float(value) for value in values)
    return red, green, blue


def _unsupported(what: str) -> ModelLoadError:
    return ModelLoadError(
        f"The checkpoint's image processor {what}, which this backend does not do; see "
        "docs/models.md."
    )
