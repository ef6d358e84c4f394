"""When a batch should wait a moment for more requests; knows no queue and no model.

Each batch has a fixed cost besides that of its items (on CPUs with bf16, packing the weights: more
than two images' worth). A batcher that starts whatever is there as soon as the device is free, with
clients that send their next request when they have the last answer, runs two groups in turn: one
computes while the other comes back, and the fixed cost is paid twice per round. Those who were
just answered are back within milliseconds; waiting for them for a small part of a batch's time
makes one group of two. Where they do not come back so soon, the wait is left out ever more often.

Whoever is alone never waits: then nobody else was answered just before. An idle device does not
wait either, as the wait is counted from the end of the last batch.
"""

from __future__ import annotations

_RAREST = 64


class CoalescingPolicy:
    """Bounds the wait after a batch by a fraction of what that batch took.

    Args:
        fraction: Longest wait as a part of the last batch's time; 0 never waits.
    """

    def __init__(self, fraction: float = 0.05) -> None:
        self._fraction = fraction
        self._expected = 0
        self._until = float("-inf")
        self._waited = False
        self._skip = 0  # how many waits to leave out after one that was in vain
        self._skipped = 0

    def ended(self, requests: int, took: float, now: float) -> None:
        """Takes note of a batch's end.

        Args:
            requests: Requests that it answered, and those that wait: as many may soon be there.
            took: Its time in seconds.
            now: The time, in seconds of any steady clock.
        """
        self._expected = requests
        self._waited = False
        self._until = now + self._fraction * took
        if self._skipped < self._skip:
            self._skipped += 1
            self._until = now

    def wait(self, waiting: int, now: float) -> float:
        """Seconds to wait for more before the next batch starts; 0: start now.

        Args:
            waiting: Requests that wait now.
            now: The time, on the clock of `ended`.
        """
        if waiting >= self._expected:
            if self._waited:
                self._skip = self._skipped = 0
            return 0.0
        left = self._until - now
        if left > 0:
            self._waited = True
            return left
        if self._waited:  # in vain
            self._waited = False
            self._skip = min(max(1, 2 * self._skip), _RAREST)
            self._skipped = 0
        return 0.0
