"""What the HTTP routes and handle calls enter: pipeline, inventory and readiness; knows no Ray."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import io
import time
from typing import Any

from serve_app.config.args import Limits
from serve_app.engine.pipeline import ScoringPipeline
from serve_app.engine.work import Executor
from serve_app.errors import DeadlineExceededError, OverloadedError, ServeAppError
from serve_app.models.registry import RegistrySnapshot
from serve_app.serving.answers import model_answer
from serve_app.types import EmbedRequest, EmbedResponse, ScoreRequest, ScoreResponse

_READY_FOR_S = 5.0
_READY_WITHIN_S = 30.0


class PipelineService:
    """A `ScoringService` (see `serving.api`) over any executor.

    Args:
        snapshot: The declared models.
        executor: Runs them.
        limits: Bounds on what one request may ask.
        decode_threads: Threads that decode images.
    """

    def __init__(
        self,
        snapshot: RegistrySnapshot,
        executor: Executor,
        limits: Limits | None = None,
        decode_threads: int = 2,
    ) -> None:
        self._snapshot = snapshot
        self._pipeline = ScoringPipeline(
            snapshot, executor, limits or Limits(), decode_threads=decode_threads
        )
        self._ready_at = float("-inf")
        self._ready_check: asyncio.Task[None] | None = None

    async def score(self, request: ScoreRequest) -> ScoreResponse:
        """Scores pairs; see `ScoringPipeline.score`."""
        return await self._pipeline.score(request)

    async def rank(self, request: ScoreRequest) -> ScoreResponse:
        """Ranks; see `ScoringPipeline.rank`."""
        return await self._pipeline.rank(request)

    async def embed(self, request: EmbedRequest) -> EmbedResponse:
        """Embeds; see `ScoringPipeline.embed`."""
        return await self._pipeline.embed(request)

    def models(self) -> dict[str, Any]:
        """The declared models, as `ModelsAnswer`."""
        return {
            "object": "list",
            "version": self._snapshot.version,
            "data": [self.model(name) for name in self._snapshot.models],
        }

    def model(self, name: str) -> dict[str, Any]:
        """One declared model, as `ModelAnswer`; raises `UnknownModelError`."""
        model = self._snapshot.resolve(name)
        return model_answer(model, self._snapshot, self._pipeline.known_info(model.id))

    async def ready(self) -> None:
        """Returns when an inference passed within the last seconds; else runs one.

        Concurrent probes share one inference, so probing never becomes load. A queue that is full
        is no reason to be taken out of service: that would send its load to the others.

        Raises:
            ServeAppError: It did not pass.
        """
        if time.monotonic() - self._ready_at < _READY_FOR_S:
            return
        if self._ready_check is None or self._ready_check.done():
            # In a context of its own: a probe that gives up must not cancel it for the others.
            self._ready_check = asyncio.get_running_loop().create_task(
                self._infer(), context=contextvars.Context()
            )
        try:
            with contextlib.suppress(OverloadedError):
                await asyncio.wait_for(asyncio.shield(self._ready_check), _READY_WITHIN_S)
        except TimeoutError:
            raise DeadlineExceededError(
                f"an inference took longer than {_READY_WITHIN_S:g} s"
            ) from None

    async def _infer(self) -> None:
        request = ScoreRequest((_probe_image(),), ("a grey square",), request_id="readyz")
        fault = (await self.score(request)).results[0].error
        if fault is not None:
            raise ServeAppError(fault.detail)
        self._ready_at = time.monotonic()


def _probe_image() -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.new("RGB", (32, 32), (127, 127, 127)).save(buffer, format="PNG")
    return buffer.getvalue()
