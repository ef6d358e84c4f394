from pathlib import Path
from typing import Any

import pytest

from serve_app.config.spec import ModelSpec
from serve_app.models.torch_clip_spec import check, fingerprint
from serve_app.weights.checksums import file_sha256


def spec(**fields: Any) -> ModelSpec:
    return ModelSpec(backend="torch_clip", **fields)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "ViT-B-32.pt"
    path.write_bytes(b"weights")
    return path


def test_a_good_spec_has_no_findings(weights: Path) -> None:
    options = {"quick_gelu": False, "allow_torchscript": True}
    assert check(spec(pretrained=str(weights), options=options)) == []
    assert check(spec(pretrained=str(weights.parent), sha256=file_sha256(weights))) == []


@pytest.mark.parametrize(
    ("fields", "field", "told"),
    [
        ({"pretrained": None}, "pretrained", "is missing"),
        ({"options": {"quick_gelu": "sometimes"}}, "options.quick_gelu", "true or false"),
        ({"options": {"quickgelu": True}}, "options.quickgelu", "quick_gelu"),
        ({"sha256": "0" * 64}, "sha256", "but that of"),
        ({"architecture": "ViT-B-32"}, "architecture", "leave it out"),
        ({"primary": "cosin"}, "primary", "cosine"),
    ],
)
def test_faults(fields: dict[str, Any], field: str, told: str, weights: Path) -> None:
    (found,) = check(spec(**{"pretrained": str(weights), **fields}))
    assert found.field == field
    assert told in found.message
    assert found.fault


def test_a_folder_with_two_checkpoints_is_a_fault(weights: Path) -> None:
    (weights.parent / "other.pt").touch()
    (found,) = check(spec(pretrained=str(weights.parent)))
    assert "name the file" in found.message


def test_what_is_absent_here_may_be_on_the_replicas(weights: Path) -> None:
    (absent,) = check(spec(pretrained="/models/absent.pt"))
    assert not absent.fault
    options = {"vocabulary": "/models/absent.txt"}
    (absent,) = check(spec(pretrained=str(weights), options=options))
    assert (absent.field, absent.fault) == ("options.vocabulary", False)


def test_the_fingerprint_is_of_contents(weights: Path, tmp_path: Path) -> None:
    found = fingerprint(spec(pretrained=str(weights)))
    assert found == {"weights": {"sha256": file_sha256(weights)}}
    # The same whether the file is here or only its checksum is known.
    sha256 = file_sha256(weights)
    assert fingerprint(spec(pretrained="/models/absent.pt", sha256=sha256)) == found
    assert fingerprint(spec(pretrained="/absent.pt")) == {"weights": {"unread": "/absent.pt"}}
    vocabulary = tmp_path / "own.txt"
    vocabulary.write_text("# own")
    options = {"vocabulary": str(vocabulary)}
    with_own = fingerprint(spec(pretrained=str(weights), options=options))
    assert with_own["vocabulary"] == file_sha256(vocabulary)
