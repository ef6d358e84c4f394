"""Small models of every backend, for the contract suite."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from serve_app.config.spec import ModelSpec
from serve_app.models.base import Placement, SimilarityModel
from serve_app.models.factory import SimilarityModelFactory
from serve_app.testing import fake_spec
from serve_app.testing.contract import ModelMaker
from tests.tiny_itm import HEADS
from tests.tiny_open_clip import (
    CLIP_CONFIG,
    RESNET_CONFIG,
    SIGLIP_CONFIG,
    write_config,
    write_weights,
)
from tests.tiny_preference import DUALS, PAIRS
from tests.tiny_torch_clip import RESNET, VIT, write_state
from tests.tiny_transformers import FAMILIES

SpecWriter = Callable[[Path], ModelSpec]
"""Writes what a small model needs into a folder, and says its spec."""


def _open_clip(config: dict[str, Any]) -> SpecWriter:
    def write(folder: Path) -> ModelSpec:
        path = write_config(folder, config)
        weights = write_weights(folder / "weights.safetensors", config)
        return ModelSpec(architecture=str(path), pretrained=str(weights))

    return write


def _torch_clip(config: dict[str, Any]) -> SpecWriter:
    def write(folder: Path) -> ModelSpec:
        path = write_state(folder / "openai.pt", config)
        return ModelSpec(backend="torch_clip", pretrained=str(path))

    return write


def _transformers(family: Callable[[Path], Path]) -> SpecWriter:
    return lambda folder: ModelSpec(backend="transformers", pretrained=str(family(folder)))


DUAL_ENCODERS: dict[str, SpecWriter] = {
    "open_clip-vit": _open_clip(CLIP_CONFIG),
    "open_clip-resnet": _open_clip(RESNET_CONFIG),
    "open_clip-siglip": _open_clip(SIGLIP_CONFIG),
    "torch_clip-vit": _torch_clip(VIT),
    "torch_clip-resnet": _torch_clip(RESNET),
    **{f"transformers-{family}": _transformers(write) for family, write in FAMILIES.items()},
    **{f"preference-{preset}": write for preset, write in DUALS.items()},
    "fake": lambda folder: fake_spec(),
}
"""By backend and, after a hyphen, kind."""

PAIR_SCORERS: dict[str, SpecWriter] = {
    **{f"itm-{family}": write for family, write in HEADS.items()},
    **{f"preference-{preset}": write for preset, write in PAIRS.items()},
    "itm-itc": lambda folder: HEADS["blip2"](folder, itc=True),
    "fake": lambda folder: fake_spec("FakePairScorer"),
}


def maker(write: SpecWriter, folder: Path) -> ModelMaker:
    """Makes models the way the service does."""
    spec, factory = write(folder), SimilarityModelFactory()

    def make(placement: Placement) -> SimilarityModel:
        return factory.create(spec, placement)

    return make


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)
