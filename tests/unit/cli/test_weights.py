"""`serve-app models pull | verify | warm`, as a person runs them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

from serve_app.cli import app
from tests.tiny_torch_clip import write_state
from tests.weights_server import WeightsServer, serving

Run = Callable[..., Result]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_state(tmp_path_factory.mktemp("weights") / "clip.safetensors")


@pytest.fixture
def server(weights: Path) -> Iterator[WeightsServer]:
    with serving({"/clip.safetensors": weights.read_bytes()}) as running:
        yield running


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a command with these models declared, and a cache of its own."""
    monkeypatch.setenv("SIMILARITY_CACHE_DIR", str(tmp_path / "cache"))

    def one(*arguments: str, **models: dict[str, Any]) -> Result:
        if models:
            monkeypatch.setenv("SIMILARITY_MODELS", yaml.safe_dump(models, sort_keys=False))
        return CliRunner().invoke(app, ["models", *arguments])

    return one


def clip(pretrained: object, **fields: Any) -> dict[str, Any]:
    return {"backend": "torch_clip", "pretrained": str(pretrained), **fields}


def test_pull_prints_the_checksum_that_a_spec_takes(
    run: Run, server: WeightsServer, weights: Path
) -> None:
    sha256 = hashlib.sha256(weights.read_bytes()).hexdigest()
    url = server.url("/clip.safetensors")
    result = run("pull", url)
    assert result.exit_code == 0
    assert sha256 in result.stdout
    declared = run("pull", far=clip(url, sha256=sha256), here=clip(weights))
    assert declared.exit_code == 0
    assert declared.stdout.count(f"sha256  {sha256}") == 2
    assert server.gets == ["/clip.safetensors"]


def test_pull_goes_on_after_a_failure(run: Run, server: WeightsServer) -> None:
    good, bad = server.url("/clip.safetensors"), server.url("/absent.safetensors")
    result = run("pull", "--json", bad=clip(bad), good=clip(good))
    assert result.exit_code == 1
    first, second = json.loads(result.stdout)["data"]
    assert first["error"]["code"] == "model_load_failed"
    assert Path(second["path"]).is_file()


def test_verify_tells_what_is_wrong(run: Run, server: WeightsServer, weights: Path) -> None:
    sha256 = hashlib.sha256(weights.read_bytes()).hexdigest()
    url = server.url("/clip.safetensors")
    models = {
        "right": clip(weights, sha256=sha256),
        "unchecked": clip(weights),
        "far": clip(url, sha256=sha256),
    }
    result = run("verify", "--json", **models)
    assert result.exit_code == 0
    found = {row["name"]: row["result"] for row in json.loads(result.stdout)["data"]}
    assert found == {"right": "ok", "unchecked": "no checksum", "far": "not here"}
    run("pull", "far")
    found = {
        row["name"]: row.get("result") for row in json.loads(run("verify", "--json").stdout)["data"]
    }
    assert found["far"] == "ok"
    (kept,) = (
        Path(row["path"]) for row in json.loads(run("verify", "far", "--json").stdout)["data"]
    )
    kept.write_bytes(kept.read_bytes()[:-1] + b"x")
    broken = run("verify")
    assert broken.exit_code == 1
    assert "far: `sha256` is" in broken.stderr


def test_warm_loads_each(run: Run, weights: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(weights.read_bytes()[:1000])
    result = run("warm", "--json", good=clip(weights), damaged=clip(damaged))
    assert result.exit_code == 1
    good, bad = json.loads(result.stdout)["data"]
    assert good["device"] == "cpu"
    assert good["bytes"] > 1_000_000
    assert good["load_seconds"] > 0
    assert "cut short" in bad["error"]["detail"]


def test_a_name_that_is_not_declared_is_told(run: Run, weights: Path) -> None:
    for command in ("pull", "verify", "warm"):
        result = run(command, "clipp", clip=clip(weights))
        assert result.exit_code == 2
        assert "clipp" in result.stderr
        assert "Declared are: clip" in result.stderr


def test_a_bad_address_is_told(run: Run) -> None:
    result = run("pull", "http://models.example/a.pt")
    assert result.exit_code == 1
    assert "use https" in result.stderr


def test_without_a_command_models_are_listed(run: Run, weights: Path) -> None:
    result = run(clip=clip(weights))
    assert result.exit_code == 0
    assert "clip@" in result.stdout
