import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.scoring.metrics import METRICS, ScoreInputs

cosines = st.floats(-1, 1)
scales = st.floats(0.01, 1000)
biases = st.floats(-1000, 1000)


def value(name: str, cosine: float, scale: float = 100.0, bias: float = 0.0) -> float:
    return METRICS[name].compute(ScoreInputs(cosine, scale, bias))


def test_formulas() -> None:
    assert value("cosine", 0.3) == 0.3
    assert value("logit", 0.3, 100, -10) == pytest.approx(20)
    assert value("probability", 0.1, 100, -10) == pytest.approx(0.5)
    assert value("probability", 0.12, 100, -10) == pytest.approx(1 / (1 + math.exp(-2)))
    assert value("clipscore", 0.3) == pytest.approx(0.75)
    assert value("clipscore", -0.3) == 0


def test_only_clipscore_changes_the_text() -> None:
    prefixes = {name: metric.text_prefix for name, metric in METRICS.items()}
    assert prefixes.pop("clipscore") == "A photo depicts "
    assert set(prefixes.values()) == {""}


@given(cosines, scales, biases)
def test_values_stay_in_the_declared_range(cosine: float, scale: float, bias: float) -> None:
    for metric in METRICS.values():
        assert metric.low <= metric.compute(ScoreInputs(cosine, scale, bias)) <= metric.high


@given(cosines, cosines, scales, biases)
def test_a_better_cosine_never_scores_less(a: float, b: float, scale: float, bias: float) -> None:
    low, high = sorted((a, b))
    for name in METRICS:
        assert value(name, low, scale, bias) <= value(name, high, scale, bias)


@given(cosines, scales, biases)
def test_probability_of_the_opposite(cosine: float, scale: float, bias: float) -> None:
    together = value("probability", cosine, scale, bias) + value(
        "probability", -cosine, scale, -bias
    )
    assert together == pytest.approx(1)


@pytest.mark.parametrize(("bias", "expected"), [(-1e6, 0.0), (1e6, 1.0)])
def test_extreme_logits_do_not_overflow(bias: float, expected: float) -> None:
    assert value("probability", 0.0, 1.0, bias) == expected
