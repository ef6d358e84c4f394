"""Golden scores as an operator records and uses them, on a fake that the environment declares."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import Result
from PIL import Image
from typer.testing import CliRunner

from serve_app.cli import app

FAKE: dict[str, Any] = {"backend": "serve_app.testing:FakeDualEncoder"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "pairs").mkdir()
    Image.new("RGB", (16, 16), "red").save(tmp_path / "pairs" / "red.png")
    Image.new("RGB", (16, 16), "blue").save(tmp_path / "pairs" / "blue", "PNG")
    pairs = [
        {"image": "red.png", "text": "red"},
        {"image": "./blue", "text": "red", "scores": {"logit": 0, "clipscore": 0}},
    ]
    (tmp_path / "pairs" / "pairs.yaml").write_text(yaml.safe_dump({"pairs": pairs}))
    return tmp_path


def declare(monkeypatch: pytest.MonkeyPatch, **spec: Any) -> None:
    monkeypatch.setenv("SIMILARITY_MODELS", json.dumps({"fake": {**FAKE, **spec}}))


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def record(folder: Path, out: Path, *options: object, model: str = "fake", code: int = 0) -> str:
    pairs = folder / "pairs" / "pairs.yaml"
    result = run("record-parity", model, "--pairs", pairs, "--out", out, *options)
    assert result.exit_code == code, result.output
    return result.output


def score(folder: Path) -> Result:
    return run("score", folder / "pairs" / "red.png", "-t", "red", "--json")


def test_what_is_recorded_is_what_the_model_must_give(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = folder / "golden" / "golden.yaml"
    declare(monkeypatch)
    assert "2 golden pairs of fake@" in record(folder, out, "--tolerance", "0.001")
    golden = yaml.safe_load(out.read_text())
    assert golden["tolerance"] == 0.001
    assert [pair["image"] for pair in golden["pairs"]] == ["../pairs/red.png", "../pairs/blue"]
    assert [list(pair["scores"]) for pair in golden["pairs"]] == [
        ["cosine"],
        ["clipscore", "logit"],
    ]
    scored = json.loads(score(folder).stdout)["results"][0]["score"]
    assert golden["pairs"][0]["scores"]["cosine"] == pytest.approx(scored, abs=1e-5)
    assert [path.name for path in out.parent.iterdir()] == ["golden.yaml"]

    declare(monkeypatch, parity={"file": str(out)})
    assert score(folder).exit_code == 0
    declare(monkeypatch, parity={"file": str(out)}, options={"drift": 0.01})
    refused = score(folder)
    assert refused.exit_code == 1
    assert "2 of 3 golden scores are further than 0.001" in refused.output


def test_a_model_whose_scores_are_right_now_is_recorded_anew(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where its present golden scores refuse it, or their file is not there yet."""
    out = folder / "golden.json"
    declare(monkeypatch, parity={"file": str(out)}, options={"drift": -0.25})
    record(folder, out, "--metric", "cosine")
    first = json.loads(out.read_text())
    assert "tolerance" not in first
    assert all(list(pair["scores"]) == ["cosine"] for pair in first["pairs"])
    declare(monkeypatch, parity={"file": str(out)})
    result = run("record-parity", "fake", "--pairs", out, "--out", out)
    assert result.exit_code == 0, result.output
    second = json.loads(out.read_text())
    assert [pair["image"] for pair in second["pairs"]] == [pair["image"] for pair in first["pairs"]]
    for old, new in zip(first["pairs"], second["pairs"], strict=True):
        assert new["scores"]["cosine"] == pytest.approx(old["scores"]["cosine"] + 0.25, abs=1e-5)
    assert score(folder).exit_code == 0


def test_what_was_written_is_printed_as_json(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = folder / "golden.json"
    declare(monkeypatch)
    printed = json.loads(record(folder, out, "--json", "--tolerance", "0.5"))
    assert printed.pop("model").startswith("fake@")
    assert printed.pop("file") == str(out)
    assert printed == json.loads(out.read_text())


@pytest.mark.parametrize(
    ("model", "options", "spec", "code", "told"),
    [
        ("fale", (), {}, 2, "did you mean 'fake'?"),
        ("fake", ("--metric", "beauty"), {}, 1, "ask for beauty; it has cosine"),
        ("fake", (), {"options": {"fail_load": "the disk is on fire"}}, 1, "the disk is on fire"),
        ("fake", (), {"options": {"nan_text": "red"}}, 1, "gives no finite score for 'red'"),
        ("fake", ("--tolerance", "-1"), {}, 2, "tolerance"),
    ],
)
def test_what_cannot_be_recorded_writes_nothing(
    model: str,
    options: tuple[str, ...],
    spec: dict[str, Any],
    code: int,
    told: str,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    declare(monkeypatch, **spec)
    out = folder / "golden.yaml"
    assert told in record(folder, out, *options, model=model, code=code)
    assert not out.exists()


def test_faults_of_the_pairs_are_named_with_their_keys(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    declare(monkeypatch)
    pairs = folder / "pairs" / "pairs.yaml"
    pairs.write_text("pairs: [{image: red.png}, {image: red.png, text: a, score: 1}]")
    told = record(folder, folder / "golden.yaml", code=2)
    assert f"{pairs}:pairs.0.text: is missing" in told
    assert f"{pairs}:pairs.1.score: unknown key" in told
    pairs.unlink()
    assert str(pairs) in record(folder, folder / "golden.yaml", code=2)
