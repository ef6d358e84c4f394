import json
from pathlib import Path
from typing import Any

import pytest

from serve_app.config.spec import ModelSpec
from serve_app.errors import ModelLoadError
from serve_app.models.factory import SimilarityModelFactory
from serve_app.models.preference_spec import PRESETS, check, fingerprint, hps_spec


def spec(architecture: str | None = "hpsv2", **fields: Any) -> ModelSpec:
    return ModelSpec(backend="preference", architecture=architecture, **fields)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "weights.pt"
    path.write_bytes(b"weights")
    return path


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_needs_nothing_but_its_name(preset: str) -> None:
    assert [finding for finding in check(spec(preset)) if finding.fault] == []
    assert fingerprint(spec(preset))["preset"] == preset
    assert set(PRESETS) == set(SimilarityModelFactory.BUILT_IN["preference"].presets)


@pytest.mark.parametrize(
    ("fields", "field", "told"),
    [
        ({"architecture": "hpsv3"}, "architecture", "hpsv2"),
        ({"architecture": None}, "architecture", "there are: pickscore"),
        ({"options": {"bases": "x"}}, "options.bases", "base"),
        ({"options": {"base": 3}}, "options.base", "a name or a path"),
        ({"options": {"base": "ViT-H-15"}}, "options.base", "ViT-H-1"),
        ({"primary": "reward"}, "primary", "it has cosine"),
        ({"architecture": "imagereward", "primary": "cosine"}, "primary", "it has reward"),
        ({"architecture": "pickscore", "pretrained": "a b"}, "pretrained", "neither a folder"),
        ({"sha256": "0" * 64}, "sha256", "but that of"),
    ],
)
def test_faults(fields: dict[str, Any], field: str, told: str, weights: Path) -> None:
    given = {"pretrained": str(weights), **fields}
    if fields.get("architecture") in ("pickscore", "imagereward") and "pretrained" not in fields:
        del given["pretrained"]
    (found,) = check(spec(**given))
    assert (found.field, found.fault) == (field, True)
    assert told in found.message


def test_what_is_absent_here_may_be_on_the_replicas() -> None:
    (found,) = check(spec(pretrained="/models/absent.pt"))
    assert not found.fault


def test_a_folder_without_one_checkpoint_is_a_fault(tmp_path: Path) -> None:
    (found,) = check(spec(pretrained=str(tmp_path)))
    assert found.fault
    assert "name the file" in found.message


def test_the_fingerprint_is_of_preset_base_and_weights(weights: Path, tmp_path: Path) -> None:
    found = fingerprint(spec(pretrained=str(weights)))
    again = fingerprint(spec(pretrained="/absent.pt", sha256=found["weights"]["sha256"]))
    assert again == found, "the same whether the file is here or only its checksum is known"
    assert fingerprint(spec("hpsv2.1", pretrained=str(weights))) != found
    base = tmp_path / "base.json"
    base.write_text(json.dumps({"embed_dim": 1}))
    options = {"base": str(base)}
    with_base = fingerprint(spec(pretrained=str(weights), options=options))
    base.write_text(json.dumps({"embed_dim": 2}))
    assert fingerprint(spec(pretrained=str(weights), options=options)) != with_base
    assert fingerprint(spec(pretrained="/a.pt"))["weights"] == {"unread": "/a.pt"}
    with pytest.raises(ModelLoadError, match="no preset"):
        fingerprint(spec("hpsv3"))


def test_hpsv2_fits_the_whole_image_unless_the_spec_says_otherwise() -> None:
    assert hps_spec(spec(), "w.pt").preprocessing.resize_mode == "longest"
    own = spec(preprocessing={"resize_mode": "squash"})
    assert hps_spec(own, "w.pt").preprocessing.resize_mode == "squash"
