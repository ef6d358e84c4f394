import numpy as np
import pytest

from serve_app.bench.figures import LATENCY_FIELDS, Ratio, divided, latency, percentile


@pytest.mark.parametrize("percent", [0, 12.5, 50, 95, 99, 100])
@pytest.mark.parametrize("count", [1, 2, 7, 100])
def test_percentile_is_numpys(percent, count):
    values = np.random.default_rng(count).normal(size=count).tolist()
    assert percentile(values, percent) == pytest.approx(np.percentile(values, percent))


def test_percentile_of_nothing_is_refused():
    with pytest.raises(ValueError, match="at least one"):
        percentile([], 50)


def test_latency_is_in_milliseconds():
    summary = latency([0.001, 0.003, 0.002])
    assert summary is not None
    assert (summary.mean_ms, summary.p50_ms) == (pytest.approx(2.0), pytest.approx(2.0))
    assert latency([]) is None
    assert LATENCY_FIELDS == ("mean_ms", "p50_ms", "p95_ms", "p99_ms")


def test_divided_needs_both_parts():
    assert divided(6.0, 3.0) == 2.0
    assert divided(None, 3.0) is None
    assert divided(6.0, None) is None
    assert divided(6.0, 0.0) is None


@pytest.mark.parametrize(
    ("value", "comparison", "goal", "met"),
    [
        (0.65, ">=", 0.65, True),
        (0.64, ">=", 0.65, False),
        (1.3, "<=", 1.3, True),
        (1.31, "<=", 1.3, False),
        (None, ">=", 0.65, None),
        (1.0, ">=", None, None),
    ],
)
def test_goals(value, comparison, goal, met):
    ratio = Ratio("a / b", value, comparison, goal, "x")
    assert ratio.met is met
    assert ratio.as_json()["met"] is met
