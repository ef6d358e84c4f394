"""Wakes everyone who waits; carries nothing, so a waiter looks again at what it waits for."""

from __future__ import annotations

import asyncio


class Signal:
    """Something that happens again and again.

    A waiter checks its condition and then calls `wait`; in between it must not await anything, or
    it misses what happened meanwhile.
    """

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def send(self) -> None:
        """Wakes all who wait now."""
        event, self._event = self._event, asyncio.Event()
        event.set()

    async def wait(self, timeout_s: float) -> bool:
        """Waits for the next `send`; False when the time is over first."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._event.wait()
        except TimeoutError:
            return False
        return True
