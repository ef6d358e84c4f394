"""Candidates that could not be loaded, and when they are tried again; pure values."""

from __future__ import annotations

from dataclasses import dataclass, replace

FIRST_RETRY_S = 5.0
LAST_RETRY_S = 300.0
_MOST_DOUBLINGS = 16


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a candidate failed.

    Attributes:
        attempt: The attempt that failed; attempts count up.
        reason: In words, with the member that it failed on.
        retry_at: When the next attempt may begin, by the plane's steady clock.
    """

    attempt: int
    reason: str
    retry_at: float

    def blocks(self, now: float) -> bool:
        """Whether it is too early to try again."""
        return now < self.retry_at

    def unblocked(self) -> Failure:
        """The same failure, whose next attempt may begin at once."""
        return replace(self, retry_at=float("-inf"))


def failure_of(attempt: int, reason: str, now: float, *, fatal: bool = False) -> Failure:
    """A failure; the wait is 5 s after the first attempt, and doubles up to 300 s.

    Args:
        attempt: Counts up.
        reason: In words.
        now: By the plane's steady clock.
        fatal: Whether a replica died of it: the wait is the longest at once, as each try costs
            one.
    """
    if fatal:
        return Failure(attempt, reason, now + LAST_RETRY_S)
    doublings = min(max(attempt - 1, 0), _MOST_DOUBLINGS)
    return Failure(attempt, reason, now + min(FIRST_RETRY_S * 2.0**doublings, LAST_RETRY_S))
