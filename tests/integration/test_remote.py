"""A model of another instance of this service, as one of a running service's."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from tests.contract.conftest import DEMO
from tests.integration.support import SWAPPED, TRUE, Deploy, drawing, uri
from tests.remote_server import RemoteServer, serving


@pytest.fixture
def server() -> Iterator[RemoteServer]:
    with serving({"demo": DEMO}) as running:
        yield running


def test_it_scores_as_there_and_its_failures_stay_its_own(
    deploy: Deploy, server: RemoteServer
) -> None:
    far = {
        "backend": "remote",
        "architecture": "service",
        "pool": "remote",
        "options": {"url": server.url, "retries": 0, "breaker": {"failures": 1, "reset_s": 0.5}},
    }
    pools = [{"gpus": 0}, {"name": "remote", "gpus": 0, "cpus": 0.1}]
    http = deploy({"pools": pools}, models={"demo": DEMO, "far": far}).http

    def score(model: str) -> httpx.Response:
        images = [uri(drawing(size=size)) for size in ((800, 600), (64, 64), (90, 333))]
        return http.post(
            "/v1/score", json={"images": images, "texts": [TRUE, SWAPPED], "model": model}
        )

    here, there = score("demo").json()["results"], score("far").json()["results"]
    for one, other in zip(here, there, strict=True):
        assert one["score"] == pytest.approx(other["score"], abs=1e-5)
    told = http.get("/v1/models/far").json()
    assert told["details"]["remote_model"].startswith("demo@")
    assert told["capabilities"]["embeds"] is False

    server.fail = 1000
    for _ in range(3):
        answer = score("far")
        assert (answer.status_code, answer.json()["code"]) == (503, "model_unavailable")
    assert score("demo").status_code == 200
    server.fail = 0
    for _ in range(50):
        if score("far").status_code == 200:
            break
    else:
        pytest.fail("it is not asked again")
