"""Scores over HTTP equal open_clip's own computation on the same decoded pixels."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.integration.support import Deploy, Running
from tests.parity.conftest import TEXTS, images, siglip_folder  # noqa: F401 - fixtures
from tests.parity.reference import Reference, compute_reference, write_random_checkpoint

pytestmark = pytest.mark.slow

COSINE_BOUND = 1e-5
BUILT_IN = {"vit": "ViT-B-32", "resnet": "RN50", "coca": "coca_ViT-B-32"}


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Random weights of each architecture, in files."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("checkpoints")
    return {
        name: write_random_checkpoint(architecture, folder / f"{name}.safetensors")
        for name, architecture in BUILT_IN.items()
    }


@pytest.fixture(scope="module")
def served(
    deploy: Deploy,
    checkpoints: dict[str, Path],
    siglip_folder: Path,  # noqa: F811
) -> Iterator[Running]:
    specs = {
        name: {
            "architecture": BUILT_IN[name],
            "pretrained": str(path),
            "precision": "fp32",
        }
        for name, path in checkpoints.items()
    }
    specs["siglip"] = {"architecture": str(siglip_folder), "precision": "fp32"}
    yield deploy(models=specs)


def data_uri(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


@pytest.mark.parametrize("name", [*BUILT_IN, "siglip"])
def test_scores_over_http_equal_open_clip(
    served: Running,
    checkpoints: dict[str, Path],
    siglip_folder: Path,  # noqa: F811
    images: tuple[Image.Image, ...],  # noqa: F811
    name: str,
) -> None:
    reference: Reference
    if name == "siglip":
        reference = compute_reference(f"local-dir:{siglip_folder}", images, TEXTS)
    else:
        reference = compute_reference(BUILT_IN[name], images, TEXTS, checkpoints[name])
    body = {"model": name, "images": [data_uri(image) for image in images], "texts": list(TEXTS)}
    answer = served.http.post("/v1/score", json=body)
    assert answer.status_code == 200, answer.text
    results = answer.json()["results"]
    shape = reference.cosine.shape
    cosine = np.array([item["scores"]["cosine"] for item in results]).reshape(shape)
    logit = np.array([item["scores"]["logit"] for item in results]).reshape(shape)
    assert np.std(reference.cosine) > 1e-3  # else equality would mean nothing
    assert np.abs(cosine - reference.cosine).max() <= COSINE_BOUND
    assert np.abs(logit - reference.logit).max() <= COSINE_BOUND * reference.logit_scale
    if name == "siglip":
        probability = np.array([item["score"] for item in results]).reshape(shape)
        np.testing.assert_allclose(probability, 1 / (1 + np.exp(-logit)), rtol=1e-9)
