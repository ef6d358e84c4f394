"""What an operator changed, on top of what is declared; decides nothing about its effect."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any


@dataclass(frozen=True)
class Overrides:
    """Changes on top of the declared configuration. Cannot be changed; pickles.

    Attributes:
        snapshot: Number of the configuration snapshot that stands in for what is declared.
        default: What answers a request that names nothing.
        weights: Arms and percentages by experiment.
        pinned: Models that every replica of their pool holds, in order.
        keep: Whether they outlast a change of the declared configuration.
    """

    snapshot: int | None = None
    default: str | None = None
    weights: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    pinned: tuple[str, ...] = ()
    keep: bool = False

    def __post_init__(self) -> None:
        frozen = {name: MappingProxyType(dict(arms)) for name, arms in self.weights.items()}
        object.__setattr__(self, "weights", MappingProxyType(frozen))

    def __bool__(self) -> bool:
        return bool(
            self.snapshot is not None or self.default is not None or self.weights or self.pinned
        )

    def __reduce__(self) -> tuple[Any, ...]:
        # A mapping proxy does not pickle.
        weights = {name: dict(arms) for name, arms in self.weights.items()}
        return (type(self), (self.snapshot, self.default, weights, self.pinned, self.keep))


@dataclass(frozen=True, slots=True)
class OverridesView:
    """Overrides, and where they come from.

    Attributes:
        overrides: What is changed.
        who: Who changed it last.
        reason: Why.
        since: When, in seconds since 1970.
        declared: Digest of the declared configuration that they were put on top of; they end when
            it becomes another one.
    """

    overrides: Overrides = Overrides()
    who: str | None = None
    reason: str | None = None
    since: float | None = None
    declared: str | None = None

    def __bool__(self) -> bool:
        return bool(self.overrides)
