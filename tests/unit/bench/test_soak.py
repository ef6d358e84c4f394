"""What counts as growth, from samples made by hand; and that each kind of request is answered."""

from __future__ import annotations

import random
import time
from typing import Any

import httpx
import pytest

from serve_app.bench.soak import measure, summary
from serve_app.bench.soak_load import KINDS, SoakLoad
from serve_app.bench.soak_report import write_soak_plot
from tests.http_service import serving


def samples(*, count: int = 100, **slopes: float) -> list[dict[str, Any]]:
    """A billion handles and so on at first; more by the slope from the beginning to the end."""
    made = []
    for number in range(count):
        share = number / (count - 1)
        figures = {
            measured: 1e9 * (1 + slopes.get(measured, 0.0) * share)
            for measured in ("memory", "handles", "threads")
        }
        made.append({"seconds": 5.0 * number, "ingress": figures, "all": figures})
    return made


def test_what_stays_is_flat() -> None:
    found = summary(samples())
    assert found["flat"]
    memory = found["growth"]["ingress"]["memory"]
    assert memory == {"first": 1e9, "last": 1e9, "share": 0, "flat": True}


@pytest.mark.parametrize("measured", ["memory", "handles", "threads"])
def test_what_grows_is_not(measured: str) -> None:
    found = summary(samples(**{measured: 0.1}))
    assert not found["flat"]
    assert found["growth"]["ingress"][measured]["share"] == pytest.approx(0.06, abs=0.005)


def test_a_warm_up_does_not_count() -> None:
    made = samples()
    for sample in made[:20]:
        sample["ingress"] = {"memory": 1.0, "handles": 1.0, "threads": 1.0}
    assert summary(made)["flat"]


def test_a_jump_of_one_moment_does_not_count() -> None:
    made = samples()
    made[-1]["ingress"] = {"memory": 1e10, "handles": 1e10, "threads": 1e10}
    assert summary(made)["flat"]


@pytest.mark.parametrize("name", KINDS)
def test_each_kind_is_answered_as_the_table_says(name: str) -> None:
    kind = KINDS[name]
    with serving() as url, httpx.Client(base_url=url, timeout=60, trust_env=False) as http:
        for seed in range(5):
            assert kind.send(http, random.Random(seed)) in kind.statuses


def test_a_wrong_answer_is_noticed() -> None:
    """Nobody listens there."""
    with SoakLoad("http://127.0.0.1:9", clients=1, seed=1) as load:
        while load.requests < 20:
            time.sleep(0.01)
    assert load.failures == load.requests
    assert all("Connect" in what for what in load.unexpected)


@pytest.mark.slow
def test_a_short_run_has_all_of_it(tmp_path: Any) -> None:
    said: list[str] = []
    report = measure(0.3, said.append, look_s=1.0, change_s=8.0)
    assert report["changes"] == 2
    assert report["failures"] == 0, report["unexpected"]
    assert report["requests"] > 50
    assert set(report["growth"]) == {
        *("all", "ingress", "control", "pool-default", "node", "head", "driver")
    }
    assert report["growth"]["all"]["memory"]["first"] > 2**28
    assert write_soak_plot(report, tmp_path / "soak.png")
    assert (tmp_path / "soak.png").stat().st_size > 10_000


def test_one_more_of_a_few_does_not_count() -> None:
    made = [
        {"seconds": float(at), "control": {"memory": 2e6, "handles": 9 + at // 50, "threads": 3}}
        for at in range(100)
    ]
    assert summary(made)["flat"]
