"""Specifications that cannot be loaded: one error with a code, and nothing half loaded."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from serve_app.config.spec import ModelSpec
from serve_app.engine.loading import model_loader
from serve_app.errors import ModelLoadError, ServeAppError
from serve_app.models.base import Placement
from serve_app.models.factory import SimilarityModelFactory
from serve_app.models.registry import ResolvedModel
from tests.one_clip import write_three
from tests.tiny_torch_clip import RESNET, make_state, write_state
from tests.tiny_transformers import siglip

Spoil = Callable[[Path, dict[str, Any]], None]


def _file_of(spec: dict[str, Any]) -> Path:
    path = Path(spec["pretrained"])
    return path / "model.safetensors" if path.is_dir() else path


def _unknown_architecture(folder: Path, spec: dict[str, Any]) -> None:
    if spec["backend"] == "open_clip":
        spec["architecture"] = "ViT-B-23"
    elif spec["backend"] == "transformers":
        path = Path(spec["pretrained"], "config.json")
        path.write_text(json.dumps({**json.loads(path.read_text()), "model_type": "clap2"}))
    else:
        state = {f"encoder.{name}": tensor for name, tensor in make_state().items()}
        torch.save(state, _file_of(spec))


def _other_weights(folder: Path, spec: dict[str, Any]) -> None:
    if spec["backend"] == "transformers":
        other = siglip(folder / "other") / "model.safetensors"
        _file_of(spec).write_bytes(other.read_bytes())
    elif spec["backend"] == "open_clip":
        _file_of(spec).unlink()
        write_state(_file_of(spec), RESNET)
    else:
        state = make_state()
        del state["ln_final.bias"]
        torch.save(state, _file_of(spec))


def _missing(folder: Path, spec: dict[str, Any]) -> None:
    _file_of(spec).unlink()


def _truncated(folder: Path, spec: dict[str, Any]) -> None:
    path = _file_of(spec)
    path.write_bytes(path.read_bytes()[:-1000])


def _checksum(folder: Path, spec: dict[str, Any]) -> None:
    spec["sha256"] = "0" * 64


def _option(folder: Path, spec: dict[str, Any]) -> None:
    spec["options"] = {"quick_gellu": True}


def _primary(folder: Path, spec: dict[str, Any]) -> None:
    spec["primary"] = "probability"


def _size(folder: Path, spec: dict[str, Any]) -> None:
    spec["preprocessing"] = {"size": 48}


ROWS: dict[str, tuple[Spoil, str]] = {
    "an architecture that is not known": (
        _unknown_architecture,
        "ViT-B-32|clap2|no CLIP in OpenAI's format",
    ),
    "weights for another architecture": (_other_weights, "architecture|mismatch|missing"),
    "a missing file": (_missing, r"exists|cannot be loaded|is no file|cannot be read"),
    "truncated weights": (_truncated, "cut short|incomplete|failed|cannot be"),
    "a wrong checksum": (_checksum, "0{64}"),
    "a metric that it has not": (_primary, "primary: probability"),
    "another image size": (_size, "48"),
}


@pytest.mark.parametrize("backend", ["open_clip", "transformers", "torch_clip"])
@pytest.mark.parametrize("row", ROWS)
def test_it_is_told_and_nothing_is_half_loaded(row: str, backend: str, tmp_path: Path) -> None:
    spoil, words = ROWS[row]
    spec = write_three(tmp_path)[backend]
    spoil(tmp_path, spec)
    model = SimilarityModelFactory().create(ModelSpec(**spec), Placement("cpu", "fp32", 1))
    with pytest.raises(ModelLoadError, match=words) as caught:
        model.load()
    assert caught.value.code == "model_load_failed"
    assert "Traceback" not in str(caught.value)
    with pytest.raises(ServeAppError, match="not loaded"):
        _ = model.capabilities
    # The way that the service goes; the revision is whatever it was.
    resolved = ResolvedModel("bad", "00000000", ModelSpec(**spec), Placement("cpu", "fp32", 1))
    with pytest.raises(ModelLoadError):
        model_loader(SimilarityModelFactory())(resolved)


@pytest.mark.parametrize("backend", ["open_clip", "transformers", "torch_clip"])
def test_what_can_be_seen_without_loading_is_seen(backend: str, tmp_path: Path) -> None:
    factory = SimilarityModelFactory()
    spec = write_three(tmp_path)[backend]
    assert factory.check(ModelSpec(**spec)) == ()
    for spoil, field in ((_checksum, "sha256"), (_option, "options.quick_gellu")):
        changed = dict(spec)
        spoil(tmp_path, changed)
        (found,) = factory.check(ModelSpec(**changed))
        assert (found.field, found.fault) == (field, True)


def _run(program: str, **environment: str) -> str:
    run = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
    )
    assert run.returncode == 0, run.stderr
    return run.stdout


_LOAD = """
from serve_app.config.spec import ModelSpec
from serve_app.errors import ServeAppError
from serve_app.models.base import Placement
from serve_app.models.factory import SimilarityModelFactory
kind = "service" if {backend!r} == "remote" else None
spec = ModelSpec(backend={backend!r}, architecture=kind, pretrained={pretrained!r})
try:
    SimilarityModelFactory().create(spec, Placement("cpu", "fp32", 1)).load()
except ServeAppError as error:
    print(error.code, error)
"""


@pytest.mark.parametrize(
    ("backend", "package", "extra"),
    [
        ("transformers", "transformers", "transformers"),
        ("itm", "transformers", "transformers"),
        ("remote", "pybreaker", "remote"),
    ],
)
def test_a_missing_extra_is_told_with_the_command_that_installs_it(
    backend: str, package: str, extra: str
) -> None:
    program = f"import sys\nsys.modules[{package!r}] = None\n"
    told = _run(program + _LOAD.format(backend=backend, pretrained="/models/any"))
    assert told.startswith("missing_extra ")
    assert f"pip install 'serve-app[{extra}]'" in told


_PULL = """
from serve_app.config.spec import ModelSpec
from serve_app.errors import ServeAppError
from serve_app.models.factory import SimilarityModelFactory
try:
    SimilarityModelFactory().prefetch(ModelSpec(backend={backend!r}, {fields}))
except ServeAppError as error:
    print(error.code, error)
"""


@pytest.mark.parametrize(
    ("backend", "fields", "name"),
    [
        ("transformers", "pretrained='owner/gated-model'", "owner/gated-model"),
        ("itm", "pretrained='owner/gated-model'", "owner/gated-model"),
        ("preference", "architecture='pickscore'", "PickScore"),
        ("preference", "architecture='hpsv2'", "HPS_v2_compressed.pt"),
    ],
)
def test_what_cannot_be_downloaded_is_told(
    backend: str, fields: str, name: str, tmp_path: Path
) -> None:
    program = _PULL.format(backend=backend, fields=fields)
    told = _run(program, HF_HUB_OFFLINE="1", HF_HOME=str(tmp_path))
    assert told.startswith("model_load_failed ")
    for word in (name, "network", "HF_HOME"):
        assert word in told


def test_a_gated_model_without_network_is_told(tmp_path: Path) -> None:
    program = _LOAD.format(backend="transformers", pretrained="owner/gated-model")
    told = _run(program, HF_HUB_OFFLINE="1", HF_HOME=str(tmp_path))
    assert told.startswith("model_load_failed ")
    for word in ("owner/gated-model", "network", "terms", "HF_TOKEN", "HF_HOME"):
        assert word in told
