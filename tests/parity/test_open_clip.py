"""The backend's scores equal open_clip's own, in process, on the same decoded pixels."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from serve_app.config.spec import ModelSpec
from serve_app.models.base import Placement
from serve_app.models.open_clip import OpenClipModel
from tests.parity.conftest import TEXTS
from tests.parity.reference import Reference, compute_reference

COSINE_BOUND = 1e-5
BF16_COSINE_BOUND = 0.01
"""Largest error of a cosine at bf16 that docs/models.md promises (measured: 0.002)."""


def scores_of(
    spec: ModelSpec, images: tuple[Image.Image, ...], precision: str = "fp32"
) -> tuple[np.ndarray, np.ndarray, OpenClipModel]:
    model = OpenClipModel(spec, Placement("cpu", precision, 1))
    model.load()
    pixels = [model.preprocess.apply(image) for image in images]
    scores = model.compute_similarity([(image, text) for image in pixels for text in TEXTS])
    shape = (len(images), len(TEXTS))
    cosine = np.array([score["cosine"] for score in scores]).reshape(shape)
    logit = np.array([score["logit"] for score in scores]).reshape(shape)
    return cosine, logit, model


def check(reference: Reference, cosine: np.ndarray, logit: np.ndarray) -> None:
    assert np.std(reference.cosine) > 1e-3  # else equality would mean nothing
    assert np.abs(cosine - reference.cosine).max() <= COSINE_BOUND
    assert np.abs(logit - reference.logit).max() <= COSINE_BOUND * reference.logit_scale


@pytest.mark.parametrize(
    ("architecture", "checkpoint"),
    [(name, name) for name in ("ViT-B-32", "RN50", "coca_ViT-B-32")],
    indirect=["checkpoint"],
)
def test_scores_equal_open_clip(
    architecture: str, checkpoint: Path, images: tuple[Image.Image, ...]
) -> None:
    reference = compute_reference(architecture, images, TEXTS, checkpoint)
    spec = ModelSpec(architecture=architecture, pretrained=str(checkpoint))
    cosine, logit, model = scores_of(spec, images)
    check(reference, cosine, logit)
    assert model.capabilities.primary == "cosine"
    assert model.logit_scale == pytest.approx(reference.logit_scale, rel=1e-6)


def test_siglip_scores_equal_open_clip(
    siglip_folder: Path, images: tuple[Image.Image, ...]
) -> None:
    reference = compute_reference(f"local-dir:{siglip_folder}", images, TEXTS)
    cosine, logit, model = scores_of(ModelSpec(architecture=str(siglip_folder)), images)
    check(reference, cosine, logit)
    assert model.logit_bias == -10
    assert model.capabilities.primary == "probability"
    assert model.preprocess.resize_mode == "squash"
    assert model.preprocess.mean == (0.5, 0.5, 0.5)


@pytest.mark.parametrize("checkpoint", ["ViT-B-32"], indirect=True)
def test_bf16_stays_near_fp32(checkpoint: Path, images: tuple[Image.Image, ...]) -> None:
    spec = ModelSpec(architecture="ViT-B-32", pretrained=str(checkpoint))
    full, full_logit, model = scores_of(spec, images)
    half, half_logit, _ = scores_of(spec, images, "bf16")
    assert np.abs(half - full).max() <= BF16_COSINE_BOUND
    assert np.abs(half_logit - full_logit).max() <= BF16_COSINE_BOUND * model.logit_scale
    assert np.abs(half - full).max() > 0  # it did compute in bf16
