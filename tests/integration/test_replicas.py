"""Pools: every replica works, holds what is routed, and takes its share of (pretend) GPUs."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from tests.integration.support import TRUE, Deploy, Running, drawing, uri

FAKE = {"backend": "serve_app.testing:FakeDualEncoder"}


async def statistics(running: Running, pool: str = "default") -> list[dict[str, Any]]:
    """What each replica of a pool says that it has done."""
    from ray import serve

    handle = serve.get_deployment_handle(f"pool-{pool}", app_name=running.name)
    answers: list[dict[str, Any]] = await handle.broadcast("statistics").results_async()
    return answers


async def send(url: str, count: int, body: dict[str, Any]) -> list[httpx.Response]:
    async with httpx.AsyncClient(timeout=60) as client:
        return await asyncio.gather(
            *(client.post(f"{url}/v1/score", json=body) for _ in range(count))
        )


async def test_every_replica_holds_what_is_routed_and_works(deploy: Deploy) -> None:
    models = {"main": {**FAKE, "options": {"delay_ms": 20}}, "other": {**FAKE, "preload": True}}
    running = deploy({"pools": [{"gpus": 0, "replicas": 2}]}, models)
    ids = {model.id for model in running.snapshot.models.values()}
    before = await statistics(running)
    assert len({one["replica"] for one in before}) == 2
    assert [set(one["models"]) for one in before] == [ids, ids]
    body = {"images": [uri(drawing())], "texts": [TRUE], "model": "main"}
    for _ in range(4):
        answers = await send(running.url, 32, body)
        assert [answer.status_code for answer in answers] == [200] * 32
    main = running.snapshot.resolve("main").id
    worked = [one["batches"].get(main, {}).get("batches", 0) for one in await statistics(running)]
    assert all(batches > 0 for batches in worked), worked


async def test_what_is_too_large_for_one_message_arrives_all_the_same(deploy: Deploy) -> None:
    # 3 MiB each, where a replica takes 4 MiB in a message.
    running = deploy(models={"main": {**FAKE, "options": {"size": 1024}}})
    images = [uri(drawing(size=(640 + number, 480))) for number in range(3)]
    (answer,) = await send(running.url, 1, {"images": images, "texts": [TRUE]})
    assert answer.status_code == 200, answer.text
    assert len(answer.json()["results"]) == 3
    inputs = [f"text number {number}" for number in range(200)]
    async with httpx.AsyncClient(timeout=60) as client:
        embedded = await client.post(f"{running.url}/v1/embeddings", json={"input": inputs})
    assert len(embedded.json()["data"]) == 200


async def test_fractions_of_a_gpu_are_shared_and_whole_ones_are_not(deploy: Deploy) -> None:
    # Two halves fit on one of the pretend GPUs, a whole one takes another.
    pools = [
        {"name": "shared", "gpus": 0.5, "replicas": 2},
        {"name": "whole", "gpus": 1, "replicas": 1},
    ]
    models = {
        "small": {**FAKE, "pool": "shared", "device": "cuda"},
        "large": {**FAKE, "pool": "whole"},
    }
    running = deploy({"pools": pools}, models)
    assert len(await statistics(running, "shared")) == 2
    for model in ("small", "large"):
        body = {"images": [uri(drawing())], "texts": [TRUE], "model": model}
        (answer,) = await send(running.url, 1, body)
        assert answer.status_code == 200, answer.text


async def test_a_real_model_without_the_gpu_that_its_pool_asks_for_says_so(deploy: Deploy) -> None:
    pools = [{"name": "default", "gpus": 0}, {"name": "gpu", "gpus": 1}]
    spec = {
        "backend": "open_clip",
        "architecture": "RN50",
        "pretrained": "random",
        "allow_random_weights": True,
        "pool": "gpu",
    }
    running = deploy({"pools": pools}, {"good": FAKE, "onlygpu": spec})
    body = {"images": [uri(drawing())], "texts": [TRUE], "model": "onlygpu"}
    (answer,) = await send(running.url, 1, body)
    assert (answer.status_code, answer.json()["code"]) == (503, "device_unavailable")
    (answer,) = await send(running.url, 1, {**body, "model": "good"})
    assert answer.status_code == 200


async def test_a_model_that_cannot_load_leaves_the_others_alone(deploy: Deploy) -> None:
    models = {"good": FAKE, "broken": {**FAKE, "options": {"fail_load": "weights are missing"}}}
    running = deploy(models=models)
    body = {"images": [uri(drawing())], "texts": [TRUE], "model": "broken"}
    for answer in await send(running.url, 3, body):
        assert (answer.status_code, answer.json()["code"]) == (503, "model_load_failed")
        assert "weights are missing" in answer.json()["detail"]
    (answer,) = await send(running.url, 1, {**body, "model": "good"})
    assert answer.status_code == 200


def test_a_default_model_that_cannot_load_fails_the_deployment_with_its_reason(
    deploy: Deploy,
) -> None:
    models = {"broken": {**FAKE, "options": {"fail_load": "weights are missing"}}}
    with pytest.raises(RuntimeError, match="failed"):
        deploy(models=models)


async def test_more_requests_than_the_ingress_takes_are_turned_away_with_a_problem(
    deploy: Deploy,
) -> None:
    args = {"pools": [{"gpus": 0}], "ingress": {"max_ongoing_requests": 2}}
    running = deploy(args, {"main": {**FAKE, "options": {"delay_ms": 200}}})
    body = {"images": [uri(drawing())], "texts": [TRUE]}
    answers = await send(running.url, 12, body)
    refused = [answer for answer in answers if answer.status_code != 200]
    assert refused and len(refused) < 12
    for answer in refused:
        assert (answer.status_code, answer.json()["code"]) == (503, "overloaded")
        assert answer.headers["retry-after"] == "1"
        assert answer.headers["content-type"] == "application/problem+json"
