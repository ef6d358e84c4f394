"""Small models of every backend, for the contract suite."""

import atexit
import functools
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch

from serve_app.config.defaults import WEIGHTS_FOLDER
from serve_app.config.spec import ModelSpec
from serve_app.models.base import Placement, SimilarityModel
from serve_app.models.factory import SimilarityModelFactory
from serve_app.testing import fake_spec
from serve_app.testing.contract import ModelMaker
from tests.remote_server import serving
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

DEMO = {
    "architecture": str(WEIGHTS_FOLDER / "demo.json"),
    "pretrained": str(WEIGHTS_FOLDER / "demo.safetensors"),
    "precision": "fp32",
}

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


_closing = ExitStack()
atexit.register(_closing.close)


@functools.cache
def _remote_url() -> str:
    """A service in this process, for as long as the process is."""
    return _closing.enter_context(serving({"demo": DEMO})).url


def _remote(kind: str) -> SpecWriter:
    def write(folder: Path) -> ModelSpec:
        options: dict[str, Any] = {"url": _remote_url(), "model": "demo"}
        preprocessing: dict[str, Any] = {}
        if kind == "embeddings":
            preprocessing = {"size": 64, "resize_mode": "longest", "fill_color": 255}
            options |= {"url": f"{_remote_url()}/v1", "context_length": 24}
        return ModelSpec(
            backend="remote", architecture=kind, options=options, preprocessing=preprocessing
        )

    return write


DUAL_ENCODERS: dict[str, SpecWriter] = {
    "open_clip-vit": _open_clip(CLIP_CONFIG),
    "open_clip-resnet": _open_clip(RESNET_CONFIG),
    "open_clip-siglip": _open_clip(SIGLIP_CONFIG),
    "torch_clip-vit": _torch_clip(VIT),
    "torch_clip-resnet": _torch_clip(RESNET),
    **{f"transformers-{family}": _transformers(write) for family, write in FAMILIES.items()},
    **{f"preference-{preset}": write for preset, write in DUALS.items()},
    "remote-embeddings": _remote("embeddings"),
    "fake": lambda folder: fake_spec(),
}
"""By backend and, after a hyphen, kind."""

PAIR_SCORERS: dict[str, SpecWriter] = {
    **{f"itm-{family}": write for family, write in HEADS.items()},
    **{f"preference-{preset}": write for preset, write in PAIRS.items()},
    "itm-itc": lambda folder: HEADS["blip2"](folder, itc=True),
    "remote-service": _remote("service"),
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
