"""Candidates that could not be loaded, and when they are tried again; pure values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from serve_app.control.observed import Observed
from serve_app.control.snapshot import ServingSnapshot

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
        killed: The replica that died of it, if one did.
    """

    attempt: int
    reason: str
    retry_at: float
    killed: str | None = None

    def blocks(self, now: float) -> bool:
        """Whether it is too early to try again."""
        return now < self.retry_at

    def unblocked(self) -> Failure:
        """The same failure, whose next attempt may begin at once."""
        return replace(self, retry_at=float("-inf"))


def failure_of(attempt: int, reason: str, now: float) -> Failure:
    """A failure; the wait is 5 s after the first attempt, and doubles up to 300 s."""
    doublings = min(max(attempt - 1, 0), _MOST_DOUBLINGS)
    return Failure(attempt, reason, now + min(FIRST_RETRY_S * 2.0**doublings, LAST_RETRY_S))


def death_of(member: str, attempt: int, now: float) -> Failure:
    """A failure that a replica died of: the wait is the longest at once, as each try costs one."""
    reason = f"the replica {member} died while it loaded it, perhaps for want of memory"
    return Failure(attempt, reason, now + LAST_RETRY_S, member)


def absorbed(
    current: ServingSnapshot, observed: Observed, failures: Mapping[str, Failure]
) -> dict[str, Failure]:
    """The failures, with those that members report, or died of, of the present candidates."""
    found = {key: _revised(failure, observed) for key, failure in failures.items()}
    for model_id, attempt in current.candidates.items():
        model = current.moving.get(model_id) or current.catalog[model_id]
        known = found.get(model_id)
        if known is not None and known.attempt >= attempt:
            continue
        killed = observed.killed(model, attempt)
        reason = observed.failure(model, attempt)
        if killed is not None:
            found[model_id] = death_of(killed, attempt, observed.now)
        elif reason is not None:
            found[model_id] = failure_of(attempt, reason, observed.now)
    return found


def _revised(failure: Failure, observed: Observed) -> Failure:
    """A load can keep a process from speaking for longer than it takes to count as dead."""
    if failure.killed is None or not observed.lives(failure.killed):
        return failure
    reason = f"the replica {failure.killed} was not heard of for a time"
    return replace(failure, reason=reason, killed=None).unblocked()
