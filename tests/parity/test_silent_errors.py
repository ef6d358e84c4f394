"""Errors that give plausible scores and no message, in every backend that could make them.

Further ones stand where they belong: padding and end of text in `test_transformers` and
`test_torch_clip`, quick GELU in `test_torch_clip` and `test_open_clip`.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from serve_app.config.spec import ModelSpec
from serve_app.inputs.decode import DecodeLimits, decode_image
from serve_app.inputs.preprocess import ImagePreprocess
from serve_app.models.base import DualEncoder, Placement
from serve_app.models.factory import SimilarityModelFactory
from tests import one_clip
from tests.one_clip import write_three
from tests.tiny_torch_clip import make_state

BACKENDS = ("open_clip", "transformers", "torch_clip")
TEXTS = ("a red circle", "two green triangles above a yellow star")


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., DualEncoder]:
    """Loads one CLIP through a backend, after its weights were changed."""

    def load_one(
        backend: str, precision: str, change: Callable[[dict[str, torch.Tensor]], None]
    ) -> DualEncoder:
        def changed(*args: Any) -> dict[str, torch.Tensor]:
            state = {name: tensor.float() for name, tensor in make_state(*args).items()}
            change(state)
            return state

        monkeypatch.setattr(one_clip, "make_state", changed)
        spec = ModelSpec(**write_three(tmp_path)[backend])
        model = SimilarityModelFactory().create(spec, Placement("cpu", precision, 1))
        assert isinstance(model, DualEncoder)
        model.load()
        return model

    return load_one


def _large_features(state: dict[str, torch.Tensor]) -> None:
    """Each number fits into fp16, and the square root of the sum of their squares does not."""
    state["visual.proj"] *= 1500
    state["text_projection"] *= 1500


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_norm_beyond_fp16_does_not_overflow(
    backend: str, load: Callable[..., DualEncoder], images: tuple[Image.Image, ...]
) -> None:
    """Normalised in fp16, an embedding divided by infinity is zero, and its cosine too."""
    half = load(backend, "fp16", _large_features)
    pixels = [half.preprocess.apply(image) for image in images]
    with torch.inference_mode():
        loaded: Any = half
        features = loaded._loaded.images(pixels)
    assert features.dtype == torch.float16
    assert features.isfinite().all(), "else the case is not the one that is meant"
    assert features.norm(dim=-1).isinf().any() or features.pow(2).sum(-1).isinf().any()
    full = load(backend, "fp32", _large_features)
    np.testing.assert_allclose(half.encode_images(pixels), full.encode_images(pixels), atol=0.02)
    np.testing.assert_allclose(
        half.encode_texts(TEXTS).embeddings, full.encode_texts(TEXTS).embeddings, atol=0.02
    )


def _usual_scale(state: dict[str, torch.Tensor]) -> None:
    state["logit_scale"].fill_(4.6052)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_the_logit_scale_is_not_rounded_with_the_weights(
    backend: str, precision: str, load: Callable[..., DualEncoder]
) -> None:
    """Its logarithm is stored: in bf16 that is 4.59 or 4.62, and a logit of 30 is off by 0.5."""
    model = load(backend, precision, _usual_scale)
    assert model.logit_scale == pytest.approx(float(np.exp(4.6052)), rel=1e-5)


def _image(mode: str) -> Image.Image:
    rng = np.random.default_rng(3)
    picture = Image.fromarray(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8)).resize((200, 150))
    if mode == "P":
        return picture.quantize(64)
    if mode == "PA":
        picture.putalpha(Image.linear_gradient("L").resize(picture.size))
        return picture.quantize(64, method=Image.Quantize.FASTOCTREE)
    return picture.convert(mode)


@pytest.mark.parametrize("mode", ["P", "PA", "1", "L"])
def test_images_are_converted_before_they_are_resized(mode: str) -> None:
    """A palette's numbers cannot be averaged: Pillow takes the nearest, another picture."""
    buffer = io.BytesIO()
    _image(mode).save(buffer, format="PNG")
    preprocess = ImagePreprocess((32, 32), resize_mode="squash")
    decoded = decode_image(buffer.getvalue(), DecodeLimits(10**6, 10**6))
    found = preprocess.apply(decoded.image)
    first = Image.open(io.BytesIO(buffer.getvalue()))
    if "transparency" not in first.info:
        np.testing.assert_array_equal(found, preprocess.apply(first.convert("RGB")))
    if mode in ("P", "1"):
        wrong = np.array(first.resize((32, 32)).convert("RGB"))
        assert np.abs(found.astype(int) - wrong).max() > 30, "it would be seen"
