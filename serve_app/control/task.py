"""Work that is not given up half-way, and work that goes on after an error."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

_log = logging.getLogger(__name__)
_Result = TypeVar("_Result")


async def to_the_end(work: Coroutine[Any, Any, _Result]) -> _Result:
    """Lets work end that was begun, also when its caller gives up: state must not be left half.

    In a context of its own: Serve cancels what a request started when its client goes away.
    """
    task = asyncio.get_running_loop().create_task(work, context=contextvars.Context())
    return await asyncio.shield(task)


@contextmanager
def undisturbed() -> Iterator[None]:
    """An error of ours must not end the plane; what was published stays in force."""
    try:
        yield
    except Exception:
        _log.exception("The control plane goes on after an error.")
