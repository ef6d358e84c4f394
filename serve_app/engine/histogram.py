"""How long things took, in buckets that are the same everywhere; knows nothing of what took it."""

from __future__ import annotations

import bisect
import math
from dataclasses import dataclass, field

_FIRST_MS = 0.1
_PER_OCTAVE = 4
_OCTAVES = 24

BOUNDS_MS: tuple[float, ...] = tuple(
    _FIRST_MS * 2 ** (step / _PER_OCTAVE) for step in range(_OCTAVES * _PER_OCTAVE + 1)
)
"""Upper bounds of the buckets: from 0.1 ms to 28 minutes, each 19 % above the one before. Beyond
the last there is one bucket more."""


@dataclass(slots=True)
class LatencyHistogram:
    """Counts per bucket. The buckets never change, so histograms of several processes add up.

    Attributes:
        counts: One number per bound of `BOUNDS_MS`, and one for what is beyond the last.
    """

    counts: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS_MS) + 1))

    @property
    def count(self) -> int:
        """How many times were observed."""
        return sum(self.counts)

    def observe(self, milliseconds: float) -> None:
        """Counts one time; a bound belongs to the bucket below it."""
        self.counts[bisect.bisect_left(BOUNDS_MS, milliseconds)] += 1

    def add(self, other: LatencyHistogram) -> None:
        """Counts what another one has counted."""
        self.counts = [
            mine + theirs for mine, theirs in zip(self.counts, other.counts, strict=True)
        ]

    def quantile(self, share: float) -> float | None:
        """Milliseconds that this share of the times did not exceed; None where there are none.

        Exact to the width of a bucket, 19 %: within one, times are taken to be spread evenly over
        its logarithm. Beyond the last bound, the bound.

        Args:
            share: Greater than 0, at most 1.
        """
        wanted = share * self.count
        below = 0
        for bucket, count in enumerate(self.counts):
            if count and below + count >= wanted:
                return _between(bucket, (wanted - below) / count)
            below += count
        return None


def _between(bucket: int, share: float) -> float:
    if bucket == len(BOUNDS_MS):
        return BOUNDS_MS[-1]
    upper = BOUNDS_MS[bucket]
    lower = upper / 2 ** (1 / _PER_OCTAVE)
    return float(lower * math.pow(upper / lower, share))
