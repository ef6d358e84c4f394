from __future__ import annotations

import itertools
import pickle
import random

import pytest

from serve_app.engine.histogram import BOUNDS_MS, LatencyHistogram


def histogram(*milliseconds: float) -> LatencyHistogram:
    made = LatencyHistogram()
    for each in milliseconds:
        made.observe(each)
    return made


def test_buckets_are_even_on_a_logarithmic_scale_and_span_what_requests_take() -> None:
    ratios = [upper / lower for lower, upper in itertools.pairwise(BOUNDS_MS)]
    assert ratios == pytest.approx([2**0.25] * len(ratios))
    assert BOUNDS_MS[0] == pytest.approx(0.1)
    assert BOUNDS_MS[-1] > 1000 * 20 * 60


def test_quantiles_are_right_to_the_width_of_a_bucket() -> None:
    generator = random.Random(3)
    times = sorted(generator.lognormvariate(3, 1) for _ in range(5000))
    made = histogram(*times)
    assert made.count == 5000
    for share in (0.05, 0.5, 0.95, 0.999):
        assert made.quantile(share) == pytest.approx(times[int(share * 5000) - 1], rel=0.19)
    assert made.quantile(1) == pytest.approx(times[-1], rel=0.19)


def test_of_nothing_there_is_no_quantile() -> None:
    assert LatencyHistogram().quantile(0.5) is None


def test_what_is_outside_of_the_bounds_is_counted_at_them() -> None:
    assert histogram(0.0).quantile(1) == BOUNDS_MS[0]
    assert histogram(1e9).quantile(0.5) == BOUNDS_MS[-1]
    assert histogram(0.0, 1e9).count == 2


def test_histograms_of_two_processes_add_up_to_that_of_all_times() -> None:
    generator = random.Random(5)
    times = [generator.lognormvariate(2, 2) for _ in range(400)]
    one, other = histogram(*times[:150]), histogram(*times[150:])
    carried = pickle.loads(pickle.dumps(other))
    one.add(carried)
    assert one == histogram(*times)
    assert carried == other, "adding changed what was added"
