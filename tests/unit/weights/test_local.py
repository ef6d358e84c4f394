"""A model whose weights are elsewhere is the model that they make here."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from serve_app.config.document import Document, Origin
from serve_app.config.spec import ModelSpec
from serve_app.engine.loading import model_loader
from serve_app.errors import ConfigError, ModelLoadError
from serve_app.models.base import DualEncoder, Placement
from serve_app.models.factory import SimilarityModelFactory
from serve_app.models.registry import (
    DynamicModelRegistry,
    PoolPlacement,
    ResolvedModel,
    revision_of,
)
from serve_app.weights.cache import WeightsCache
from serve_app.weights.checksums import file_sha256
from tests.tiny_open_clip import CLIP_CONFIG, write_config, write_weights
from tests.weights_server import WeightsServer, serving

FP32 = Placement("cpu", "fp32", 1)


@pytest.fixture
def paths(tmp_path: Path) -> tuple[Path, Path]:
    config = write_config(tmp_path, CLIP_CONFIG)
    return config, write_weights(tmp_path / "weights.safetensors", CLIP_CONFIG)


@pytest.fixture
def server(paths: tuple[Path, Path]) -> Iterator[WeightsServer]:
    with serving({"/weights.safetensors": paths[1].read_bytes()}) as running:
        yield running


def resolved(spec: ModelSpec) -> ResolvedModel:
    fingerprint = SimilarityModelFactory().fingerprint(spec)
    return ResolvedModel("model", revision_of(spec, FP32, fingerprint), spec, FP32)


def test_it_is_the_same_model_with_the_same_revision(
    paths: tuple[Path, Path], server: WeightsServer, tmp_path: Path
) -> None:
    config, weights = paths
    sha256 = file_sha256(weights)
    url = server.url("/weights.safetensors")
    here = resolved(ModelSpec(architecture=str(config), pretrained=str(weights)))
    there = resolved(ModelSpec(architecture=str(config), pretrained=url, sha256=sha256))
    assert here.revision == there.revision
    load = model_loader(SimilarityModelFactory(), WeightsCache(tmp_path / "cache"))
    found = []
    for model in (here, there):
        loaded = load(model)
        assert isinstance(loaded.model, DualEncoder)
        found.append(loaded.model.encode_texts(["a red circle"]).embeddings)
        assert loaded.info.pretrained == model.spec.pretrained
        assert loaded.info.details["weights_sha256"] == sha256
        assert loaded.note is not None and "sha256" not in loaded.note
    np.testing.assert_array_equal(*found)


def test_without_a_checksum_it_says_what_its_revision_stands_for(
    paths: tuple[Path, Path], server: WeightsServer, tmp_path: Path
) -> None:
    spec = ModelSpec(architecture=str(paths[0]), pretrained=server.url("/weights.safetensors"))
    load = model_loader(SimilarityModelFactory(), WeightsCache(tmp_path / "cache"))
    note = load(resolved(spec)).note
    assert note is not None and "sha256" in note


def test_damaged_weights_and_a_missing_cache_are_told(
    paths: tuple[Path, Path], server: WeightsServer, tmp_path: Path
) -> None:
    url = server.url("/weights.safetensors")
    spec = ModelSpec(architecture=str(paths[0]), pretrained=url)
    with pytest.raises(ModelLoadError, match="there is no cache here"):
        model_loader(SimilarityModelFactory())(resolved(spec))
    server.files["/weights.safetensors"] = server.files["/weights.safetensors"][:5000]
    load = model_loader(SimilarityModelFactory(), WeightsCache(tmp_path / "cache"))
    with pytest.raises(ModelLoadError, match="cut short"):
        load(resolved(spec))


def declare(spec: dict[str, object]) -> tuple[str, ...]:
    """Faults where there are some, else notices."""
    registry = DynamicModelRegistry({"default": PoolPlacement()})
    try:
        return tuple(
            map(str, registry.update(Document({"m": spec}, Origin("models.yaml"))).notices)
        )
    except ConfigError as error:
        return tuple(f"FAULT {fault}" for fault in error.faults)


@pytest.mark.parametrize("backend", ["open_clip", "transformers", "torch_clip", "itm"])
def test_a_registry_takes_addresses(backend: str) -> None:
    spec: dict[str, object] = {"backend": backend, "pretrained": "s3://bucket/model.safetensors"}
    if backend == "open_clip":
        spec["architecture"] = "ViT-B-32"
    assert declare({**spec, "sha256": "0" * 64}) == ()
    (notice,) = declare(spec)
    assert "models pull" in notice
    (fault,) = declare({**spec, "pretrained": "http://models.example/a.pt"})
    assert fault.startswith("FAULT")
    assert "use https" in fault


def test_a_missing_driver_is_a_notice() -> None:
    spec = {"backend": "torch_clip", "pretrained": "gs://bucket/a.pt", "sha256": "0" * 64}
    (notice,) = declare(spec)
    assert "pip install 'serve-app[gs]'" in notice
