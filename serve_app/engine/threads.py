"""Blocking work that may never end; knows nothing of what it runs."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from typing import TypeVar

from serve_app.errors import DeadlineExceededError

T = TypeVar("T")


async def run_within(
    seconds: float, call: Callable[[], T], discard: Callable[[T], object], name: str
) -> T:
    """Runs a blocking call in a thread of its own and waits for it for so long.

    A pool's thread would be lost to a call that hangs, and would keep the process from ending;
    this thread is a daemon.

    Args:
        seconds: How long to wait.
        call: What to run.
        discard: Gets a result that nobody waits for any longer.
        name: Name of the thread.

    Raises:
        DeadlineExceededError: The call takes longer. It goes on, and its result is discarded.
    """
    future: Future[T] = Future()  # never marked as running, so that it can be cancelled any time

    def work() -> None:
        try:
            result = call()
        except BaseException as error:
            with suppress(InvalidStateError):
                future.set_exception(error)
            return
        try:
            future.set_result(result)
        except InvalidStateError:
            discard(result)

    threading.Thread(target=work, name=name, daemon=True).start()
    deadline = asyncio.timeout(seconds)
    try:
        async with deadline:
            return await asyncio.wrap_future(future)
    except BaseException as error:
        if not future.cancel() and future.exception() is None:
            discard(future.result())  # it came while the wait was being given up
        if isinstance(error, TimeoutError) and deadline.expired():
            raise DeadlineExceededError(f"{name} took longer than {seconds:g} s") from None
        raise
