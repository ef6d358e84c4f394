"""A budget of bytes shared by concurrent work; knows nothing of what the bytes are."""

from __future__ import annotations

import asyncio
import threading
from collections import deque


class ByteBudget:
    """First come, first served; what is larger than the whole budget runs when it is alone.

    `take` belongs to an event loop; `try_take` and `release` may be called from any thread.

    Args:
        capacity: Bytes that may be taken at a time.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._used = 0
        self._waiters: deque[tuple[int, asyncio.Future[None]]] = deque()
        self._lock = threading.Lock()

    @property
    def used(self) -> int:
        """Bytes that are taken now."""
        return self._used

    def try_take(self, size: int) -> bool:
        """Takes bytes if that needs no wait; never overtakes those who wait."""
        with self._lock:
            if self._waiters or not self._fits(size):
                return False
            self._used += size
            return True

    async def take(self, size: int) -> None:
        """Waits until the bytes are free, and takes them."""
        granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        with self._lock:
            self._waiters.append((size, granted))
            self._grant()
        try:
            await granted
        except asyncio.CancelledError:
            with self._lock:
                waiting = (size, granted) in self._waiters
                if waiting:
                    self._waiters.remove((size, granted))
                    self._grant()  # a smaller one behind may fit now
            if not waiting:  # granted and cancelled in the same moment
                self.release(size)
            raise

    def release(self, size: int) -> None:
        """Gives bytes back."""
        with self._lock:
            self._used -= size
            self._grant()

    def _fits(self, size: int) -> bool:
        return self._used == 0 or self._used + size <= self._capacity

    def _grant(self) -> None:
        while self._waiters and self._fits(self._waiters[0][0]):
            size, granted = self._waiters.popleft()
            self._used += size
            granted.get_loop().call_soon_threadsafe(_set, granted)


def _set(granted: asyncio.Future[None]) -> None:
    if not granted.done():
        granted.set_result(None)
