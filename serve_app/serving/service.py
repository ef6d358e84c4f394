"""What the HTTP routes and handle calls enter; knows no Ray.

Pipeline, inventory, readiness, and what has become of the requests of experiments.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import io
import time
from typing import Any, Protocol

from serve_app.config.args import Limits
from serve_app.config.faults import suggestion
from serve_app.engine.answered import Answered
from serve_app.engine.experiment_counts import ExperimentCounts, ShadowOutcome, summed
from serve_app.engine.fetching import Fetch
from serve_app.engine.pipeline import ScoringPipeline
from serve_app.engine.routes import experiments_of
from serve_app.engine.shadows import ShadowRunner
from serve_app.engine.work import Executor
from serve_app.errors import (
    DeadlineExceededError,
    OverloadedError,
    ServeAppError,
    UnknownExperimentError,
)
from serve_app.models.snapshot import ResolvedModel, Snapshot
from serve_app.serving.answers import experiment_answer
from serve_app.serving.inventory import find_model, model_answer, models_answer
from serve_app.types import EmbedRequest, EmbedResponse, ScoreRequest, ScoreResponse

_READY_FOR_S = 5.0
_READY_WITHIN_S = 30.0
_TOLD_WITHIN_S = 5.0


class Metrics(Protocol):
    """Where requests are counted besides in the reports of experiments."""

    def answered(self, answered: Answered) -> None:
        """Counts a request that is over."""

    def shadow(self, experiment: str, model: str, outcome: ShadowOutcome) -> None:
        """Counts what has become of a request on a shadow."""


class PipelineService:
    """A `ScoringService` (see `serving.api`) over any executor.

    Args:
        snapshot: The declared models and their routing.
        executor: Runs them.
        limits: Bounds on what one request may ask.
        decode_threads: Threads that decode images.
        metrics: Where else requests are counted.
        fetch: Fetches an image by its URL; None: URLs are faults.
    """

    def __init__(
        self,
        snapshot: Snapshot,
        executor: Executor,
        limits: Limits | None = None,
        decode_threads: int = 2,
        metrics: Metrics | None = None,
        *,
        fetch: Fetch | None = None,
    ) -> None:
        self._snapshot = snapshot
        self._metrics = metrics
        self._counts = ExperimentCounts()
        self._pipeline = ScoringPipeline(
            snapshot,
            executor,
            limits or Limits(),
            decode_threads=decode_threads,
            on_answered=self._answered,
            fetch=fetch,
        )
        self._shadows = ShadowRunner(
            self._pipeline.shadow, self._shadowed, lambda: self._pipeline.in_flight
        )
        self._ready_at = float("-inf")
        self._ready_check: asyncio.Task[None] | None = None

    def update(self, snapshot: Snapshot) -> None:
        """Swaps models and routing; requests in progress keep what they began with."""
        self._snapshot = snapshot
        self._pipeline.update(snapshot)

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
        """Models and where they stand, as `ModelsAnswer`."""
        return models_answer(self._snapshot, self._pipeline.known_info)

    async def model(self, name: str) -> dict[str, Any]:
        """One model, and how it is on each replica, as `ModelAnswer`.

        Asking loads nothing: what only a loaded model can tell is told where a replica holds it.

        Raises:
            UnknownModelError: There is none of this name.
        """
        model = find_model(self._snapshot, name)
        replicas = await self._replicas(model)
        info = self._pipeline.known_info(model.id)
        if info is None and any(replica["state"] == "ready" for replica in replicas or ()):
            with contextlib.suppress(ServeAppError, TimeoutError):
                info = await asyncio.wait_for(self._pipeline.info(model.id), _TOLD_WITHIN_S)
        return {**model_answer(model, self._snapshot, info), "replicas": replicas}

    async def _replicas(self, model: ResolvedModel) -> list[dict[str, Any]] | None:
        """How the model is on each replica of its pool, as `ReplicaAnswer`s; None: not known."""
        return None

    async def experiments(self) -> dict[str, Any]:
        """The declared experiments, as `ExperimentsAnswer`."""
        specs = experiments_of(self._snapshot)
        counts = await self._everyones_counts() if specs else []
        total = summed(counts)
        data = [experiment_answer(name, spec, total, len(counts)) for name, spec in specs.items()]
        return {"object": "list", "data": data}

    async def experiment(self, name: str) -> dict[str, Any]:
        """One declared experiment, as `ExperimentAnswer`; raises `UnknownExperimentError`."""
        specs = experiments_of(self._snapshot)
        if name not in specs:
            near = suggestion(name, specs) or "."
            known = f"Declared are: {', '.join(specs)}." if specs else "None is declared."
            raise UnknownExperimentError(f"There is no experiment {name!r}{near} {known}")
        counts = await self._everyones_counts()
        return experiment_answer(name, specs[name], summed(counts), len(counts))

    async def experiment_counts(self) -> ExperimentCounts:
        """What this process has counted; a copy."""
        return summed([self._counts])

    async def _everyones_counts(self) -> list[ExperimentCounts]:
        """The counts of every process that answers requests of this service."""
        return [await self.experiment_counts()]

    def _answered(self, answered: Answered) -> None:
        self._counts.note(answered)
        if self._metrics is not None:
            self._metrics.answered(answered)
        self._shadows.offer(answered)

    def _shadowed(self, experiment: str, model: str, outcome: ShadowOutcome) -> None:
        self._counts.note_shadow(experiment, model, outcome)
        if self._metrics is not None:
            self._metrics.shadow(experiment, model, outcome)

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
        # The model is named: a probe is nobody's request, and no experiment counts it.
        request = ScoreRequest(
            (_probe_image(),),
            ("a grey square",),
            model=self._snapshot.default,
            request_id="readyz",
        )
        fault = (await self.score(request)).results[0].error
        if fault is not None:
            raise ServeAppError(fault.detail)
        self._ready_at = time.monotonic()


def _probe_image() -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.new("RGB", (32, 32), (127, 127, 127)).save(buffer, format="PNG")
    return buffer.getvalue()
