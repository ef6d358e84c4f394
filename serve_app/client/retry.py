"""When to try again and how long to wait; knows no transport.

Scoring changes nothing on the service, so doing it twice is always safe; doing it twice *when it
will fail again* only adds load. What is worth another try is therefore decided where a failure is
understood, by raising `TransientFailure`; this module only counts, waits and gives up.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Generator
from dataclasses import dataclass
from typing import TypeVar

from serve_app.errors import DeadlineExceededError, ServeAppError

ResultT = TypeVar("ResultT")

_FIRST_WAIT_S = 0.1
_LONGEST_WAIT_S = 5.0


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often, and within what time.

    Attributes:
        retries: Further tries after the first.
        timeout_s: Seconds for the whole call, waits included.
    """

    retries: int = 2
    timeout_s: float = 60.0


@dataclass(frozen=True, slots=True)
class Attempt:
    """What to do next: wait, then try for at most `timeout_s`."""

    wait_s: float
    timeout_s: float


class TransientFailure(Exception):  # noqa: N818 - never leaves the client; `error` does
    """A try failed in a way that may pass; `error` is what the caller sees if it does not."""

    def __init__(self, error: ServeAppError, retry_after_s: float | None = None) -> None:
        super().__init__(error.detail)
        self.error = error
        self.retry_after_s = retry_after_s


def call_with_retries(policy: RetryPolicy, send: Callable[[float], ResultT]) -> ResultT:
    """Calls `send(timeout_s)` until it succeeds, fails for good, or the policy is used up."""
    plan = _plan(policy)
    attempt = next(plan)
    while True:
        time.sleep(attempt.wait_s)
        try:
            return send(attempt.timeout_s)
        except TransientFailure as failure:
            attempt = plan.send(failure)


async def call_with_retries_async(
    policy: RetryPolicy, send: Callable[[float], Awaitable[ResultT]]
) -> ResultT:
    """As `call_with_retries`, without blocking the event loop."""
    plan = _plan(policy)
    attempt = next(plan)
    while True:
        await asyncio.sleep(attempt.wait_s)
        try:
            # The transports bound each read; only this bounds a peer that sends byte by byte.
            async with asyncio.timeout(attempt.timeout_s):
                return await send(attempt.timeout_s)
        except TransientFailure as failure:
            attempt = plan.send(failure)
        except TimeoutError as error:
            raise no_answer(policy.timeout_s) from error


def no_answer(timeout_s: float) -> DeadlineExceededError:
    """The error of a call that took longer than its timeout."""
    return DeadlineExceededError(f"No answer within {timeout_s:g} s, the client's timeout.")


def _plan(policy: RetryPolicy) -> Generator[Attempt, TransientFailure, None]:
    """Yields attempts and is sent their failures; raises the last failure's error to give up."""
    deadline = time.monotonic() + policy.timeout_s
    wait_s = 0.0
    for number in range(policy.retries + 1):
        remaining_s = deadline - time.monotonic() - wait_s
        failure = yield Attempt(wait_s, max(remaining_s, 0.001))
        # Full jitter on the upper half: clients that failed together must not return together.
        backoff_s = min(_FIRST_WAIT_S * 2**number, _LONGEST_WAIT_S) * random.uniform(0.5, 1.0)
        wait_s = max(failure.retry_after_s or 0.0, backoff_s)
        if number == policy.retries or time.monotonic() + wait_s >= deadline:
            raise failure.error from failure.error.__cause__
