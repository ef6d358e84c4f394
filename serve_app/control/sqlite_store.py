"""State in an SQLite file; each change is one transaction, on the disk before it returns."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from serve_app.config.settings import STATE_SCHEME, STATE_URL
from serve_app.control.overrides import OverridesView
from serve_app.control.records import (
    models_from_json,
    models_json,
    overrides_from_json,
    overrides_json,
    routing_from_json,
    routing_json,
)
from serve_app.control.store import AuditEntry, ConfigurationSnapshot, InForce, StoredState
from serve_app.errors import ConfigError, Fault

SCHEMA_VERSION = 1

_BUSY_S = 5.0
_SCHEMA = """
CREATE TABLE schema_version (version INTEGER NOT NULL);
CREATE TABLE state (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE snapshots (
    number INTEGER PRIMARY KEY, created REAL NOT NULL, cause TEXT NOT NULL, parent INTEGER,
    models TEXT NOT NULL, routing TEXT NOT NULL
);
CREATE TABLE audit (
    number INTEGER PRIMARY KEY AUTOINCREMENT, at REAL NOT NULL, who TEXT NOT NULL,
    what TEXT NOT NULL, why TEXT NOT NULL, detail TEXT NOT NULL
);
"""


class SqliteStateStore:
    """Keeps state in a file. Only one control plane may write it.

    Args:
        url: `sqlite:///relative/path` or `sqlite:////absolute/path`; the file is made where there
            is none, its folder is not.

    Raises:
        ConfigError: It is no such URL, or the file cannot be read and written.
    """

    def __init__(self, url: str) -> None:
        self.path = _path(url)
        self._lock = threading.Lock()
        try:
            self._connection = sqlite3.connect(
                self.path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False
            )
        except sqlite3.Error as error:
            raise self._failed("be opened", error) from error
        try:
            self._prepare()
        except BaseException:
            self._connection.close()
            raise

    def state(self) -> StoredState:
        """Everything but history.

        Raises:
            ConfigError: It cannot be read.
        """
        with self._reading() as connection:
            kept: dict[str, str] = dict(connection.execute("SELECT key, value FROM state"))
            (last,) = connection.execute("SELECT MAX(number) FROM snapshots").fetchone()
            in_force = None
            if "models" in kept:
                in_force = InForce(
                    int(kept["number"]),
                    models_from_json(kept["models"]),
                    routing_from_json(kept["routing"]),
                    tuple(json.loads(kept["resident"])),
                )
            return StoredState(
                overrides_from_json(kept["overrides"]) if "overrides" in kept else OverridesView(),
                int(kept["target"]) if "target" in kept else None,
                in_force,
                last or 0,
            )

    def snapshot(self, number: int) -> ConfigurationSnapshot | None:
        """A configuration snapshot; None where there is none of this number.

        Raises:
            ConfigError: It cannot be read.
        """
        with self._reading() as connection:
            row = connection.execute(
                "SELECT created, cause, parent, models, routing FROM snapshots WHERE number = ?",
                (number,),
            ).fetchone()
            if row is None:
                return None
            created, cause, parent, models, routing = row
            return ConfigurationSnapshot(
                number,
                created,
                cause,
                parent,
                models_from_json(models),
                routing_from_json(routing),
            )

    def numbers(self) -> tuple[int, ...]:
        """Numbers of all configuration snapshots, in order.

        Raises:
            ConfigError: They cannot be read.
        """
        with self._reading() as connection:
            rows = connection.execute("SELECT number FROM snapshots ORDER BY number")
            return tuple(number for (number,) in rows)

    def audit(self, limit: int) -> tuple[AuditEntry, ...]:
        """The last entries of the audit trail, newest first.

        Raises:
            ConfigError: They cannot be read.
        """
        with self._reading() as connection:
            rows = connection.execute(
                "SELECT at, who, what, why, detail, number FROM audit ORDER BY number DESC LIMIT ?",
                (max(limit, 0),),
            )
            return tuple(AuditEntry(*row) for row in rows)

    def change(
        self,
        *,
        overrides: OverridesView | None = None,
        snapshot: ConfigurationSnapshot | None = None,
        target: int | None = None,
        active: InForce | None = None,
        audit: AuditEntry | None = None,
    ) -> None:
        """Writes all of it in one transaction; what is None stays as it is.

        Raises:
            ConfigError: It could not be written; nothing has changed.
        """
        state: dict[str, str] = {}
        if overrides is not None:
            state["overrides"] = overrides_json(overrides)
        if target is not None:
            state["target"] = str(target)
        if active is not None:
            state["number"] = str(active.number)
            state["models"] = models_json(active.models.values())
            state["routing"] = routing_json(active.routing)
            state["resident"] = json.dumps(active.resident)
        with self._transaction() as connection:
            connection.executemany("INSERT OR REPLACE INTO state VALUES (?, ?)", state.items())
            if snapshot is not None:
                connection.execute(
                    "INSERT OR REPLACE INTO snapshots VALUES (?, ?, ?, ?, ?, ?)",
                    (
                        snapshot.number,
                        snapshot.created,
                        snapshot.cause,
                        snapshot.parent,
                        models_json(snapshot.models.values()),
                        routing_json(snapshot.routing),
                    ),
                )
            if audit is not None:
                connection.execute(
                    "INSERT INTO audit (at, who, what, why, detail) VALUES (?, ?, ?, ?, ?)",
                    (audit.at, audit.who, audit.what, audit.why, audit.detail),
                )

    def close(self) -> None:
        """Closes the file."""
        with self._lock:
            self._connection.close()

    def _prepare(self) -> None:
        try:
            self._connection.execute("PRAGMA journal_mode = WAL").fetchone()
            self._connection.execute("PRAGMA synchronous = FULL")
        except sqlite3.Error as error:
            raise self._failed("be used", error) from error
        with self._transaction() as connection:
            tables = {
                name
                for (name,) in connection.execute(
                    "SELECT name FROM sqlite_master WHERE type = 'table'"
                )
            }
            if not tables:
                for statement in _SCHEMA.split(";"):
                    connection.execute(statement)
                connection.execute("INSERT INTO schema_version VALUES (?)", (SCHEMA_VERSION,))
                return
            if "schema_version" not in tables:
                raise self._fault("is a database of something else; give the path of another file")
            (found,) = connection.execute("SELECT MAX(version) FROM schema_version").fetchone()
            if found != SCHEMA_VERSION:
                raise self._fault(
                    f"has schema version {found}, and this release knows {SCHEMA_VERSION}; run "
                    "the release that wrote it, or give the path of another file"
                )

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            try:
                # At once: it also tells a file that can be read but not written.
                self._connection.execute("BEGIN IMMEDIATE")
                try:
                    yield self._connection
                    self._connection.execute("COMMIT")
                finally:
                    if self._connection.in_transaction:
                        self._connection.execute("ROLLBACK")
            except sqlite3.Error as error:
                raise self._failed("be written", error) from error

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            try:
                yield self._connection
            except sqlite3.Error as error:
                raise self._failed("be read", error) from error
            except (ValueError, KeyError, TypeError) as error:
                raise self._fault(
                    f"holds what this release cannot read ({type(error).__name__}: {error}); run "
                    "the release that wrote it, or move the file away to start without overrides"
                ) from error

    def _failed(self, what: str, error: sqlite3.Error) -> ConfigError:
        return self._fault(
            f"cannot {what} as an SQLite file ({error}); see that its folder is there and that "
            "both can be written, or, if the file is damaged, move it away to start without "
            "overrides"
        )

    def _fault(self, message: str) -> ConfigError:
        return ConfigError((Fault(STATE_URL, f"{self.path} {message}"),))


def _path(url: str) -> Path:
    path = url.removeprefix(STATE_SCHEME)
    if path == url or not path.strip():
        message = f"must be {STATE_SCHEME}PATH, not {url!r}; no other store is known"
        raise ConfigError((Fault(STATE_URL, message),))
    if path == ":memory:":
        message = "must name a file: memory is forgotten; unset it to keep nothing"
        raise ConfigError((Fault(STATE_URL, message),))
    return Path(path)
