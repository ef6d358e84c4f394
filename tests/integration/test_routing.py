"""Routing on a real Ray Serve with two ingress replicas: they agree, and their counts add up."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from serve_app.client import SimilarityClient
from serve_app.config.args import AppArgs
from serve_app.engine.experiment_counts import ExperimentCounts
from serve_app.errors import ConfigError
from serve_app.routing.table import RoutingKeys
from serve_app.types import ExperimentArm, ScoreRequest, ScoreResponse
from tests.integration.support import TRUE, Deploy, Running, drawing, uri

FAKE = {"backend": "serve_app.testing:FakeDualEncoder"}
ARGS = {"pools": [{"gpus": 0}], "ingress": {"replicas": 2}}
MODELS = {name: dict(FAKE) for name in ("fast", "accurate", "shade", "alone")}
ROUTING = {
    "default": "fast",
    "aliases": {"cheap": "alone", "trial": "split"},
    "experiments": {
        "split": {"arms": {"fast": 90, "accurate": 10}},
        "by-header": {
            "arms": {"alone": 50, "accurate": 50},
            "sticky_by": "header:X-User",
            "shadow": ["shade", "alone"],
        },
    },
}
IMAGE = drawing(size=(32, 32))
BODY = {"images": [uri(IMAGE)], "texts": [TRUE]}
KEYS = [f"user-{number}" for number in range(200)]


@pytest.fixture(scope="module")
def routed(deploy: Deploy) -> Running:
    return deploy(ARGS, MODELS, ROUTING)


def arm_of(running: Running, key: str, experiment: str = "split", **keys: Any) -> str | None:
    table = running.snapshot.routing
    assert table is not None
    return table.route(experiment, RoutingKeys("unused", key, **keys)).arm


async def on_every_ingress(running: Running, method: str, *arguments: Any) -> list[Any]:
    """What each replica of the ingress answers to one call."""
    from ray import serve

    handle = serve.get_deployment_handle("ingress", app_name=running.name)
    answers: list[Any] = await handle.broadcast(method, *arguments).results_async()
    assert len(answers) == 2
    return answers


def ask(running: Running, path: str = "/v1/score", **changes: Any) -> dict[str, Any]:
    headers = changes.pop("headers", None)
    answer = running.http.post(path, json={**BODY, **changes}, headers=headers)
    assert answer.status_code == 200, answer.text
    document: dict[str, Any] = answer.json()
    return document


def report(running: Running, name: str) -> dict[str, Any]:
    document: dict[str, Any] = running.http.get(f"/v1/experiments/{name}").json()
    return document


def eventually(check: Callable[[], bool], within_s: float = 60) -> bool:
    """Whether something that takes a while comes true."""
    deadline = time.monotonic() + within_s
    while not (met := check()) and time.monotonic() < deadline:
        time.sleep(0.1)
    return met


def test_two_arms_at_90_and_10_get_their_share_of_10000_keys(routed: Running) -> None:
    arms = Counter(arm_of(routed, f"key {number}") for number in range(10_000))
    assert sum(arms.values()) == 10_000
    assert abs(arms["fast"] - 9_000) <= 100, arms


async def test_a_key_is_on_the_same_arm_over_http_and_on_both_ingress_replicas(
    routed: Running,
) -> None:
    told = {key: ask(routed, routing_key=key)["experiment"] for key in KEYS}
    assert {key: chosen["arm"] for key, chosen in told.items()} == {
        key: arm_of(routed, key) for key in KEYS
    }
    assert {chosen["name"] for chosen in told.values()} == {"split"}
    assert {chosen["arm"] for chosen in told.values()} == {"fast", "accurate"}
    for key in KEYS:
        request = ScoreRequest((IMAGE,), (TRUE,), routing_key=key)
        answers: list[ScoreResponse] = await on_every_ingress(routed, "score", request)
        for answer in answers:
            assert answer.experiment == ExperimentArm("split", told[key]["arm"])
            assert answer.model == routed.snapshot.resolve(told[key]["arm"]).id


async def test_counts_of_both_ingress_replicas_add_up(deploy: Deploy) -> None:
    running = deploy(ARGS, MODELS, ROUTING)
    for key in KEYS[:60]:
        ask(running, routing_key=key)
    body = {"input": ["a text"], "routing_key": KEYS[0]}
    answer = running.http.post("/v1/embeddings", json=body).json()
    assert answer["experiment"] == {"name": "split", "arm": arm_of(running, KEYS[0])}
    wanted = Counter(arm_of(running, key) for key in [*KEYS[:60], KEYS[0]])
    each: list[ExperimentCounts] = await on_every_ingress(running, "experiment_counts")
    parts = [sum(one.arm("split", arm).count for arm in wanted) for one in each]
    assert sum(parts) == 61
    assert min(parts) > 0, "one replica answered everything: nothing was added up"
    found = report(running, "split")
    assert found["replicas"] == 2
    assert {arm: counts["count"] for arm, counts in found["arms"].items()} == wanted
    assert [counts["errors"] for counts in found["arms"].values()] == [0, 0]
    assert all(0 < arm["p50_ms"] <= arm["p95_ms"] for arm in found["arms"].values())
    assert {arm: counts["weight"] for arm, counts in found["arms"].items()} == {
        "fast": 90,
        "accurate": 10,
    }
    assert (found["state"], found["control"], found["shadow"]) == ("running", "fast", {})
    listed = running.http.get("/v1/experiments").json()["data"]
    assert [one["name"] for one in listed] == ["split", "by-header"]
    assert listed[0]["arms"] == found["arms"]


def test_a_model_that_is_named_answers_by_itself_and_is_not_counted(routed: Running) -> None:
    before = report(routed, "split")["arms"]
    for model in ("fast", "accurate", routed.snapshot.resolve("fast").id):
        for key in KEYS[:5]:
            answer = ask(routed, model=model, routing_key=key)
            assert answer["experiment"] is None
            assert answer["model"] == routed.snapshot.resolve(model).id
    assert report(routed, "split")["arms"] == before
    assert ask(routed, model="cheap")["model"] == routed.snapshot.resolve("alone").id
    assert ask(routed, model="trial", routing_key="x")["experiment"]["name"] == "split"
    refused = routed.http.post("/v1/score", json={**BODY, "model": "trail"})
    assert (refused.status_code, refused.json()["code"]) == (404, "unknown_model")
    assert "did you mean 'trial'" in refused.json()["detail"]


def test_an_experiment_can_be_sticky_by_a_header(routed: Running) -> None:
    users = [f"user {number}" for number in range(20)]
    told = []
    for user in users:
        asked = {"model": "by-header", "headers": {"X-USER": user}}
        arms = {ask(routed, **asked)["experiment"]["arm"] for _ in range(3)}
        assert arms == {arm_of(routed, "", "by-header", headers={"x-user": user})}
        told += arms
    assert set(told) == {"alone", "accurate"}


def test_shadows_are_counted_and_no_answer_shows_them(deploy: Deploy) -> None:
    running = deploy(ARGS, MODELS, ROUTING)
    users = [f"user {number}" for number in range(12)]
    arms = []
    for user in users:
        answer = ask(running, model="by-header", headers={"X-User": user})
        assert len(answer["results"]) == 1
        assert answer["model"].partition("@")[0] == answer["experiment"]["arm"]
        arms.append(answer["experiment"]["arm"])

    def outcomes() -> dict[str, int]:
        shadow = report(running, "by-header")["shadow"]
        return {name: sum(counts.values()) for name, counts in shadow.items()}

    # `alone` is no shadow of itself.
    wanted = {"shade": 12, "alone": arms.count("accurate")}
    assert 0 < wanted["alone"] < 12
    assert eventually(lambda: outcomes() == wanted), outcomes()
    found = report(running, "by-header")
    assert {name: counts["failed"] for name, counts in found["shadow"].items()} == {
        "shade": 0,
        "alone": 0,
    }
    assert found["shadow"]["shade"]["sent"] > 0
    # They are no requests of any arm.
    assert sum(arm["count"] for arm in found["arms"].values()) == 12


async def test_routed_models_are_resident_before_a_replica_is_ready(deploy: Deploy) -> None:
    from ray import serve

    running = deploy(models={**MODELS, "idle": dict(FAKE)}, routing=ROUTING)
    handle = serve.get_deployment_handle("pool-default", app_name=running.name)
    (one,) = await handle.broadcast("statistics").results_async()
    assert set(one["models"]) == {running.snapshot.resolve(name).id for name in MODELS}


def test_an_unknown_experiment_is_404(routed: Running) -> None:
    answer = routed.http.get("/v1/experiments/spilt")
    assert (answer.status_code, answer.json()["code"]) == (404, "unknown_experiment")
    assert "did you mean 'split'" in answer.json()["detail"]


def test_without_routing_there_is_no_experiment(demo: Running) -> None:
    assert demo.http.get("/v1/experiments").json() == {"object": "list", "data": []}
    answer = demo.http.get("/v1/experiments/any")
    assert (answer.status_code, answer.json()["code"]) == (404, "unknown_experiment")


def test_the_default_model_is_the_one_that_routing_says(deploy: Deploy) -> None:
    running = deploy(models=MODELS, routing={"default": "shade"})
    models = running.http.get("/v1/models").json()["data"]
    assert [model["name"] for model in models if model["default"]] == ["shade"]
    assert ask(running)["model"] == running.snapshot.resolve("shade").id


def test_http_and_handle_clients_are_told_the_same(routed: Running) -> None:
    with (
        SimilarityClient.from_url(routed.url) as http,
        SimilarityClient.from_app(routed.name) as handle,
    ):
        for key in KEYS[:10]:
            arm = arm_of(routed, key)
            for client in (http, handle):
                scored = client.score([IMAGE], [TRUE], routing_key=key)
                embedded = client.embed(["a text"], routing_key=key)
                ranked = client.rank(text=TRUE, images=[IMAGE], routing_key=key)
                for answer in (scored, embedded, ranked):
                    assert answer.experiment == ExperimentArm("split", str(arm))
            assert http.score([IMAGE], [TRUE], model="fast").experiment is None


def test_faulty_routing_is_refused_where_the_application_is_built(
    serve_address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from serve_app.app import build_app

    models = {**MODELS, "broken": {**FAKE, "precison": "fp32"}}
    routing = {
        "default": "fats",
        "aliases": {"a": "b", "b": "a"},
        "experiments": {"split": {"arms": {"fast": 90, "nobody": 20}, "shadow": ["shadee"]}},
    }
    monkeypatch.setenv("SIMILARITY_MODELS", json.dumps(models))
    monkeypatch.setenv("SIMILARITY_ROUTING", json.dumps(routing))
    with pytest.raises(ConfigError) as caught:
        build_app(AppArgs.model_validate(ARGS))
    assert {fault.key for fault in caught.value.faults} == {
        "SIMILARITY_MODELS.broken.precison",
        "SIMILARITY_ROUTING.default",
        "SIMILARITY_ROUTING.aliases.a",
        "SIMILARITY_ROUTING.experiments.split.arms",
        "SIMILARITY_ROUTING.experiments.split.arms.nobody",
        "SIMILARITY_ROUTING.experiments.split.shadow.0",
    }
    monkeypatch.setenv("SIMILARITY_MODELS", json.dumps(MODELS))
    monkeypatch.setenv("SIMILARITY_ROUTING", json.dumps(ROUTING))
    build_app(AppArgs.model_validate(ARGS))


def test_ray_exports_requests_by_experiment_and_arm(routed: Running) -> None:
    import ray

    ask(routed, routing_key=KEYS[0])
    port = ray.nodes()[0]["MetricsExportPort"]
    arm = arm_of(routed, KEYS[0])
    labels = (f'arm="{arm}"', 'experiment="split"', 'code="ok"', f'model="{arm}"')

    def exported() -> bool:
        lines = httpx.get(f"http://127.0.0.1:{port}/metrics").text.splitlines()
        return all(
            any(line.startswith(name + "{") and all(x in line for x in labels) for line in lines)
            for name in ("ray_similarity_requests_total", "ray_similarity_latency_ms_bucket")
        )

    assert eventually(exported)
