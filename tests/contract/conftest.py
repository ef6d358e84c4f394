"""One small model of every kind that a backend serves, for the contract suite."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from serve_app.config.spec import ModelSpec
from serve_app.models.base import DualEncoder, Pixels, Placement
from serve_app.models.open_clip import OpenClipModel
from serve_app.models.transformers_dual import TransformersModel
from tests.tiny_open_clip import (
    CLIP_CONFIG,
    RESNET_CONFIG,
    SIGLIP_CONFIG,
    write_config,
    write_weights,
)
from tests.tiny_transformers import FAMILIES


def _open_clip(config: dict[str, Any]) -> Callable[[Path], DualEncoder]:
    def make(folder: Path) -> DualEncoder:
        path = write_config(folder, config)
        weights = write_weights(folder / "weights.safetensors", config)
        spec = ModelSpec(architecture=str(path), pretrained=str(weights))
        return OpenClipModel(spec, Placement("cpu", "fp32", 1))

    return make


def _transformers(write: Callable[[Path], Path]) -> Callable[[Path], DualEncoder]:
    def make(folder: Path) -> DualEncoder:
        spec = ModelSpec(backend="transformers", pretrained=str(write(folder)))
        return TransformersModel(spec, Placement("cpu", "fp32", 1))

    return make


CASES: dict[str, Callable[[Path], DualEncoder]] = {
    "open_clip-vit": _open_clip(CLIP_CONFIG),
    "open_clip-resnet": _open_clip(RESNET_CONFIG),
    "open_clip-siglip": _open_clip(SIGLIP_CONFIG),
    **{f"transformers-{family}": _transformers(write) for family, write in FAMILIES.items()},
}


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(params=CASES)
def unloaded(request: pytest.FixtureRequest, tmp_path: Path) -> DualEncoder:
    return CASES[request.param](tmp_path)


@pytest.fixture(scope="module", params=CASES)
def model(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[DualEncoder]:
    loaded = CASES[request.param](tmp_path_factory.mktemp("model"))
    loaded.load()
    loaded.warmup()
    yield loaded
    loaded.unload()


@pytest.fixture
def images(model: DualEncoder) -> list[Pixels]:
    """Random pictures of two by two coloured fields: a tower that averages sees them apart."""
    rng = np.random.default_rng(1)
    height, width = model.preprocess.size
    field = np.ones((height // 2, width // 2, 1), dtype=np.uint8)
    return [np.kron(rng.integers(0, 256, (2, 2, 3), dtype=np.uint8), field) for _ in range(5)]
