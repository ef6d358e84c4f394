"""Numbers from measurements: percentiles, rates, and ratios beside their goals; pure functions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class Latency:
    """Milliseconds of a number of requests."""

    mean_ms: float
    p50_ms: float
    p95_ms: float
    p99_ms: float


LATENCY_FIELDS = tuple(field.name for field in fields(Latency))
"""Names of the fields of a `Latency`."""


@dataclass(frozen=True, slots=True)
class Ratio:
    """A figure beside the goal that was asked for.

    Attributes:
        name: What is compared with what.
        value: The figure; None where a part of it was not measured.
        comparison: How the figure should lie to the goal.
        goal: The goal; None where none was set.
        unit: What both are counted in.
    """

    name: str
    value: float | None
    comparison: Literal[">=", "<="]
    goal: float | None
    unit: str

    @property
    def met(self) -> bool | None:
        """Whether the goal is reached; None where there is no figure or no goal."""
        if self.value is None or self.goal is None:
            return None
        return self.value >= self.goal if self.comparison == ">=" else self.value <= self.goal

    def as_json(self) -> dict[str, Any]:
        """All fields, and `met`."""
        return {**asdict(self), "met": self.met}


def percentile(values: Sequence[float], percent: float) -> float:
    """The value below which `percent` of the values lie, linear between neighbours.

    Args:
        values: At least one, in any order.
        percent: 0 to 100.

    Raises:
        ValueError: There are no values.
    """
    if not values:
        raise ValueError("a percentile needs at least one value")
    ordered = sorted(values)
    position = (len(ordered) - 1) * percent / 100
    below = math.floor(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (position - below)


def latency(seconds: Sequence[float]) -> Latency | None:
    """Sums up latencies given in seconds; None where there are none."""
    if not seconds:
        return None
    return Latency(
        mean_ms=1000 * sum(seconds) / len(seconds),
        p50_ms=1000 * percentile(seconds, 50),
        p95_ms=1000 * percentile(seconds, 95),
        p99_ms=1000 * percentile(seconds, 99),
    )


def divided(numerator: float | None, denominator: float | None) -> float | None:
    """The quotient; None where a part is missing or the denominator is zero."""
    if numerator is None or not denominator:
        return None
    return numerator / denominator
