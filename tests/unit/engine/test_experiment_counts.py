from __future__ import annotations

import pickle

import pytest

from serve_app.engine.answered import (
    Answered,
    Outcome,
    outcome_of_error,
    outcome_of_response,
)
from serve_app.engine.experiment_counts import ArmCounts, ExperimentCounts, ShadowCounts, summed
from serve_app.engine.routes import Routed
from serve_app.errors import (
    DeadlineExceededError,
    ModelLoadError,
    OverloadedError,
    UnknownMetricError,
)
from serve_app.routing.table import Route
from serve_app.types import EmbedResponse, EmbedResult, ItemFault, PairResult, ScoreRequest
from serve_app.types import ScoreResponse as Response
from tests.unit.engine.conftest import resolved, snapshot_of

OURS = ItemFault("model_failed", "it raised")
THEIRS = ItemFault("image_undecodable", "broken")


def answered(arm: str | None, seconds: float = 0.01, outcome: Outcome | None = None) -> Answered:
    snapshot = snapshot_of(resolved("a"), resolved("b"))
    route = Route("a") if arm is None else Route(arm, "test", arm)
    routed = Routed(snapshot, route, snapshot.resolve(route.model))
    return Answered(ScoreRequest((b"x",), ("y",)), routed, seconds, outcome or Outcome())


def test_requests_are_counted_by_arm_and_those_outside_of_experiments_are_not() -> None:
    counts = ExperimentCounts()
    for arm in ("a", "b", "a", None):
        counts.note(answered(arm))
    assert (counts.arm("test", "a").count, counts.arm("test", "b").count) == (2, 1)
    assert list(counts.arms) == [("test", "a"), ("test", "b")]
    assert counts.arm("test", "nobody") == ArmCounts()
    assert counts.shadow("test", "nobody") == ShadowCounts()


def test_what_the_service_failed_is_an_error_and_only_answers_have_a_latency() -> None:
    counts = ExperimentCounts()
    counts.note(answered("a", 0.1))
    counts.note(answered("a", 9.0, Outcome("overloaded", True)))
    counts.note(answered("a", 9.0, Outcome("unknown_metric", False)))
    found = counts.arm("test", "a")
    assert (found.count, found.errors, found.latency.count) == (3, 1, 1)
    assert found.latency.quantile(1) == pytest.approx(100, rel=0.19)


def test_counts_of_several_processes_add_up_and_stay_as_they_are() -> None:
    one, other = ExperimentCounts(), ExperimentCounts()
    one.note(answered("a", 0.1))
    other.note(answered("a", 0.2, Outcome("internal_error", True)))
    other.note(answered("b", 0.4))
    one.note_shadow("test", "c", "sent")
    other.note_shadow("test", "c", "dropped")
    other.note_shadow("test", "c", "failed")
    before = pickle.dumps(one), pickle.dumps(other)
    total = summed([one, pickle.loads(before[1])])
    assert (total.arm("test", "a").count, total.arm("test", "a").errors) == (2, 1)
    assert total.arm("test", "b").latency.count == 1
    assert total.shadow("test", "c") == ShadowCounts(1, 1, 1)
    copy = summed([one])
    one.note(answered("a"))
    assert copy.arm("test", "a").count == 1, "a copy changed with its original"
    assert pickle.dumps(other) == before[1]


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (OverloadedError("x"), Outcome("overloaded", True)),
        (DeadlineExceededError("x"), Outcome("deadline_exceeded", True)),
        (ModelLoadError("x"), Outcome("model_load_failed", True)),
        (UnknownMetricError("x"), Outcome("unknown_metric", False)),
        (ZeroDivisionError("x"), Outcome("internal_error", True)),
    ],
)
def test_outcomes_of_errors(error: Exception, outcome: Outcome) -> None:
    assert outcome_of_error(error) == outcome


@pytest.mark.parametrize(
    ("faults", "outcome"),
    [
        ([None], Outcome()),
        ([None, OURS], Outcome()),
        ([THEIRS, THEIRS], Outcome()),
        ([OURS, OURS], Outcome("model_failed", True)),
        ([THEIRS, OURS], Outcome("model_failed", True)),
        ([], Outcome()),
    ],
)
def test_an_answer_without_any_result_has_failed_where_the_model_is_why(
    faults: list[ItemFault | None], outcome: Outcome
) -> None:
    pairs = tuple(PairResult(0, i, error=fault) for i, fault in enumerate(faults))
    embeddings = tuple(EmbedResult(i, error=fault) for i, fault in enumerate(faults))
    assert outcome_of_response(Response("1", "a@1", pairs, {})) == outcome
    assert outcome_of_response(EmbedResponse("1", "a@1", 2, embeddings, {})) == outcome
