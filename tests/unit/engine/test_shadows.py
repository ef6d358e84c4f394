from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator

import pytest

from serve_app.engine.answered import Answered, Outcome
from serve_app.engine.routes import Routed
from serve_app.engine.shadows import ShadowRunner
from serve_app.errors import OverloadedError, UnknownMetricError
from serve_app.models.registry import ResolvedModel
from serve_app.routing.table import Route
from serve_app.types import ItemFault, PairResult, ScoreRequest, ScoreResponse
from tests.unit.engine.conftest import resolved, snapshot_of

SNAPSHOT = snapshot_of(resolved("a"), resolved("b"), resolved("c"))


def answered(
    arm: str = "a",
    shadows: tuple[str, ...] = ("b",),
    outcome: Outcome | None = None,
    experiment: str | None = "test",
) -> Answered:
    route = Route(arm, experiment, arm if experiment else None, shadows)
    routed = Routed(SNAPSHOT, route, SNAPSHOT.resolve(arm))
    return Answered(ScoreRequest((b"x",), ("y",)), routed, 0.1, outcome or Outcome())


class Bench:
    """A runner, what it ran and what it told; the test says how the models behave."""

    def __init__(self) -> None:
        self.in_flight = 0
        self.now = 0.0
        self.ran: list[str] = []
        self.outcomes: Counter[tuple[str, str, str]] = Counter()
        self.error: Exception | None = None
        self.fault: ItemFault | None = None
        self.gate = asyncio.Event()
        self.gate.set()
        self.runner = ShadowRunner(
            self.score,
            lambda *told: self.outcomes.update([told]),
            lambda: self.in_flight,
            concurrent=3,
            quiet=2,
            grace_s=0,
            clock=lambda: self.now,
        )

    async def score(self, asked: Answered, model: ResolvedModel) -> ScoreResponse:
        self.ran.append(model.name)
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        return ScoreResponse("1", model.id, (PairResult(0, 0, error=self.fault),), {})


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    made = Bench()
    yield made
    made.runner.close()
    await made.runner.drain()


async def test_every_shadow_but_the_model_that_answered_scores_the_request(bench: Bench) -> None:
    bench.runner.offer(answered("a", ("a", "b", "c")))
    assert bench.ran == [], "a shadow began before the answer was handed over"
    await bench.runner.drain()
    assert bench.ran == ["b", "c"]
    assert bench.outcomes == {("test", "b", "sent"): 1, ("test", "c", "sent"): 1}


async def test_a_shadow_is_dropped_while_requests_are_in_progress(bench: Bench) -> None:
    bench.in_flight = 2
    bench.runner.offer(answered())
    await bench.runner.drain()
    assert bench.ran == []
    bench.in_flight = 1
    bench.runner.offer(answered())
    await bench.runner.drain()
    assert bench.outcomes == {("test", "b", "dropped"): 1, ("test", "b", "sent"): 1}


async def test_no_more_than_the_bound_run_at_a_time(bench: Bench) -> None:
    bench.gate.clear()
    for _ in range(5):
        bench.runner.offer(answered())
    assert bench.outcomes == {("test", "b", "dropped"): 2}
    bench.gate.set()
    await bench.runner.drain()
    assert bench.outcomes == {("test", "b", "dropped"): 2, ("test", "b", "sent"): 3}
    bench.runner.offer(answered())
    await bench.runner.drain()
    assert bench.outcomes["test", "b", "sent"] == 4


async def test_work_that_a_replica_refuses_is_dropped_and_not_failed(bench: Bench) -> None:
    bench.error = OverloadedError("others wait")
    bench.runner.offer(answered())
    await bench.runner.drain()
    assert bench.outcomes == {("test", "b", "dropped"): 1}


async def test_a_failure_is_counted_and_logged_once_a_minute(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    def logged() -> int:
        return sum(record.levelno >= logging.WARNING for record in caplog.records)

    for error in (ZeroDivisionError(), UnknownMetricError("x"), ZeroDivisionError()):
        bench.error = error
        bench.runner.offer(answered())
        await bench.runner.drain()
    assert bench.outcomes == {("test", "b", "failed"): 3}
    assert logged() == 1
    bench.now = 61
    bench.runner.offer(answered())
    await bench.runner.drain()
    assert logged() == 2


async def test_an_answer_without_a_result_for_the_models_sake_is_a_failure(bench: Bench) -> None:
    bench.fault = ItemFault("model_failed", "it raised")
    bench.runner.offer(answered())
    await bench.runner.drain()
    assert bench.outcomes == {("test", "b", "failed"): 1}


async def test_what_was_not_answered_or_is_in_no_experiment_has_no_shadow(bench: Bench) -> None:
    bench.runner.offer(answered(outcome=Outcome("overloaded", True)))
    bench.runner.offer(answered(outcome=Outcome("unknown_metric", False)))
    bench.runner.offer(answered(experiment=None))
    await bench.runner.drain()
    assert (bench.ran, bench.outcomes) == ([], {})


async def test_close_gives_up_what_is_in_progress(bench: Bench) -> None:
    bench.gate.clear()
    bench.runner.offer(answered())
    await asyncio.sleep(0)
    bench.runner.close()
    await bench.runner.drain()
    assert bench.outcomes == {}
