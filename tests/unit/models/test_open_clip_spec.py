from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest

from serve_app.config.spec import ModelSpec
from serve_app.errors import ModelLoadError
from serve_app.models.findings import Finding
from serve_app.models.open_clip_spec import (
    check,
    fingerprint,
    known_architectures,
    prefetch,
)

CONFIG = {"embed_dim": 8, "vision_cfg": {"width": 8}, "text_cfg": {"width": 8}}


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "small.json"
    path.write_text(json.dumps(CONFIG))
    return path


def spec(**fields: Any) -> ModelSpec:
    return ModelSpec(**{"architecture": "ViT-B-32", "pretrained": "openai", **fields})


def only(**fields: Any) -> Finding:
    (finding,) = check(spec(**fields))
    return finding


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_names_are_read_from_open_clip_itself() -> None:
    assert {"ViT-B-32", "RN50", "ViT-SO400M-14-SigLIP-384", "coca_ViT-B-32"} <= set(
        known_architectures()
    )


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"architecture": "ViT-B/32"},
        {"pretrained": "random", "allow_random_weights": True},
        {"sha256": "0" * 64},
        {"primary": "clipscore"},
        {"options": {"quick_gelu": True}},
    ],
)
def test_good_specs_have_no_findings(fields: dict[str, Any]) -> None:
    assert list(check(spec(**fields))) == []


@pytest.mark.parametrize(
    ("fields", "field", "words"),
    [
        ({"architecture": None}, "architecture", "is missing"),
        ({"architecture": "vit-b-33"}, "architecture", "did you mean 'ViT-B-32'?"),
        ({"architecture": "/no/such/file"}, "architecture", "no file or folder /no/such/file"),
        ({"architecture": "absent.json"}, "architecture", "there is no file absent.json"),
        ({"pretrained": None}, "pretrained", "is missing"),
        ({"pretrained": "random"}, "pretrained", "allow_random_weights: true"),
        ({"primary": "cosin"}, "primary", "did you mean 'cosine'?"),
        ({"options": {"quik_gelu": True}}, "options.quik_gelu", "did you mean 'quick_gelu'?"),
        ({"options": {"quick_gelu": 1}}, "options.quick_gelu", "must be true or false"),
    ],
)
def test_faults_are_named_by_their_field(fields: dict[str, Any], field: str, words: str) -> None:
    finding = only(**fields)
    assert finding.field == field
    assert words in finding.message
    assert finding.fault


def test_several_faults_are_all_found() -> None:
    found = check(spec(architecture=None, pretrained=None, primary="x", options={"y": 1}))
    assert [item.field for item in found] == ["architecture", "pretrained", "primary", "options.y"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "is not JSON"),
        ("[]", "embed_dim, vision_cfg, text_cfg missing"),
        ('{"embed_dim": 8, "vision_cfg": {}}', "text_cfg missing"),
        ('{"embed_dim": 8, "vision_cfg": {}, "text_cfg": 3}', "text_cfg must be a mapping"),
        ('{"model_cfg": {"embed_dim": 8}}', "vision_cfg, text_cfg missing"),
        ("\xff", "is not JSON"),
    ],
)
def test_files_that_are_no_architecture(config: Path, content: str, words: str) -> None:
    config.write_text(content, encoding="latin-1")
    finding = only(architecture=str(config))
    assert finding.field == "architecture"
    assert words in finding.message


def test_both_forms_of_files_and_folders_are_taken(config: Path) -> None:
    folder = config.parent / "folder"
    folder.mkdir()
    hub = {"model_cfg": CONFIG, "preprocess_cfg": {}}
    (folder / "open_clip_config.json").write_text(json.dumps(hub))
    (folder / "open_clip_model.safetensors").write_bytes(b"w")
    assert not check(spec(architecture=str(config)))
    assert not check(spec(architecture=str(folder / "open_clip_config.json")))
    assert not check(spec(architecture=str(folder), pretrained=None))
    assert fingerprint(spec(architecture=str(folder), pretrained=None))["weights"] == {
        "sha256": digest(b"w")
    }


def test_weights_that_are_elsewhere_are_a_notice() -> None:
    finding = only(pretrained="/models/absent.pt")
    assert finding == Finding(
        "pretrained", "/models/absent.pt is not on this machine; the replicas must have it", False
    )


def test_a_wrong_checksum_is_a_fault(tmp_path: Path) -> None:
    weights = tmp_path / "w.pt"
    weights.write_bytes(b"w")
    assert not check(spec(pretrained=str(weights), sha256=digest(b"w")))
    finding = only(pretrained=str(weights), sha256=digest(b"v"))
    assert finding.field == "sha256"
    assert digest(b"w") in finding.message


def test_a_folder_without_one_checkpoint_is_a_fault(tmp_path: Path) -> None:
    assert only(pretrained=f"{tmp_path}/").field == "pretrained"
    (tmp_path / "a.pt").write_bytes(b"a")
    assert not check(spec(pretrained=f"{tmp_path}/"))
    (tmp_path / "b.pt").write_bytes(b"b")
    assert only(pretrained=f"{tmp_path}/").fault


def test_tags_and_names_are_their_own_fingerprint() -> None:
    assert fingerprint(spec(pretrained="Laion2B-s34b")) == {
        "architecture": {"name": "ViT-B-32"},
        "weights": {"tag": "laion2b_s34b"},
    }
    random = spec(architecture="ViT-B/32", pretrained="random", seed=3)
    assert fingerprint(random) == {
        "architecture": {"name": "ViT-B-32"},
        "weights": {"random": 3},
    }


def test_files_are_known_by_content_not_by_path(config: Path, tmp_path: Path) -> None:
    weights = tmp_path / "a.pt"
    weights.write_bytes(b"weights")
    first = fingerprint(spec(architecture=str(config), pretrained=str(weights)))
    assert first == {
        "architecture": {"sha256": digest(config.read_bytes())},
        "weights": {"sha256": digest(b"weights")},
    }
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    config, weights = config.rename(moved / "c.json"), weights.rename(moved / "b.pt")
    assert fingerprint(spec(architecture=str(config), pretrained=str(weights))) == first


def test_replaced_weights_are_noticed_under_the_same_path(tmp_path: Path) -> None:
    weights = tmp_path / "a.pt"
    weights.write_bytes(b"one")
    asked = spec(pretrained=str(weights))
    before = fingerprint(asked)
    assert fingerprint(asked) == before
    other = tmp_path / "b"
    other.write_bytes(b"two")
    os.utime(other, ns=(weights.stat().st_atime_ns, weights.stat().st_mtime_ns))
    other.replace(weights)  # same path, size and time: only the inode tells
    assert fingerprint(asked)["weights"] == {"sha256": digest(b"two")}


def test_absent_weights_are_known_by_checksum_else_by_path() -> None:
    assert fingerprint(spec(pretrained="/m/a.pt"))["weights"] == {"unread": "/m/a.pt"}
    found = fingerprint(spec(pretrained="/m/a.pt", sha256="0" * 64))
    assert found["weights"] == {"sha256": "0" * 64}


@pytest.mark.parametrize(
    ("text_cfg", "file"),
    [
        ({"tokenizer_kwargs": {"bpe_path": "words.txt.gz"}}, "words.txt.gz"),
        ({"hf_tokenizer_name": "tokens"}, "tokens/tokenizer.json"),
        ({"hf_model_name": "tokens"}, "tokens/config.json"),
        ({"hf_tokenizer_name": "some/hub-name"}, "tokenizer_config.json"),
    ],
)
def test_local_tokenizers_are_part_of_the_architecture(
    config: Path, text_cfg: dict[str, Any], file: str
) -> None:
    config.write_text(json.dumps({**CONFIG, "text_cfg": text_cfg}))
    path = config.parent / file
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"one")
    asked = spec(architecture=str(config))
    before = fingerprint(asked)
    path.write_bytes(b"other")
    assert fingerprint(asked)["architecture"] != before["architecture"]
    assert fingerprint(asked)["weights"] == before["weights"]


def test_the_backend_itself_agrees() -> None:
    """The light module repeats what the backend knows, so as not to import torch."""
    import open_clip

    from serve_app.config import checkpoints
    from serve_app.models import open_clip as backend
    from serve_app.models import open_clip_architecture, open_clip_spec, open_clip_weights

    # Not equal: other tests register architectures of their own.
    assert set(known_architectures()) <= set(open_clip.list_models())
    assert set(open_clip_spec.OPTIONS) == set(backend.OPTIONS)
    assert open_clip_spec.RANDOM == open_clip_weights.RANDOM
    assert checkpoints.CONFIG_NAME == open_clip_architecture.CONFIG_NAME


def test_only_tags_are_fetched() -> None:
    prefetch(spec(pretrained="random", allow_random_weights=True))
    prefetch(spec(pretrained="/m/absent.pt"))
    with pytest.raises(ModelLoadError, match="neither a pretrained tag"):
        prefetch(spec(pretrained="no_such_tag"))
