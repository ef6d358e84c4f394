"""Scores requests once more on an experiment's shadow models; knows no model and no transport.

A shadow is worth less than any request that somebody waits for: it begins after the answer was
handed over, only while little is in progress, and a few at a time. Nobody ever sees it fail.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import time
from collections.abc import Awaitable, Callable

from serve_app.engine.answered import OK, Answered, outcome_of_response
from serve_app.engine.experiment_counts import ShadowOutcome
from serve_app.errors import OverloadedError
from serve_app.models.registry import ResolvedModel
from serve_app.types import EmbedResponse, ScoreResponse

logger = logging.getLogger("serve_app.engine")

_LOG_EVERY_S = 60.0

Score = Callable[[Answered, ResolvedModel], Awaitable[ScoreResponse | EmbedResponse]]
Note = Callable[[str, str, ShadowOutcome], None]


class ShadowRunner:
    """Runs shadows; all methods belong to one event loop.

    Args:
        score: Scores the request of an answer on a model.
        note: Is told experiment, model and what became of the request.
        in_flight: How many requests are in progress.
        concurrent: Most shadows at a time; they hold their requests' images.
        quiet: A shadow begins only while fewer requests than this are in progress.
        grace_s: Seconds from an answer to its shadows: by then it is on its way.
        clock: Steady seconds; decides when a failure may be logged again.
    """

    def __init__(
        self,
        score: Score,
        note: Note,
        in_flight: Callable[[], int],
        *,
        concurrent: int = 4,
        quiet: int = 4,
        grace_s: float = 0.01,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._score = score
        self._note = note
        self._in_flight = in_flight
        self._concurrent = concurrent
        self._quiet = quiet
        self._grace_s = grace_s
        self._clock = clock
        self._tasks: set[asyncio.Task[None]] = set()
        self._logged_at = float("-inf")

    def offer(self, answered: Answered) -> None:
        """Scores an answered request on its shadows later, or drops it; returns at once."""
        chosen = answered.routed.experiment
        if chosen is None or answered.outcome.code != OK:
            return
        for name in answered.routed.route.shadows:
            if name == answered.routed.model.name:
                continue
            if len(self._tasks) >= self._concurrent:
                self._note(chosen.name, name, "dropped")
                continue
            model = answered.routed.snapshot.resolve(name)
            # In a context of its own: Serve cancels what a request started when its client goes
            # away, and is told by the context which request a call belongs to.
            task = asyncio.get_running_loop().create_task(
                self._run(answered, chosen.name, model), context=contextvars.Context()
            )
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def drain(self) -> None:
        """Returns when no shadow is in progress."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    def close(self) -> None:
        """Gives up what is in progress."""
        for task in self._tasks:
            task.cancel()

    async def _run(self, answered: Answered, experiment: str, model: ResolvedModel) -> None:
        await asyncio.sleep(self._grace_s)
        outcome: ShadowOutcome = "dropped"
        if self._in_flight() < self._quiet:
            try:
                response = await self._score(answered, model)
                outcome = "failed" if outcome_of_response(response).failed else "sent"
            except OverloadedError:
                pass
            except Exception as error:
                outcome = "failed"
                self._log(experiment, model, error)
        self._note(experiment, model.name, outcome)

    def _log(self, experiment: str, model: ResolvedModel, error: Exception) -> None:
        now = self._clock()
        if now - self._logged_at >= _LOG_EVERY_S:
            self._logged_at = now
            logger.warning(
                "%s failed as a shadow of the experiment %s", model.id, experiment, exc_info=error
            )
