from pathlib import Path
from typing import Any

import pytest

from serve_app.config.spec import ModelSpec
from serve_app.errors import ModelLoadError
from serve_app.models.open_clip_architecture import Architecture, resolve_architecture
from serve_app.models.open_clip_weights import Weights, locate_weights
from serve_app.weights.checksums import verify_sha256

BUILTIN = resolve_architecture("ViT-B-32")


def locate(architecture: Architecture = BUILTIN, **fields: Any) -> Weights:
    return locate_weights(ModelSpec(**fields), architecture)


def test_checksum(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert verify_sha256(path, digest) == verify_sha256(path, None) == digest
    with pytest.raises(ModelLoadError) as caught:
        verify_sha256(path, "0" * 64)
    assert digest in str(caught.value)
    assert "0" * 64 in str(caught.value)


def test_random_weights_must_be_allowed() -> None:
    with pytest.raises(ModelLoadError, match="allow_random_weights"):
        locate(pretrained="random")
    weights = locate(pretrained="random", allow_random_weights=True, seed=5)
    assert weights.path is None
    assert "5" in weights.source


def test_local_file_and_folder(tmp_path: Path) -> None:
    one = tmp_path / "epoch_1.pt"
    one.touch()
    assert locate(pretrained=str(one)).path == one
    assert locate(pretrained=str(tmp_path)).path == one
    (tmp_path / "epoch_2.pt").touch()
    with pytest.raises(ModelLoadError, match=r"epoch_1\.pt, epoch_2\.pt"):
        locate(pretrained=str(tmp_path))
    best = tmp_path / "open_clip_model.safetensors"
    best.touch()
    assert locate(pretrained=str(tmp_path)).path == best


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match="laion2b_s34b_b79k"):  # a tag that there is
        locate(pretrained="laion9b")
    with pytest.raises(ModelLoadError, match="openai"):
        locate()
    with pytest.raises(ModelLoadError, match="none"):
        locate(pretrained=str(tmp_path))


def test_tag_without_network_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelLoadError, match=r"network.*HF_HOME.*HF_HUB_OFFLINE.*path") as caught:
        locate(pretrained="laion2b_s34b_b79k")
    assert caught.value.__cause__ is not None
