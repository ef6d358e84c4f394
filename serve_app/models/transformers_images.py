"""Image preprocessing as a transformers checkpoint describes it, as an `ImagePreprocess`.

Images are resized by Pillow, as when these models were trained; the library's own default is
torchvision now, whose antialiasing gives other pixels by a grey level or two.
"""

from __future__ import annotations

import math
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
Channels = tuple[float, float, float]


def image_preprocess(processor: Any, max_patches: int | None = None) -> ImagePreprocess:
    """What an image processor does to an image.

    Args:
        processor: Of the checkpoint.
        max_patches: Instead of the processor's own bound, where it cuts images into as many
            patches as they need.

    Raises:
        ModelLoadError: It does something that cannot be done here; the message says what.
    """
    if not _says(processor, "do_resize", True):
        raise _unsupported("does not resize images, so they would have any size")
    if _says(processor, "do_pad", False):
        raise _unsupported("pads images")
    resample = int(getattr(processor, "resample", Image.Resampling.BICUBIC))
    if resample not in _INTERPOLATIONS:
        raise _unsupported(f"resizes with the filter {resample}")
    mean, std = _normalisation(processor)
    if hasattr(processor, "max_num_patches"):
        side, most = int(processor.patch_size), max_patches or int(processor.max_num_patches)
        square = side * math.isqrt(most)
        return ImagePreprocess(
            size=(square, square),
            resize_mode="patches",
            interpolation=_INTERPOLATIONS[resample],
            mean=mean,
            std=std,
            patch_size=side,
            max_patches=most,
        )
    if max_patches is not None:
        raise ModelLoadError(
            "`options.max_patches` is for models that take images of any size (NaFlex); this "
            "checkpoint's take one size."
        )
    resized, mode = _resized(processor)
    size = resized
    if _says(processor, "do_center_crop", False):
        size = _sides(processor.crop_size)
    same = mode == "squash" or resized[0] == resized[1]
    return ImagePreprocess(
        size=size,
        resize_mode=mode,
        interpolation=_INTERPOLATIONS[resample],
        mean=mean,
        std=std,
        resized=None if same and resized == size else resized,
        crop_down=True,
    )


def _normalisation(processor: Any) -> tuple[Channels, Channels]:
    """Mean and standard deviation on the 0-1 scale that do all that a processor does to a value.

    It may scale by another factor than 1/255 and take 1 off (EfficientNet, so ALIGN), then
    subtract a mean and divide by a deviation, and divide by that a second time (`include_top`).
    """
    factor = 255.0
    if _says(processor, "do_rescale", True):
        factor *= float(getattr(processor, "rescale_factor", 1 / 255))
    offset = 1.0 if getattr(processor, "rescale_offset", False) else 0.0
    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    if _says(processor, "do_normalize", True):
        mean, std = _channels(processor.image_mean), _channels(processor.image_std)
    if getattr(processor, "include_top", False):
        std = _channels(a * b for a, b in zip(std, processor.image_std, strict=True))
    if abs(factor - 1) < 1e-9 and not offset:
        return mean, std  # exactly the numbers of the checkpoint
    return (
        _channels((offset + value) / factor for value in mean),
        _channels(value / factor for value in std),
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


def _channels(values: Any) -> Channels:
    red, green, blue = (float(value) for value in values)
    return red, green, blue


def _unsupported(what: str) -> ModelLoadError:
    return ModelLoadError(
        f"The checkpoint's image processor {what}, which this backend does not do; see "
        "docs/models.md."
    )
