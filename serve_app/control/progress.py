"""What the planner remembers from one plan to the next; pure values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from serve_app.control.failures import Failure
from serve_app.control.snapshot import ServingSnapshot


@dataclass(frozen=True, slots=True)
class Retiring:
    """A revision that nothing wants any longer.

    Attributes:
        left_at: Counter of the version from which on it is so.
        drained_at: Since when nobody uses it, by the steady clock; None while somebody may.
    """

    left_at: int
    drained_at: float | None = None


@dataclass(frozen=True)
class Progress:
    """What the planner remembers from one plan to the next.

    Attributes:
        failures: By id, candidates that failed.
        attempts: By id, the last attempt that was asked for. A replica tries each number once, so
            none is used again.
        introduced: By id and pool, the counter of the version that told of them first.
        retiring: By id.
    """

    failures: Mapping[str, Failure] = field(default_factory=dict)
    attempts: Mapping[str, int] = field(default_factory=dict)
    introduced: Mapping[tuple[str, str], int] = field(default_factory=dict)
    retiring: Mapping[str, Retiring] = field(default_factory=dict)

    @classmethod
    def of(cls, snapshot: ServingSnapshot) -> Progress:
        """The progress to begin with: whoever joins gets this snapshot and knows its catalog."""
        known = ((model.id, model.spec.pool) for model in snapshot.catalog.values())
        return cls(introduced=dict.fromkeys(known, snapshot.version[1]))

    def unblocked(self) -> Progress:
        """All failures may be tried again at once."""
        return replace(self, failures={key: f.unblocked() for key, f in self.failures.items()})
