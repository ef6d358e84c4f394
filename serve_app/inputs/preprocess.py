"""Fits a decoded image to a model's input: resize, crop or pad; pixels stay uint8.

Runs in the ingress, so it needs Pillow and NumPy only. Normalisation (mean, std) is part of the
description but happens next to the model, on the device. Knows nothing of files and formats.

The pixels equal, byte for byte, those of `open_clip.image_transform(size, is_train=False, ...)`
before its `ToTensor`: models were trained on exactly these. Two cases differ on purpose, both of
extreme aspect ratios only: see `ImagePreprocess.apply`.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from serve_app.config.spec import PreprocessOverride

ResizeMode = Literal["shortest", "longest", "squash", "patches"]
Interpolation = Literal["bicubic", "bilinear", "lanczos", "nearest"]

OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)

MAX_RESIZED_PIXELS = 64_000_000
"""Largest intermediate image of the `shortest` mode; 10,000 x 1 to 224 would be 500 megapixels."""


_PATCH_FACTOR_STEP = 1e-5
_LARGEST_PATCH_FACTOR = 100.0


@dataclass(frozen=True, slots=True)
class ImagePreprocess:
    """What a model expects of an image.

    Attributes:
        size: Height and width in pixels; in the mode `patches`, those of a square image.
        resize_mode: `shortest` fits the shorter side and crops the centre, `longest` fits the
            longer side and pads, `squash` ignores the aspect ratio, `patches` keeps it as far as
            whole patches allow and gives each image a size of its own.
        interpolation: All but `nearest` are antialiased. As in open_clip, `shortest` with a size
            that is not square is always bicubic.
        mean: Per-channel mean on the 0-1 scale, for whoever normalises.
        std: Per-channel standard deviation on the 0-1 scale, for whoever normalises.
        fill_color: Grey level, 0-255, of the padding.
        resized: Height and width before a centre crop to `size`, in the modes `shortest` (which
            fits its smaller number) and `squash`; None: as `size`.
        crop_down: Whether an odd rest of a crop is cut at the end, as the transformers library
            does, and not rounded to an even number, as torchvision does.
        patch_size: Side of a patch, in the mode `patches`.
        max_patches: Most patches of an image, in the mode `patches`.
    """

    size: tuple[int, int]
    resize_mode: ResizeMode = "shortest"
    interpolation: Interpolation = "bicubic"
    mean: tuple[float, float, float] = OPENAI_MEAN
    std: tuple[float, float, float] = OPENAI_STD
    fill_color: int = 0
    resized: tuple[int, int] | None = None
    crop_down: bool = False
    patch_size: int | None = None
    max_patches: int | None = None

    def __post_init__(self) -> None:
        if min(self.size) < 1:
            raise ValueError(f"size must be at least 1 x 1 pixels, not {self.size}")
        if self.resize_mode == "patches" and not (self.patch_size and self.max_patches):
            raise ValueError("the mode `patches` needs patch_size and max_patches")

    @property
    def fixed(self) -> bool:
        """Whether every image gets the same size."""
        return self.resize_mode != "patches"

    def apply(self, image: Image.Image) -> NDArray[np.uint8]:
        """Resizes and crops or pads an image.

        Two images differ from open_clip's. In `longest`, a side that would be rounded to 0 pixels
        is 1 (open_clip fails). In `shortest`, when the resized image would have more than
        `MAX_RESIZED_PIXELS`, only the part that the crop keeps is computed; that moves a few
        values by one grey level, in memory that the crop and the image bound.

        Args:
            image: In mode RGB, of any size.

        Returns:
            Shape (height, width, 3), uint8, writable.
        """
        if self.resize_mode == "patches":
            fitted = _resize(image, self._patched_size(image), self._resample)
        elif self.resize_mode == "squash":
            fitted = _resize(image, self.resized or self.size, self._resample)
            fitted = _center(fitted, self.size, 0, self.crop_down)
        elif self.resize_mode == "longest":
            fitted = _resize(image, self._longest_size(image), self._resample)
            fitted = _center(fitted, self.size, self.fill_color, self.crop_down)
        else:
            fitted = self._fit_shortest(image)
        return np.array(fitted)  # a copy: asarray would be read-only, which torch warns about

    def merge(self, override: PreprocessOverride) -> ImagePreprocess:
        """This preprocessing with every part that `override` sets put in its place."""
        changes: dict[str, Any] = override.model_dump(exclude_none=True)
        if isinstance(override.size, int):
            changes["size"] = (override.size, override.size)
        return dataclasses.replace(self, **changes)

    @property
    def _resample(self) -> Image.Resampling:
        return Image.Resampling[self.interpolation.upper()]

    def _longest_size(self, image: Image.Image) -> tuple[int, int]:
        height, width = self.size
        ratio = max(image.height / height, image.width / width)
        return max(1, round(image.height / ratio)), max(1, round(image.width / ratio))

    def _patched_size(self, image: Image.Image) -> tuple[int, int]:
        """Whole patches, as many as allowed, nearest to the image's aspect ratio.

        As SigLIP 2 is trained (Tschannen et al. 2025, NaFlex): the largest factor, found by
        bisection to 1e-5, at which both sides, rounded up to whole patches, are few enough.
        """
        side, most = self.patch_size or 1, self.max_patches or 1

        def patches(factor: float) -> tuple[int, int]:
            rows, columns = (
                max(1, math.ceil(length * factor / side)) for length in (image.height, image.width)
            )
            return rows, columns

        low, high = _PATCH_FACTOR_STEP / 10, _LARGEST_PATCH_FACTOR
        while high - low >= _PATCH_FACTOR_STEP:
            middle = (low + high) / 2
            rows, columns = patches(middle)
            low, high = (middle, high) if rows * columns <= most else (low, middle)
        rows, columns = patches(low)
        return rows * side, columns * side

    def _fit_shortest(self, image: Image.Image) -> Image.Image:
        height, width = self.size if self.resized is None else (min(self.resized),) * 2
        resample = self._resample
        if height == width:
            # torchvision's Resize with one number: the longer side is cut, not rounded.
            if image.width <= image.height:
                resized = (int(height * image.height / image.width), height)
            else:
                resized = (height, int(height * image.width / image.height))
        else:
            # open_clip's ResizeKeepRatio, which leaves the interpolation at its default here.
            resample = Image.Resampling.BICUBIC
            ratio = min(image.height / height, image.width / width)
            resized = (round(image.height / ratio), round(image.width / ratio))
        if resized[0] * resized[1] > MAX_RESIZED_PIXELS:
            return resize_center(image, resized, self.size, resample)
        return _center(_resize(image, resized, resample), self.size, 0, self.crop_down)


def resize_center(
    image: Image.Image,
    resized: tuple[int, int],
    size: tuple[int, int],
    resample: Image.Resampling,
) -> Image.Image:
    """The centre crop of a resized image, computed without the rest of it.

    Args:
        image: In mode RGB.
        resized: Height and width of the whole image after the resize; at least `size`.
        size: Height and width of the crop.
        resample: Interpolation.

    Returns:
        The crop; where the image is enlarged, which one of no more than 65,535 pixels a side
        always is to sizes up to 976, a value differs by one at most from resizing first.
    """
    top, left = round((resized[0] - size[0]) / 2), round((resized[1] - size[1]) / 2)
    down, across = image.height / resized[0], image.width / resized[1]
    # Pillow enlarges row-wise, then column-wise, and rounds and clips in between; with a box it
    # may choose the other order, so the two steps are spelled out.
    right = min((left + size[1]) * across, image.width)
    rows = image.resize(
        (size[1], image.height), resample, box=(left * across, 0, right, image.height)
    )
    bottom = min((top + size[0]) * down, image.height)
    return rows.resize((size[1], size[0]), resample, box=(0, top * down, size[1], bottom))


def _resize(image: Image.Image, size: tuple[int, int], resample: Image.Resampling) -> Image.Image:
    if (image.height, image.width) == size:
        return image
    return image.resize((size[1], size[0]), resample)


def _center(
    image: Image.Image, size: tuple[int, int], fill: int, crop_down: bool = False
) -> Image.Image:
    """Pads what is smaller than `size`, then crops the centre, rounding as torchvision does."""
    height, width = size
    pad_left, pad_top = max(0, width - image.width) // 2, max(0, height - image.height) // 2
    padded = (max(image.width, width), max(image.height, height))
    if padded != image.size:
        canvas = Image.new("RGB", padded, (fill, fill, fill))
        canvas.paste(image, (pad_left, pad_top))
        image = canvas
    top, left = round((image.height - height) / 2), round((image.width - width) / 2)
    if crop_down:
        top, left = (image.height - height) // 2, (image.width - width) // 2
    return image.crop((left, top, left + width, top + height))
