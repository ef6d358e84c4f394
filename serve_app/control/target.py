"""What is wanted, at one moment, and what an operation made of it; immutable values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from serve_app.control.operations import Operation, Pin, Unpin
from serve_app.control.overrides import OverridesView
from serve_app.models.snapshot import ResolvedModel
from serve_app.routing.table import RoutingTable


@dataclass(frozen=True)
class Target:
    """What is wanted.

    Attributes:
        number: Of the configuration snapshot with these models and this routing.
        models: By name, in order of declaration.
        routing: With overrides applied.
        pinned: Models that every replica of their pool holds.
    """

    number: int
    models: Mapping[str, ResolvedModel]
    routing: RoutingTable
    pinned: tuple[str, ...] = ()

    def needed(self, routing: RoutingTable) -> tuple[str, ...]:
        """Names that every replica of their pool must hold under a routing; the default first."""
        held = (n for n, m in self.models.items() if m.spec.preload or n in self.pinned)
        names = dict.fromkeys((*routing.routed(), *held))
        return tuple(name for name in names if name in self.models)


@dataclass(frozen=True)
class Applied:
    """An operation that has become part of what is wanted.

    Attributes:
        target: What is wanted with it.
        view: The overrides with it.
        before: What was wanted without it.
        view_before: The overrides without it.
        touched: Models that must be where they are wanted for the operation to be in effect.
        routes: Whether the routing must be, too.
    """

    target: Target
    view: OverridesView
    before: Target
    view_before: OverridesView
    touched: frozenset[str]
    routes: bool

    @classmethod
    def of(
        cls,
        operation: Operation,
        before: Target,
        view_before: OverridesView,
        target: Target,
        view: OverridesView,
    ) -> Applied:
        """What an operation made of what was wanted."""
        if isinstance(operation, (Pin, Unpin)):
            touched = {operation.name} & set(target.models)
            routes = False
        else:
            touched = {n for n, m in target.models.items() if before.models.get(n) != m}
            routes = True
        return cls(target, view, before, view_before, frozenset(touched), routes)
