from __future__ import annotations

import os
import re
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from serve_app.config.document import Document
from serve_app.config.faults import Origin
from serve_app.config.routing_source import RoutingDocument
from serve_app.control.overrides import Overrides, OverridesView
from serve_app.control.sqlite_store import SqliteStateStore
from serve_app.control.store import (
    AuditEntry,
    ConfigurationSnapshot,
    InForce,
    MemoryStateStore,
    StateStore,
    StoredState,
)
from serve_app.errors import ConfigError
from serve_app.models.registry import DynamicModelRegistry
from serve_app.routing.build import build_routing
from tests.unit.control.fleet import POOLS, spec

MODELS = (
    DynamicModelRegistry(POOLS)
    .update(
        Document(
            {
                "slow": spec(2, pool="other", performance={"bytes": 7, "expected_ms": 1.25}),
                "fast": spec(
                    1,
                    preprocessing={"size": [8, 9], "mean": [0.1, 0.2, 0.3]},
                    options={"size": 4, "fail_load": False, "delay_ms": 0.1},
                ),
            },
            Origin("models"),
        )
    )
    .models
)
ROUTING = build_routing(
    RoutingDocument(
        {
            "aliases": {"cheap": "fast"},
            "experiments": {
                "e": {
                    "arms": {"slow": 0.3, "fast": 99.7},
                    "sticky_by": "header:X-User",
                    "shadow": ["slow"],
                    "threshold": 0.1,
                    "guardrails": {"max_psi": 0.2},
                }
            },
        },
        Origin("routing"),
    ),
    tuple(MODELS),
    "slow",
)
VIEW = OverridesView(
    Overrides(2, "fast", {"e": {"slow": 1 / 3, "fast": 100 - 1 / 3}}, ("a", "b"), True),
    "ada",
    "grüße",
    12.5,
    "abc",
)


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[StateStore]:
    made: StateStore = (
        MemoryStateStore()
        if request.param == "memory"
        else SqliteStateStore(f"sqlite:///{tmp_path / 'state.db'}")
    )
    yield made
    made.close()


def snapshot(number: int) -> ConfigurationSnapshot:
    return ConfigurationSnapshot(number, 3.5, "ada: promote", number - 1, MODELS, ROUTING)


def test_a_fresh_store_is_empty(store: StateStore) -> None:
    assert store.state() == StoredState()
    assert (store.numbers(), store.audit(10), store.snapshot(1)) == ((), (), None)


def test_everything_comes_back_exactly(store: StateStore) -> None:
    force = InForce(1, MODELS, ROUTING, tuple(model.id for model in MODELS.values()))
    entry = AuditEntry(9.25, "ada", "promote fast", "because", "snapshot 2")
    store.change(overrides=VIEW, snapshot=snapshot(2), target=2, active=force, audit=entry)
    state = store.state()
    assert state == StoredState(VIEW, 2, force, 2)
    assert state.in_force is not None
    assert list(state.in_force.models) == ["slow", "fast"]
    assert list(state.in_force.routing.spec.experiments["e"].arms) == ["slow", "fast"]
    found = store.snapshot(2)
    assert found == snapshot(2)
    assert found is not None and found.models["fast"].id == MODELS["fast"].id
    assert store.audit(10) == (AuditEntry(9.25, "ada", "promote fast", "because", "snapshot 2", 1),)


def test_what_is_left_out_stays(store: StateStore) -> None:
    force = InForce(1, MODELS, ROUTING, ())
    store.change(overrides=VIEW, snapshot=snapshot(5), target=5, active=force)
    for number in range(3):
        store.change(audit=AuditEntry(number, "ada", f"entry {number}", "because"))
    assert store.state() == StoredState(VIEW, 5, force, 5)
    assert [entry.what for entry in store.audit(2)] == ["entry 2", "entry 1"]
    assert [entry.number for entry in store.audit(9)] == [3, 2, 1]
    assert store.audit(0) == ()
    store.change(snapshot=snapshot(6))
    assert (store.numbers(), store.state().last, store.state().target) == ((5, 6), 6, 5)


def test_a_file_is_found_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    one = SqliteStateStore("sqlite:///state.db")
    one.change(overrides=VIEW)
    one.close()
    two = SqliteStateStore(f"sqlite:///{tmp_path}/state.db")
    assert two.state().overrides == VIEW
    two.close()


@pytest.mark.parametrize("url", ["", "state.db", "sqlite://", "sqlite:///", "postgres://x/y"])
def test_other_urls_are_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="SIMILARITY_STATE_URL: must be sqlite:///PATH"):
        SqliteStateStore(url)


def test_memory_is_refused() -> None:
    with pytest.raises(ConfigError, match="must name a file"):
        SqliteStateStore("sqlite:///:memory:")


def test_a_file_that_is_damaged_or_cannot_be_written_is_named(tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.db"
    damaged.write_bytes(b"not a database at all" * 1000)
    folder = tmp_path / "folder"
    folder.mkdir()
    nowhere = tmp_path / "nowhere" / "state.db"
    for path in (damaged, folder, nowhere):
        with pytest.raises(ConfigError, match=re.escape(str(path))) as caught:
            SqliteStateStore(f"sqlite:///{path}")
        assert "move it away" in caught.value.faults[0].message
    assert damaged.read_bytes().startswith(b"not a database")


def test_a_file_that_becomes_unwritable_is_named_and_nothing_changes(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    store = SqliteStateStore(f"sqlite:///{path}")
    store._connection.execute("PRAGMA query_only = ON")
    with pytest.raises(ConfigError, match=re.escape(f"{path} cannot be written")):
        store.change(overrides=VIEW, target=1)
    store._connection.execute("PRAGMA query_only = OFF")
    assert store.state() == StoredState()
    store.close()


def test_a_change_is_all_or_nothing(tmp_path: Path) -> None:
    store = SqliteStateStore(f"sqlite:///{tmp_path / 'state.db'}")
    store._connection.execute("DROP TABLE audit")
    with pytest.raises(ConfigError):
        store.change(
            overrides=VIEW, snapshot=snapshot(1), target=1, audit=AuditEntry(1, "a", "b", "c")
        )
    assert store.state() == StoredState()
    store.close()


def test_databases_of_others_and_of_later_releases_are_refused(tmp_path: Path) -> None:
    other = tmp_path / "other.db"
    connection = sqlite3.connect(other)
    connection.execute("CREATE TABLE customers (name TEXT)")
    connection.close()
    with pytest.raises(ConfigError, match="a database of something else"):
        SqliteStateStore(f"sqlite:///{other}")
    later = tmp_path / "later.db"
    SqliteStateStore(f"sqlite:///{later}").close()
    connection = sqlite3.connect(later)
    connection.execute("UPDATE schema_version SET version = 99")
    connection.commit()
    connection.close()
    with pytest.raises(ConfigError, match="has schema version 99"):
        SqliteStateStore(f"sqlite:///{later}")


def test_content_that_cannot_be_understood_is_named(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    store = SqliteStateStore(f"sqlite:///{path}")
    store.change(overrides=VIEW)
    for text in ("{", "{}", '{"snapshot": 1}'):
        store._connection.execute("UPDATE state SET value = ? WHERE key = 'overrides'", (text,))
        with pytest.raises(ConfigError, match="cannot read"):
            store.state()
    store.close()


_WRITER = """
import sys
from serve_app.control.overrides import Overrides, OverridesView
from serve_app.control.sqlite_store import SqliteStateStore
from serve_app.control.store import AuditEntry
store = SqliteStateStore(sys.argv[1])
number = 0
while True:
    number += 1
    view = OverridesView(Overrides(snapshot=number), "ada", "x" * 2000)
    store.change(overrides=view, target=number, audit=AuditEntry(0, "ada", str(number), "x"))
    print(number, flush=True)
"""


def test_what_was_changed_survives_kill_9(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'state.db'}"
    writer = subprocess.Popen(
        [sys.executable, "-c", _WRITER, url], stdout=subprocess.PIPE, text=True
    )
    assert writer.stdout is not None
    with writer.stdout as lines:
        for line in lines:
            if int(line) == 20:
                break
        os.kill(writer.pid, signal.SIGKILL)
        told = max([20, *(int(line) for line in lines if line.endswith("\n"))])
    assert writer.wait() == -signal.SIGKILL
    store = SqliteStateStore(url)
    state = store.state()
    assert state.target in (told, told + 1)
    assert state.overrides.overrides.snapshot == state.target
    assert store.audit(1)[0].what == str(state.target)
    assert len(store.audit(10**6)) == state.target
    store.close()
