"""Files that were replaced after the revision was computed; a fake's weights are any file."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from serve_app.config.document import Document
from serve_app.config.faults import Origin
from serve_app.errors import ModelLoadError
from serve_app.models.factory import SimilarityModelFactory
from serve_app.models.identity import UNIDENTIFIED, check_identity
from serve_app.models.placement import PoolPlacement
from serve_app.models.registry import DynamicModelRegistry
from serve_app.models.snapshot import ResolvedModel
from tests.tiny_open_clip import CLIP_CONFIG

FAKE = {"backend": "serve_app.testing:FakeDualEncoder"}
FACTORY = SimilarityModelFactory()


def declared(**spec: Any) -> ResolvedModel:
    registry = DynamicModelRegistry({"default": PoolPlacement()})
    return registry.update(Document({"a": spec}, Origin("models"))).models["a"]


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(b"the first")
    return path


@pytest.fixture
def open_clip(tmp_path: Path, weights: Path) -> dict[str, str]:
    """An architecture's file and weights; nobody looks into these here."""
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": CLIP_CONFIG}))
    return {"architecture": str(tmp_path), "pretrained": str(weights)}


def test_files_that_are_the_same_pass(weights: Path, open_clip: dict[str, str]) -> None:
    for spec in ({**FAKE, "pretrained": str(weights)}, open_clip, {"architecture": weights.parent}):
        fields = {key: str(value) for key, value in spec.items()}
        assert check_identity(declared(**fields), FACTORY) is None


def test_weights_that_were_replaced_are_refused(weights: Path, open_clip: dict[str, str]) -> None:
    for spec in ({**FAKE, "pretrained": str(weights)}, open_clip):
        weights.write_bytes(b"the first")
        model = declared(**spec)
        weights.write_bytes(b"the second")
        now = declared(**spec)
        with pytest.raises(ModelLoadError) as refused:
            check_identity(model, FACTORY)
        assert f"{model.id}: its files have changed since" in refused.value.detail
        assert f"they make it {now.id} now" in refused.value.detail


def test_an_architecture_that_was_replaced_is_refused(open_clip: dict[str, str]) -> None:
    model = declared(**open_clip)
    config = Path(open_clip["architecture"], "open_clip_config.json")
    config.write_text(json.dumps({"model_cfg": {**CLIP_CONFIG, "embed_dim": 16}}))
    with pytest.raises(ModelLoadError, match="its files have changed since"):
        check_identity(model, FACTORY)
    config.write_text("{")
    with pytest.raises(ModelLoadError, match="its files cannot be read"):
        check_identity(model, FACTORY)


def test_a_wrong_checksum_is_told_as_such(weights: Path) -> None:
    expected = hashlib.sha256(b"the first").hexdigest()
    spec = {**FAKE, "pretrained": str(weights), "sha256": expected}
    model = declared(**spec)
    assert check_identity(model, FACTORY) is None
    weights.write_bytes(b"the second")
    with pytest.raises(ModelLoadError, match=f"`sha256` is {expected}, the file's is"):
        check_identity(model, FACTORY)


def test_weights_that_were_not_there_for_the_registry_are_noted(
    weights: Path, open_clip: dict[str, str]
) -> None:
    for spec in ({**FAKE, "pretrained": str(weights)}, open_clip):
        weights.unlink()
        model = declared(**spec)
        weights.write_bytes(b"the first")
        assert check_identity(model, FACTORY) == UNIDENTIFIED


def test_weights_that_were_not_there_are_known_by_their_checksum(
    weights: Path, open_clip: dict[str, str]
) -> None:
    weights.unlink()
    model = declared(**open_clip, sha256=hashlib.sha256(b"the first").hexdigest())
    weights.write_bytes(b"the first")
    assert check_identity(model, FACTORY) is None
    weights.write_bytes(b"the second")
    with pytest.raises(ModelLoadError, match="`sha256` is"):
        check_identity(model, FACTORY)


def test_what_is_not_there_now_is_left_to_the_backend(
    weights: Path, open_clip: dict[str, str]
) -> None:
    model = declared(**open_clip)
    weights.unlink()
    assert check_identity(model, FACTORY) is None


def test_names_without_files_need_no_check() -> None:
    model = declared(architecture="ViT-B-32", pretrained="laion2b_s34b_b79k")
    other = ResolvedModel(model.name, "00000000", model.spec, model.placement)
    assert check_identity(other, FACTORY) is None
