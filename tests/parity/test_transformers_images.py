"""Pixels equal those of the transformers library's image processors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from transformers.models.siglip2.image_processing_pil_siglip2 import (
    get_image_size_for_max_num_patches,
)

from serve_app.errors import ModelLoadError
from serve_app.inputs.preprocess import ImagePreprocess
from serve_app.models.transformers_images import image_preprocess

SIZES = ((64, 48), (31, 90), (200, 7), (33, 33))


def pictures() -> list[Image.Image]:
    rng = np.random.default_rng(5)
    return [
        Image.fromarray(rng.integers(0, 256, (6, 5, 3), dtype=np.uint8)).resize(size)
        for size in SIZES
    ]


def normalised(preprocess: ImagePreprocess, image: Image.Image) -> NDArray[np.float64]:
    pixels = preprocess.apply(image).astype(np.float64) / 255
    found: NDArray[np.float64] = (pixels - preprocess.mean) / preprocess.std
    return found.transpose(2, 0, 1)


@pytest.mark.parametrize("offset", [False, True])
@pytest.mark.parametrize("top", [False, True])
@pytest.mark.parametrize("normalise", [False, True])
@pytest.mark.parametrize("crop", [False, True])
def test_efficientnets_values_are_scaled_and_moved(
    offset: bool, top: bool, normalise: bool, crop: bool
) -> None:
    """ALIGN's processor: its numbers are no mean and deviation, and can be put as such."""
    processor: Any = transformers.EfficientNetImageProcessorPil(
        size={"height": 40, "width": 40},
        crop_size={"height": 33, "width": 33},
        do_center_crop=crop,
        rescale_factor=1 / 127.5 if offset else 1 / 255,
        rescale_offset=offset,
        do_normalize=normalise,
        include_top=top,
    )
    own = image_preprocess(processor)
    for image in pictures():
        expected = np.array(processor(images=[image])["pixel_values"][0])
        np.testing.assert_allclose(normalised(own, image), expected, atol=2e-5)


@pytest.mark.parametrize("most", [16, 30, 64])
def test_patches_are_as_many_and_the_same(most: int) -> None:
    processor: Any = transformers.Siglip2ImageProcessorPil(patch_size=8, max_num_patches=most)
    own = image_preprocess(processor)
    assert own.resize_mode == "patches"
    assert not own.fixed
    for image in pictures():
        found = normalised(own, image)
        expected = processor(images=[image])
        rows, columns = expected["spatial_shapes"][0]
        assert found.shape == (3, 8 * rows, 8 * columns)
        patches = found.reshape(3, rows, 8, columns, 8).transpose(1, 3, 2, 4, 0)
        known = np.array(expected["pixel_values"][0])[: rows * columns]
        np.testing.assert_allclose(patches.reshape(rows * columns, -1), known, atol=1e-5)


@settings(max_examples=300, deadline=None)
@given(
    st.integers(1, 20_000), st.integers(1, 20_000), st.sampled_from([8, 14, 16, 32]),
    st.integers(1, 1024),
)  # fmt: skip
def test_any_size_is_given_the_librarys(height: int, width: int, side: int, most: int) -> None:
    own = ImagePreprocess((side, side), resize_mode="patches", patch_size=side, max_patches=most)
    image: Any = type("Size", (), {"height": height, "width": width})()
    expected = get_image_size_for_max_num_patches(height, width, side, most)
    assert own._patched_size(image) == expected


def test_more_patches_can_be_asked_for() -> None:
    processor: Any = transformers.Siglip2ImageProcessorPil(patch_size=8, max_num_patches=16)
    assert image_preprocess(processor, max_patches=100).size == (80, 80)
    fixed: Any = transformers.CLIPImageProcessorPil()
    with pytest.raises(ModelLoadError, match="NaFlex"):
        image_preprocess(fixed, max_patches=100)


def test_patches_need_their_numbers() -> None:
    with pytest.raises(ValueError, match="patch_size"):
        ImagePreprocess((16, 16), resize_mode="patches")
