"""Pixels must be open_clip's own, byte for byte: models were trained on exactly those."""

import subprocess
import sys

import numpy as np
import open_clip
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from serve_app.config.spec import PreprocessOverride
from serve_app.inputs import preprocess
from serve_app.inputs.preprocess import ImagePreprocess, resize_center


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def reference(image: Image.Image, ours: ImagePreprocess) -> np.ndarray:
    """The pixels of open_clip's transform before its ToTensor."""
    transform = open_clip.image_transform(
        ours.size,
        is_train=False,
        resize_mode=ours.resize_mode,
        interpolation=ours.interpolation,
        fill_color=ours.fill_color,
    )
    for step in transform.transforms:
        if type(step).__name__ in ("ToTensor", "MaybeToTensor"):
            break
        image = step(image)
    return np.asarray(image)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    width=st.integers(1, 90),
    height=st.integers(1, 90),
    size=st.one_of(
        st.integers(1, 48).map(lambda side: (side, side)),
        st.tuples(st.integers(1, 48), st.integers(1, 48)),
    ),
    mode=st.sampled_from(["shortest", "longest", "squash"]),
    interpolation=st.sampled_from(["bicubic", "bilinear"]),
    fill=st.sampled_from([0, 127, 255]),
)
def test_pixels_equal_open_clip(width, height, size, mode, interpolation, fill):
    ours = ImagePreprocess(size, mode, interpolation, fill_color=fill)
    image = noise(width, height, width * 100 + height)
    try:
        expected = reference(image, ours)
    except ValueError:  # a side rounded to 0 pixels, where open_clip fails
        assert mode == "longest"
        assert ours.apply(image).shape == (*size, 3)
        return
    np.testing.assert_array_equal(ours.apply(image), expected)


@pytest.mark.parametrize("mode", ["shortest", "longest", "squash"])
@pytest.mark.parametrize("dimensions", [(640, 480), (481, 641), (224, 224), (1000, 301), (30, 700)])
@pytest.mark.parametrize("size", [(224, 224), (256, 192), (384, 384)])
def test_usual_sizes_equal_open_clip(mode, dimensions, size):
    ours = ImagePreprocess(size, mode)
    image = noise(*dimensions)
    np.testing.assert_array_equal(ours.apply(image), reference(image, ours))


def test_result_is_writable_uint8_rgb():
    result = ImagePreprocess((16, 24)).apply(noise(30, 30))
    assert (result.shape, result.dtype, result.flags.writeable) == ((16, 24, 3), np.uint8, True)


def test_input_is_left_alone():
    image = noise(8, 8)
    before = image.tobytes()
    ImagePreprocess((8, 8)).apply(image)[:] = 0
    assert image.tobytes() == before


def test_extreme_aspect_ratio_takes_only_the_memory_of_the_crop():
    image = noise(60_000, 1)
    result = ImagePreprocess((224, 224)).apply(image)
    # Every row is the same, as the image has but one; the columns are the middle of it.
    assert (result == result[0]).all()
    assert np.ptp(result.astype(int)) > 0


@pytest.mark.parametrize("dimensions", [(700, 9), (9, 700), (1301, 2)])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_cropping_while_resizing_differs_by_one_level_at_most(dimensions, interpolation):
    ours = ImagePreprocess((32, 32), interpolation=interpolation)
    image = noise(*dimensions)
    width, height = image.size
    resized = (32 * height // width, 32) if width <= height else (32, 32 * width // height)
    resample = Image.Resampling[interpolation.upper()]
    cropped = np.asarray(resize_center(image, resized, (32, 32), resample))
    assert np.abs(cropped.astype(int) - reference(image, ours).astype(int)).max() <= 1


def test_bound_is_far_above_usual_images():
    # A panorama of 20:1 at the largest input of any public model still takes the exact way.
    assert preprocess.MAX_RESIZED_PIXELS > 560 * 560 * 20


def test_override_replaces_only_what_it_names():
    base = ImagePreprocess((224, 224), "longest", "bilinear", fill_color=9)
    assert base.merge(PreprocessOverride()) == base
    changed = base.merge(PreprocessOverride(size=64, resize_mode="squash", mean=(0.5, 0.5, 0.5)))
    assert changed == ImagePreprocess(
        (64, 64), "squash", "bilinear", mean=(0.5, 0.5, 0.5), fill_color=9
    )
    assert base.merge(PreprocessOverride(size=(32, 48))).size == (32, 48)
    assert base.merge(PreprocessOverride(fill_color=0)).fill_color == 0


def test_size_must_have_pixels():
    with pytest.raises(ValueError, match="at least 1 x 1"):
        ImagePreprocess((0, 5))


def test_inputs_import_no_model_library():
    code = (
        "import sys, serve_app.inputs.preprocess, serve_app.inputs.decode, serve_app.inputs.source;"
        "print([n for n in ('torch', 'torchvision', 'open_clip', 'ray') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
