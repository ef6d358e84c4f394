"""The whole service in one process, without Ray: what `serve-app score` uses."""

from __future__ import annotations

from typing import Self

from serve_app.config.args import Limits
from serve_app.engine.local import LocalExecutor
from serve_app.models.registry import RegistrySnapshot
from serve_app.serving.service import PipelineService


class LocalService(PipelineService):
    """A service whose models are loaded in this process.

    Use it as an async context manager, or call `close`.

    Args:
        snapshot: The declared models.
        executor: Runs them.
        limits: Bounds on what one request may ask.
        decode_threads: Threads that decode images.
    """

    def __init__(
        self,
        snapshot: RegistrySnapshot,
        executor: LocalExecutor,
        limits: Limits | None = None,
        decode_threads: int = 2,
    ) -> None:
        super().__init__(snapshot, executor, limits, decode_threads)
        self._executor = executor

    async def close(self) -> None:
        """Gives up shadows, and unloads all models."""
        self._shadows.close()
        self._pipeline.close()
        await self._executor.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()
