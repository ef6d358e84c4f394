"""What is known of models, asked for once; knows no transport."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable, Callable, Iterable

from serve_app.models.base import ModelInfo


class ModelInfos:
    """`ModelInfo` by id. An id stands for one content, so what was told stays true.

    Args:
        describe: Asks the executor, which may load the model for it.
    """

    def __init__(self, describe: Callable[[str], Awaitable[ModelInfo]]) -> None:
        self._describe = describe
        self._known: dict[str, ModelInfo] = {}
        self._asking: dict[str, asyncio.Task[ModelInfo]] = {}

    def known(self, model_id: str) -> ModelInfo | None:
        """The info, if it was asked for before."""
        return self._known.get(model_id)

    async def get(self, model_id: str) -> ModelInfo:
        """The info; concurrent callers share one question, and failures are not kept."""
        known = self._known.get(model_id)
        if known is not None:
            return known
        task = self._asking.get(model_id)
        if task is None:
            # In a context of its own: Serve cancels what a request started when its client goes
            # away, and this is for all who ask.
            task = asyncio.get_running_loop().create_task(
                self._ask(model_id), context=contextvars.Context()
            )
            task.add_done_callback(_retrieve)
            self._asking[model_id] = task
        # Who gives up must not take the answer away from the others.
        return await asyncio.shield(task)

    def keep_only(self, model_ids: Iterable[str]) -> None:
        """Forgets all other models."""
        wanted = set(model_ids)
        self._known = {key: info for key, info in self._known.items() if key in wanted}

    async def _ask(self, model_id: str) -> ModelInfo:
        try:
            info = await self._describe(model_id)
        finally:
            del self._asking[model_id]
        self._known[model_id] = info
        return info


def _retrieve(task: asyncio.Task[ModelInfo]) -> None:
    """Marks a failure as seen: perhaps nobody waits for it any longer."""
    if not task.cancelled():
        task.exception()
