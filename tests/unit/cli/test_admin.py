"""The operators' commands against a running service."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from serve_app.cli import app
from tests.unit.control.fleet import new_id
from tests.unit.serving.operated import MODELS, TOKEN, Operated, operated, spec


@pytest.fixture
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Operated]:
    monkeypatch.setenv("SIMILARITY_ADMIN_TOKEN", TOKEN)
    monkeypatch.setenv("COLUMNS", "200")
    with operated(tmp_path / "state.db") as made:
        yield made


def run(made: Operated, *arguments: str) -> Result:
    return CliRunner().invoke(app, [*arguments, "--url", made.url])


def test_an_emergency_rollback_is_one_command(service: Operated) -> None:
    service.declare({**MODELS, "fast": spec(7)})
    result = run(service, "rollback", "--reason", "scores are off", "--who", "eve")
    assert result.exit_code == 0, result.output
    assert "In effect: snapshot 1, served by 1 ingress." in result.stdout
    told = run(service, "status")
    assert "Snapshot 1 is in effect, all as wanted." in told.stdout
    assert "rolled back to 1" in told.stdout
    assert "eve: scores are off" in told.stdout
    assert f"{new_id('fast', 7)}" in told.stdout
    trail = run(service, "audit")
    assert "rollback to the previous snapshot" in trail.stdout
    assert run(service, "clear", "--reason", "over").exit_code == 0
    assert "rolled back" not in run(service, "status").stdout


def test_every_operation_has_a_command(service: Operated) -> None:
    why = ("--reason", "a rehearsal")
    for arguments in (
        ("promote", "slow"),
        ("weights", "split", "fast=70", "slow=30"),
        ("pin", "slow"),
        ("unpin", "slow"),
        ("clear",),
    ):
        result = run(service, *arguments, *why)
        assert result.exit_code == 0, result.output
    entries = json.loads(run(service, "audit", "--json").stdout)["data"]
    mine = [entry for entry in entries if entry["why"] == "a rehearsal"]
    assert [entry["what"] for entry in mine] == [
        "clear",
        "unpin slow",
        "pin slow",
        "weights of split: fast 70, slow 30",
        "promote slow",
    ]
    assert all("@" in entry["who"] for entry in mine), "who asks is told, though nobody said so"


def test_what_is_refused_or_fails_is_told_with_its_exit_code(service: Operated) -> None:
    refused = run(service, "promote", "nosuch", "--reason", "why")
    assert refused.exit_code == 2
    assert "nosuch" in refused.stderr
    assert run(service, "promote", "slow").exit_code == 2, "a reason is needed"
    assert run(service, "weights", "split", "fast", "--reason", "why").exit_code == 2
    assert run(service, "weights", "split", "fast=nan", "--reason", "why").exit_code == 2
    assert run(service, "weights", "split", "a=1", "a=2", "--reason", "why").exit_code == 2
    old = new_id("slow", 2)
    service.declare({"fast": spec(1), "slow": spec(3)})
    service.lose(old, "its file is gone")
    failed = run(service, "rollback", "1", "--reason", "why")
    assert failed.exit_code == 1
    assert "its file is gone" in failed.stderr
    assert "taken back" in failed.stderr


def test_the_token_comes_from_the_environment_alone(
    service: Operated, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIMILARITY_ADMIN_TOKEN", "another token that is long")
    wrong = run(service, "status")
    assert wrong.exit_code == 2
    assert "SIMILARITY_ADMIN_TOKEN" in wrong.stderr
    monkeypatch.delenv("SIMILARITY_ADMIN_TOKEN")
    absent = run(service, "status")
    assert absent.exit_code == 2
    assert "SIMILARITY_ADMIN_TOKEN" in absent.stderr


def test_the_status_is_json_on_request(service: Operated) -> None:
    told = json.loads(run(service, "status", "--json").stdout)
    assert told["complete"] is True
