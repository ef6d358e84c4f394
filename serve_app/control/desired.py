"""What is wanted: the declared configuration with overrides on top; durable before it counts.

It blocks (files, the store) and knows neither members nor what is in effect.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import NamedTuple

from serve_app.config.faults import Origin, suggestion
from serve_app.config.routing_source import RoutingDocument
from serve_app.control.declared import Declared
from serve_app.control.operations import Operation, Pin
from serve_app.control.overrides import Overrides, OverridesView
from serve_app.control.records import digest_of
from serve_app.control.snapshot import ServingSnapshot
from serve_app.control.store import AuditEntry, ConfigurationSnapshot, InForce, StateStore
from serve_app.control.target import Applied, Target
from serve_app.errors import (
    ConfigError,
    Fault,
    InvalidRequestError,
    NotReadyError,
    UnknownModelError,
)
from serve_app.models.snapshot import ResolvedModel
from serve_app.routing.build import build_routing
from serve_app.routing.table import RoutingTable

CONFIGURATION = "configuration"
"""Who made a change that no operator asked for."""


class _Resolved(NamedTuple):
    """What overrides come to; the number where it is exactly that snapshot."""

    models: Mapping[str, ResolvedModel]
    routing: RoutingTable
    number: int | None = None


class DesiredState:
    """What is wanted.

    Args:
        store: Keeps it.
        wall: Seconds since 1970.

    Attributes:
        declared: The last declared configuration without faults; None before the first.
        overrides: What an operator changed.
        target: What follows from them; None before anything was declared or recovered.
    """

    def __init__(self, store: StateStore, wall: Callable[[], float]) -> None:
        self.declared: Declared | None = None
        self.overrides = OverridesView()
        self.target: Target | None = None
        self._store = store
        self._wall = wall

    def recover(self) -> InForce | None:
        """Takes over what the store has.

        Returns:
            What was in force; None for a fresh store.

        Raises:
            ConfigError: The store cannot be read.
        """
        state = self._store.state()
        wanted = None if state.target is None else self._store.snapshot(state.target)
        if wanted is None or state.in_force is None:
            return None
        self.overrides = state.overrides
        pinned = state.overrides.overrides.pinned
        self.target = Target(wanted.number, wanted.models, wanted.routing, pinned)
        return state.in_force

    def take(self, declared: Declared) -> None:
        """Takes a declared configuration over; where it is another one, overrides end.

        Raises:
            ConfigError: Overrides that are to be kept do not fit it, or the store failed; nothing
                has changed.
        """
        if self.declared is not None and declared.digest == self.declared.digest:
            self.declared = declared  # the notices may be others
            return
        view, what = self.overrides, "declared configuration"
        if view and not view.overrides.keep and view.declared not in (None, declared.digest):
            view, what = OverridesView(), f"{what} changed; overrides ended"
        elif view and view.declared is None:
            view = replace(view, declared=declared.digest)
        try:
            resolved = self._resolved(declared, view.overrides)
        except ConfigError as error:
            raise _with_override(error, view) from error
        self._want(resolved, view, AuditEntry(self._wall(), CONFIGURATION, what, "declared"))
        self.declared = declared

    def apply(self, operation: Operation) -> Applied:
        """Makes an operation part of what is wanted, and writes it down.

        Raises:
            InvalidRequestError: It asks for something that cannot be; every fault is named.
            UnknownModelError: It names a model that is not declared.
            NotReadyError: There is no configuration yet that it could change.
            ConfigError: The store failed; nothing has changed.
        """
        before, view_before = self.target, self.overrides
        if before is None:
            raise NotReadyError("There is no configuration yet; see the faults that are reported.")
        self._check_name(operation, before)
        overrides = operation.apply(view_before.overrides, self._parent(before))
        if self.declared is None and overrides.snapshot is None:
            raise NotReadyError(
                "The declared configuration has faults, so nothing can be changed on top of it; "
                "mend it, or roll back to a snapshot."
            )
        since = self._wall()
        digest = self.declared.digest if self.declared is not None else None
        view = OverridesView(overrides, operation.who, operation.reason, since, digest)
        entry = AuditEntry(since, operation.who, str(operation), operation.reason)
        try:
            resolved = self._resolved(self.declared, overrides)
        except ConfigError as error:
            faults = "; ".join(map(str, error.faults))
            raise InvalidRequestError(f"Nothing was changed: {faults}") from error
        self._want(resolved, view, entry)
        return Applied.of(operation, before, view_before, self.target or before, view)

    def withdraw(self, applied: Applied, reason: str) -> bool:
        """Takes an operation back that could not come into effect.

        Returns:
            False where something else was asked for since: then nothing has changed.

        Raises:
            ConfigError: The store failed; nothing has changed.
        """
        if self.target is not applied.target or self.overrides is not applied.view:
            return False
        who = applied.view.who or CONFIGURATION
        entry = AuditEntry(
            self._wall(), who, "withdrawn, for it could not come into effect", reason
        )
        self._store.change(overrides=applied.view_before, target=applied.before.number, audit=entry)
        self.target, self.overrides = applied.before, applied.view_before
        return True

    def adopt(self, holding: ServingSnapshot) -> None:
        """Takes over, from a member of a plane that is gone, what is in force, and overrides.

        What is declared has to be taken anew.

        Raises:
            ConfigError: The store failed; nothing has changed.
        """
        view = holding.overrides
        if view.overrides.snapshot is not None:
            # What it stood on is gone with the plane; what is in force is what came of it.
            view = replace(view, overrides=replace(view.overrides, snapshot=holding.number))
        force = InForce(holding.number, holding.models, holding.routing, holding.resident)
        now = self._wall()
        snapshot = ConfigurationSnapshot(
            holding.number, now, "adopted", None, holding.models, holding.routing
        )
        entry = AuditEntry(now, CONFIGURATION, "adopted", "taken over from members after a restart")
        self._store.change(
            overrides=view, snapshot=snapshot, target=snapshot.number, active=force, audit=entry
        )
        self.overrides = view
        pinned = view.overrides.pinned
        self.target = Target(snapshot.number, snapshot.models, snapshot.routing, pinned)
        self.declared = None

    def _want(self, resolved: _Resolved, view: OverridesView, entry: AuditEntry) -> None:
        snapshot, before, number = None, self.target, resolved.number
        if number is None:
            content = digest_of(resolved.models, resolved.routing)
            if before is not None and content == digest_of(before.models, before.routing):
                number = before.number
            else:
                number = self._store.state().last + 1
                cause = f"{entry.who}: {entry.what}"
                parent = before.number if before is not None else None
                snapshot = ConfigurationSnapshot(
                    number, entry.at, cause, parent, resolved.models, resolved.routing
                )
        if before is not None and number == before.number and view is self.overrides:
            return
        entry = replace(entry, detail=f"snapshot {number}")
        self._store.change(overrides=view, snapshot=snapshot, target=number, audit=entry)
        self.overrides = view
        self.target = Target(number, resolved.models, resolved.routing, view.overrides.pinned)

    def _resolved(self, declared: Declared | None, overrides: Overrides) -> _Resolved:
        if overrides.snapshot is not None:
            base = self._store.snapshot(overrides.snapshot)
            if base is None:
                raise InvalidRequestError(self._no_snapshot(overrides.snapshot))
            if overrides.default is None and not overrides.weights:
                return _Resolved(base.models, base.routing, base.number)
            models, default = base.models, base.routing.default
            written = base.routing.spec.model_dump(mode="json")
            document = RoutingDocument(written, Origin(f"snapshot {base.number}"))
        else:
            if declared is None:
                raise NotReadyError("There is no declared configuration without faults yet.")
            models, default, document = declared.models, declared.default, declared.routing
        routing = build_routing(
            document, tuple(models), default, overrides.weights, overrides.default
        )
        return _Resolved(models, routing)

    def _check_name(self, operation: Operation, target: Target) -> None:
        if isinstance(operation, Pin) and operation.name not in target.models:
            near = suggestion(operation.name, target.models) or "."
            declared = ", ".join(target.models)
            raise UnknownModelError(
                f"There is no model {operation.name!r}{near} Declared are: {declared}."
            )

    def _parent(self, target: Target) -> int | None:
        found = self._store.snapshot(target.number)
        return found.parent if found is not None else None

    def _no_snapshot(self, number: int) -> str:
        known = ", ".join(map(str, self._store.numbers()[-20:]))
        return f"`number`: there is no snapshot {number}; the last are: {known}."


def _with_override(error: ConfigError, view: OverridesView) -> ConfigError:
    """The same faults; where overrides are in the way, who made them, and what to do."""
    if not any(fault.key.startswith("override") for fault in error.faults):
        return error
    message = (
        f"were kept by {view.who} ({view.reason}) and do not fit what is declared: end them with "
        "`serve-app clear`, or change what is declared"
    )
    return ConfigError((*error.faults, Fault("overrides", message)))
