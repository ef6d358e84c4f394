"""The documents say what the code does: settings, backends, metrics, codes, routes, commands."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from serve_app.config.args import AppArgs, ControlArgs, IngressArgs, Limits, PoolArgs
from serve_app.config.parity import GoldenPair, Parity
from serve_app.config.serve_file import read_serve_config
from serve_app.config.settings import SETTINGS
from serve_app.config.spec import ModelSpec, Performance, PreprocessOverride
from serve_app.errors import ConfigError, ServeAppError, all_errors
from serve_app.models.factory import SimilarityModelFactory
from serve_app.scoring.metrics import METRICS

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


def headings(document: str) -> set[str]:
    text = (DOCS / document).read_text()
    return {match.strip() for match in re.findall(r"^#+ (.+)$", text, re.MULTILINE)}


def section(document: str, heading: str) -> str:
    """From a heading to the next one of the same or a higher level."""
    text = (DOCS / document).read_text()
    match = re.search(rf"^(#+) {re.escape(heading)}$(.*?)(?=^#{{1,3}} |\Z)", text, re.M | re.S)
    assert match, f"{document} has no heading {heading!r}"
    return match[2]


def test_every_setting_has_a_heading() -> None:
    for setting in SETTINGS:
        assert re.sub("[<>]", "", setting.name) in headings("configuration.md")


def test_every_backend_has_a_heading() -> None:
    assert set(SimilarityModelFactory.BUILT_IN) <= headings("models.md")


def test_every_metric_is_described() -> None:
    described = section("models.md", "Scores")
    for name in METRICS:
        assert f"`{name}`" in described


@pytest.mark.parametrize(
    ("heading", "model"),
    [
        ("A model's spec", ModelSpec),
        ("A model's spec", Performance),
        ("A model's spec", PreprocessOverride),
        ("Golden scores", Parity),
        ("Golden scores", GoldenPair),
        ("pools", PoolArgs),
        ("ingress", IngressArgs),
        ("control", ControlArgs),
        ("limits", Limits),
    ],
)
def test_every_field_is_documented_with_its_default(heading: str, model: Any) -> None:
    text = section("configuration.md", heading)
    for name, field in model.model_fields.items():
        assert f"`{name}`" in text, name
        row = re.search(rf"^\| `{name}` \| (.*?) \|", text, re.MULTILINE)
        if (
            row
            and re.fullmatch(r"`[^`]+`", row[1])
            and isinstance(field.default, str | int | float)
        ):
            written = yaml.safe_load(row[1].strip("`"))
            assert written == field.default, name


def test_every_application_argument_has_a_heading() -> None:
    assert set(AppArgs.model_fields) <= headings("configuration.md")


def test_every_code_that_a_client_can_get_is_documented() -> None:
    text = (DOCS / "http-api.md").read_text()
    base = {"error", "bad_request", "item_error", "model_error", "service_error"}
    for error in all_errors(ServeAppError):
        if error.code not in base and error is not ConfigError:
            assert f"`{error.code}`" in text, error.code


def test_the_committed_openapi_document_is_the_services() -> None:
    from serve_app.serving.openapi import document

    assert (DOCS / "openapi.json").read_text() == document(), "run: make openapi"


def test_the_serve_config_is_valid_and_its_values_are_the_defaults() -> None:
    args, _ = read_serve_config(ROOT / "serve_config.yaml")
    assert args == AppArgs()


def test_every_overlay_is_described() -> None:
    described = section("kubernetes.md", "Start") + section("kubernetes.md", "Weights")
    for path in (ROOT / "kuberay" / "overlays").iterdir():
        assert f"`{path.name}`" in described


def test_every_row_of_the_threat_model_names_its_test() -> None:
    text = (ROOT / "SECURITY.md").read_text()
    table = text.split("## What an attacker can send")[1].split("\n## ")[0]
    rows = [line for line in table.splitlines() if line.startswith("| ")][1:]
    assert len(rows) >= 20
    for row in rows:
        match = re.fullmatch(r"\|.+\|.+\| `(tests/[\w/]+\.py)::(test_\w+)` \|", row)
        assert match, row
        assert f"def {match[2]}(" in (ROOT / match[1]).read_text(), row


def test_the_readmes_commands_exist() -> None:
    from typer.main import get_command

    from serve_app.cli import app

    commands = set(get_command(app).commands)  # type: ignore[attr-defined]
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    text = (ROOT / "README.md").read_text() + (DOCS / "benchmarks.md").read_text()
    lines = re.findall(r"^\$ (.+?)(?:\s+#.*)?$", text, re.MULTILINE)
    assert lines
    for line in lines:
        words = shlex.split(line)
        if words[0] == "make":
            assert words[1] in targets, line
        elif words[0].endswith("serve-app"):
            assert words[1] in commands, line


def test_links_between_documents_lead_somewhere() -> None:
    for document in [*ROOT.glob("*.md"), *DOCS.glob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", document.read_text()):
            assert (document.parent / target).exists(), f"{document.name}: {target}"


def test_pins_are_names_and_versions_only() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert len(pins) > 50
    for line in pins:
        assert re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.+!]+", line), line
