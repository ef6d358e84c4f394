"""What outlives the control plane: overrides, snapshots, what is in force, the audit trail."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

from serve_app.control.overrides import OverridesView
from serve_app.models.snapshot import ResolvedModel
from serve_app.routing.table import RoutingTable


@dataclass(frozen=True, slots=True)
class ConfigurationSnapshot:
    """A configuration that was asked for: one can go back to it.

    Attributes:
        number: Counts up.
        created: When, in seconds since 1970.
        cause: What made it, in words.
        parent: The snapshot before it; None for the first.
        models: By name, in order of declaration.
        routing: With overrides applied.
    """

    number: int
    created: float
    cause: str
    parent: int | None
    models: Mapping[str, ResolvedModel]
    routing: RoutingTable


@dataclass(frozen=True, slots=True)
class InForce:
    """What answers requests.

    Attributes:
        number: The configuration snapshot that was last in effect as a whole.
        models: By name, the active revisions.
        routing: Which of them answers which request.
        resident: Ids that replicas hold before they are ready.
    """

    number: int
    models: Mapping[str, ResolvedModel]
    routing: RoutingTable
    resident: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One line of the audit trail.

    Attributes:
        at: When, in seconds since 1970.
        who: A person, or `configuration` for what was declared.
        what: In words.
        why: The reason that was given.
        detail: What came of it.
        number: Counts up; the store sets it.
    """

    at: float
    who: str
    what: str
    why: str
    detail: str = ""
    number: int = 0


@dataclass(frozen=True, slots=True)
class StoredState:
    """What is kept, apart from history.

    Attributes:
        overrides: As last written.
        target: Number of the snapshot that is wanted; None in a fresh store.
        in_force: What answers; None in a fresh store.
        last: The highest number of a snapshot; 0 in a fresh store.
    """

    overrides: OverridesView = field(default_factory=OverridesView)
    target: int | None = None
    in_force: InForce | None = None
    last: int = 0


class StateStore(Protocol):
    """Keeps state. Its methods block and may be called from any thread, one at a time."""

    def state(self) -> StoredState:
        """Everything but history.

        Raises:
            ConfigError: It cannot be read.
        """

    def snapshot(self, number: int) -> ConfigurationSnapshot | None:
        """A configuration snapshot; None where there is none of this number.

        Raises:
            ConfigError: It cannot be read.
        """

    def numbers(self) -> tuple[int, ...]:
        """Numbers of all configuration snapshots, in order."""

    def audit(self, limit: int) -> tuple[AuditEntry, ...]:
        """The last entries of the audit trail, newest first."""

    def change(
        self,
        *,
        overrides: OverridesView | None = None,
        snapshot: ConfigurationSnapshot | None = None,
        target: int | None = None,
        active: InForce | None = None,
        audit: AuditEntry | None = None,
    ) -> None:
        """Writes all of it or nothing; what is None stays as it is.

        Returns when it would survive the end of the process and of the machine.

        Raises:
            ConfigError: It could not be written; nothing has changed.
        """

    def close(self) -> None:
        """Lets go of what it holds."""


class MemoryStateStore:
    """Keeps state for as long as the process lives."""

    def __init__(self) -> None:
        self._state = StoredState()
        self._snapshots: dict[int, ConfigurationSnapshot] = {}
        self._audit: list[AuditEntry] = []

    def state(self) -> StoredState:
        """Everything but history."""
        return replace(self._state, last=max(self._snapshots, default=0))

    def snapshot(self, number: int) -> ConfigurationSnapshot | None:
        """A configuration snapshot; None where there is none of this number."""
        return self._snapshots.get(number)

    def numbers(self) -> tuple[int, ...]:
        """Numbers of all configuration snapshots, in order."""
        return tuple(sorted(self._snapshots))

    def audit(self, limit: int) -> tuple[AuditEntry, ...]:
        """The last entries of the audit trail, newest first."""
        return tuple(reversed(self._audit[-limit:] if limit > 0 else []))

    def change(
        self,
        *,
        overrides: OverridesView | None = None,
        snapshot: ConfigurationSnapshot | None = None,
        target: int | None = None,
        active: InForce | None = None,
        audit: AuditEntry | None = None,
    ) -> None:
        """Takes all of it over; what is None stays as it is."""
        self._state = StoredState(
            self._state.overrides if overrides is None else overrides,
            self._state.target if target is None else target,
            self._state.in_force if active is None else active,
        )
        if snapshot is not None:
            self._snapshots[snapshot.number] = snapshot
        if audit is not None:
            self._audit.append(replace(audit, number=len(self._audit) + 1))

    def close(self) -> None:
        """Nothing to let go of."""
