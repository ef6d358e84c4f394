"""The figures of a run with changes, from records made by hand."""

from __future__ import annotations

import pytest

from serve_app.bench.live import Event, summary
from serve_app.bench.live_service import Record

OLD, NEW = "demo@1", "demo@2"


def steady(count: int, took: float, begin: float = 0.0) -> list[Record]:
    times = [begin + number * 0.1 for number in range(count)]
    return [Record(time, time + took, OLD, None, None) for time in times]


def test_a_swap_is_compared_with_the_steady_state() -> None:
    records = [*steady(100, 0.01), *steady(20, 0.02, begin=20.0)]
    events = [Event("steady", 0, 10), Event("swap", 20, 21), Event("rollback", 21, 21.5)]
    found = summary(records, events)
    assert found["steady"]["p99_ms"] == pytest.approx(10)
    assert found["swap"]["p99_ms"] == pytest.approx(20)
    figures = {ratio["name"]: (ratio["value"], ratio["met"]) for ratio in found["ratios"]}
    assert figures["p99 during swaps and rollbacks / steady"] == (pytest.approx(2), True)
    assert figures["slowest rollback to a resident revision"] == (pytest.approx(0.5), True)
    assert figures["failed requests during changes"] == (0, True)


def test_failures_are_counted_where_they_belong() -> None:
    broken = Record(20.5, 20.6, None, None, "HTTP 500: no")
    late = Record(90, 91, None, None, "connection: EOFError")
    events = [Event("steady", 0, 10), Event("swap", 20, 21), Event("kill ingress", 89.5, 92)]
    found = summary([*steady(100, 0.01), broken, late], events)
    assert found["failures"] == 2
    failed = {event["kind"]: event["failed_requests"] for event in found["events"]}
    assert failed == {"steady": 0, "swap": 1, "kill ingress": 1}
    goal = next(r for r in found["ratios"] if r["name"] == "failed requests during changes")
    assert (goal["value"], goal["met"]) == (1, False)
    assert found["faults"] == ["HTTP 500: no", "connection: EOFError"]
