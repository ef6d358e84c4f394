"""From images as the ingress fits them to what an image tower takes; knows no model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from serve_app.errors import ModelFailedError
from serve_app.inputs.preprocess import ImagePreprocess
from serve_app.models.base import Pixels


class PixelNormaliser:
    """Normalises as torchvision's ToTensor and Normalize do, in fp32, then casts.

    Args:
        preprocess: How images were fitted; has mean and standard deviation.
        device: Where the tower is.
        dtype: What it takes.
    """

    def __init__(
        self, preprocess: ImagePreprocess, device: torch.device, dtype: torch.dtype
    ) -> None:
        self._preprocess = preprocess
        self._device = device
        self._dtype = dtype
        self._mean = torch.tensor(preprocess.mean, dtype=torch.float32, device=device)
        self._std = torch.tensor(preprocess.std, dtype=torch.float32, device=device)

    def check(self, images: Sequence[Pixels]) -> None:
        """Looks whether images have the size and type that `preprocess` gives.

        Raises:
            ModelFailedError: One has not.
        """
        expected = (*self._preprocess.size, 3)
        for image in images:
            if image.shape != expected or image.dtype != np.uint8:
                raise _wrong(image, f"{expected} and uint8")

    def batch(self, images: Sequence[Pixels]) -> torch.Tensor:
        """Pixels (n, 3, height, width) on the device, of at least one image."""
        return self.normalised(np.stack(images)).permute(0, 3, 1, 2).to(self._dtype)

    def normalised(self, pixels: Pixels) -> torch.Tensor:
        """Of the same shape, on the device, in fp32; channels are the last axis."""
        found = torch.from_numpy(pixels).to(self._device).float()
        return found.div_(255).sub_(self._mean).div_(self._std)


class Patches(NamedTuple):
    """Images cut into patches, each with as many as it has and padding behind them.

    Attributes:
        values: Normalised, (n, length, patch height x patch width x 3), channels last.
        mask: 1 where a patch is, 0 where padding is, int32, (n, length).
        shapes: Rows and columns of patches of each image, int64, (n, 2).
    """

    values: torch.Tensor
    mask: torch.Tensor
    shapes: torch.Tensor


class PatchNormaliser(PixelNormaliser):
    """Cuts images of different sizes into patches.

    Padding goes to the longest of a batch, in steps: every other length is another shape, for
    which kernels are made and kept. It is masked, so it changes nothing but time.
    """

    _STEP = 32

    def check(self, images: Sequence[Pixels]) -> None:
        """As of the base, for any size of whole patches, as many as allowed."""
        side, most = self._preprocess.patch_size or 1, self._preprocess.max_patches or 1
        for image in images:
            height, width, channels = image.shape if image.ndim == 3 else (0, 0, 0)
            whole = height > 0 and height % side == 0 and width % side == 0 and channels == 3
            patches = (height // side) * (width // side)
            if not whole or not 0 < patches <= most or image.dtype != np.uint8:
                raise _wrong(image, f"up to {most} patches of ({side}, {side}, 3) and uint8")

    def patches(self, images: Sequence[Pixels]) -> Patches:
        """See `Patches`; at least one image."""
        side, most = self._preprocess.patch_size or 1, self._preprocess.max_patches or 1
        shapes = [(image.shape[0] // side, image.shape[1] // side) for image in images]
        longest = max(rows * columns for rows, columns in shapes)
        length = min(-(-longest // self._STEP) * self._STEP, most)
        values = torch.zeros(len(images), length, side * side * 3, device=self._device)
        mask = torch.zeros(len(images), length, dtype=torch.int32, device=self._device)
        for row, (image, (rows, columns)) in enumerate(zip(images, shapes, strict=True)):
            cut = self.normalised(np.ascontiguousarray(image))
            cut = cut.view(rows, side, columns, side, 3).transpose(1, 2)
            values[row, : rows * columns] = cut.reshape(rows * columns, -1)
            mask[row, : rows * columns] = 1
        return Patches(values.to(self._dtype), mask, torch.tensor(shapes, device=self._device))


def _wrong(image: Pixels, expected: str) -> ModelFailedError:
    return ModelFailedError(
        f"An image of shape {image.shape} and type {image.dtype} came where the model takes "
        f"{expected}; fit it with the model's `preprocess`."
    )
