from __future__ import annotations

from pathlib import Path

import pytest

from serve_app.config.shorthand import model_name, shorthand_document
from serve_app.config.sources import source_from_environment
from serve_app.config.spec import NAME_PATTERN
from serve_app.errors import ConfigError


def refused(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        shorthand_document(text)
    (fault,) = caught.value.faults
    assert fault.key == "SIMILARITY_MODEL"
    return fault.message


def test_a_pair_of_open_clip() -> None:
    document = shorthand_document("ViT-B-32/laion2b_s34b_b79k")
    assert document.models == {
        "vit-b-32": {
            "backend": "open_clip",
            "architecture": "ViT-B-32",
            "pretrained": "laion2b_s34b_b79k",
            "preload": True,
        }
    }
    assert document.key(("vit-b-32", "pretrained")) == "SIMILARITY_MODEL.pretrained"


def test_it_is_the_only_model_of_the_environment() -> None:
    source = source_from_environment({"SIMILARITY_MODEL": "RN50/openai"})
    assert source is not None
    assert list(source.read().models) == ["rn50"]


def test_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "My Model"
    folder.mkdir()
    assert "has no open_clip_config.json" in refused(str(folder))
    (folder / "open_clip_config.json").write_text("{}")
    assert "no weights" in refused(str(folder))
    (folder / "weights.pt").write_bytes(b"")
    spec = shorthand_document(str(folder)).models["my-model"]
    assert spec["pretrained"] == str(folder / "weights.pt")
    assert spec["architecture"] == str(folder / "open_clip_config.json")
    (folder / "more.bin").write_bytes(b"")
    assert "several" in refused(str(folder))
    (folder / "open_clip_model.safetensors").write_bytes(b"")
    spec = shorthand_document(str(folder)).models["my-model"]
    assert spec["pretrained"] == str(folder / "open_clip_model.safetensors")


def test_a_checkpoint_file(tmp_path: Path) -> None:
    checkpoint = tmp_path / "tuned.safetensors"
    assert "no file or folder" in refused(str(checkpoint))
    checkpoint.write_bytes(b"")
    assert "neither tuned.json nor open_clip_config.json" in refused(str(checkpoint))
    (tmp_path / "open_clip_config.json").write_text("{}")
    spec = shorthand_document(str(checkpoint)).models["tuned"]
    assert spec["architecture"] == str(tmp_path / "open_clip_config.json")
    (tmp_path / "tuned.json").write_text("{}")
    spec = shorthand_document(str(checkpoint)).models["tuned"]
    assert spec["architecture"] == str(tmp_path / "tuned.json")


@pytest.mark.parametrize("text", ["ViT-B-32", "/openai", "ViT-B-32/", "/no/such/folder", "x.pt"])
def test_what_is_none_of_these_says_what_is(text: str) -> None:
    assert "ARCHITECTURE/TAG" in refused(text)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("ViT-SO400M-14-SigLIP-384", "vit-so400m-14-siglip-384"),
        ("ViT-B/32", "vit-b-32"),
        ("..odd name..", "odd-name"),
        ("é", "main"),
        ("x" * 100, "x" * 63),
    ],
)
def test_names_are_valid(text: str, name: str) -> None:
    assert model_name(text) == name
    assert NAME_PATTERN.fullmatch(name)
