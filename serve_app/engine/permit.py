"""The one permit to compute on a replica's device; knows neither models nor batches.

All model calls of a replica run in one thread, whatever the model: torch's thread settings hold
there, a device runs one batch at a time anyway, and no two forward passes fight for the cores.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import TypeVar

T = TypeVar("T")


class DevicePermit:
    """A first-come-first-served turn on the device, and the thread in which to use it."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(max_workers=1, thread_name_prefix="device")
        # asyncio.Lock wakes its waiters in order, and one that releases and asks again goes to the
        # back: models that are busy at the same time alternate batch by batch.
        self._lock = asyncio.Lock()

    @property
    def threads(self) -> Executor:
        """The device's thread, for work that must come after what already runs there."""
        return self._threads

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Waits for the device; a batch is best formed inside, when it can start at once."""
        async with self._lock:
            yield

    async def run(self, call: Callable[[], T]) -> T:
        """Runs a blocking call in the device's thread, within a `turn`."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, call)

    def close(self) -> None:
        """Lets the thread end after what it runs now."""
        self._threads.shutdown(wait=False, cancel_futures=True)
