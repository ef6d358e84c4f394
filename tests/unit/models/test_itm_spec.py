import json
from pathlib import Path
from typing import Any

import pytest

from serve_app.config.spec import ModelSpec
from serve_app.models.itm_spec import check, fingerprint


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "blip"}))
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    return tmp_path


def spec(folder: Path, **fields: Any) -> ModelSpec:
    return ModelSpec(backend="itm", **{"pretrained": str(folder), **fields})


def test_a_good_spec_has_no_findings(folder: Path) -> None:
    assert check(spec(folder)) == []
    assert check(spec(folder, options={"itc": True}, primary="itc")) == []
    hub = ModelSpec(
        backend="itm", pretrained="Salesforce/blip-itm-base-coco", options={"revision": "7eaa90c"}
    )
    assert check(hub) == []


def test_an_id_of_the_hub_without_a_commit_is_a_notice() -> None:
    (found,) = check(ModelSpec(backend="itm", pretrained="Salesforce/blip-itm-base-coco"))
    assert (found.field, found.fault) == ("options.revision", False)


@pytest.mark.parametrize(
    ("fields", "field", "told"),
    [
        ({"pretrained": None}, "pretrained", "is missing"),
        ({"options": {"itc": "yes"}}, "options.itc", "true or false"),
        ({"options": {"itm": True}}, "options.itm", "itc"),
        ({"options": {"revision": 3}}, "options.revision", "quotes"),
        ({"primary": "itc"}, "primary", "options.itc: true"),
        ({"primary": "cosine"}, "primary", "there are: itm"),
        ({"architecture": "blip"}, "architecture", "leave it out"),
        ({"sha256": "0" * 64}, "sha256", "but that of"),
    ],
)
def test_faults(fields: dict[str, Any], field: str, told: str, folder: Path) -> None:
    (found,) = check(spec(folder, **fields))
    assert found.field == field
    assert told in found.message


def test_the_fingerprint_is_of_contents(folder: Path) -> None:
    before = fingerprint(spec(folder))
    assert set(before["weights"]) == {"sha256"}
    (folder / "config.json").write_text(json.dumps({"model_type": "blip-2"}))
    assert fingerprint(spec(folder)) != before
    absent = ModelSpec(backend="itm", pretrained="/models/absent")
    assert fingerprint(absent) == {"weights": {"unread": "/models/absent"}}
