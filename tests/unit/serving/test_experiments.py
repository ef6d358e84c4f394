"""What the routes say about experiments; a real engine over fakes, no Ray and no network."""

from __future__ import annotations

import base64
import io
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from PIL import Image

from serve_app.config.args import Limits
from serve_app.config.document import Document
from serve_app.config.faults import Origin
from serve_app.config.routing_source import RoutingDocument
from serve_app.engine.local import build_local_executor
from serve_app.models.placement import PoolPlacement
from serve_app.models.registry import DynamicModelRegistry
from serve_app.serving import schemas
from serve_app.serving.api import create_api
from serve_app.serving.load import Load
from serve_app.serving.local_service import LocalService

FAKE = {"backend": "serve_app.testing:FakeDualEncoder", "architecture": "fake"}
MODELS = {
    "fast": FAKE,
    "poisoned": {**FAKE, "options": {"fail_text": "poison"}},
    "shade": FAKE,
    "broken": {**FAKE, "options": {"fail_load": "the disk is on fire"}},
}
ROUTING = {
    "experiments": {
        "by-header": {
            "arms": {"fast": 50, "poisoned": 50},
            "sticky_by": "header:X-User",
            "shadow": ["shade", "broken"],
        },
        "failing": {"arms": {"broken": 100}},
    }
}


class Service:
    """A service and a client of its routes."""

    def __init__(self, routing: dict[str, Any] | None) -> None:
        document = None if routing is None else RoutingDocument(routing, Origin("test"))
        registry = DynamicModelRegistry({"default": PoolPlacement()})
        self.snapshot = registry.update(Document(MODELS, Origin("test")), document)
        self.service = LocalService(self.snapshot, build_local_executor(self.snapshot))
        api = create_api(self.service, Limits(), Load(8, 2**29))
        self.http = httpx.AsyncClient(transport=httpx.ASGITransport(api), base_url="http://service")

    async def ask(self, user: str = "me", path: str = "/v1/score", **body: Any) -> httpx.Response:
        if path != "/v1/embeddings":
            body = {"images": [image()], "texts": ["red"], **body}
        return await self.http.post(path, json=body, headers={"X-User": user})

    async def report(self, name: str = "by-header") -> dict[str, Any]:
        await self.service._shadows.drain()
        answer = (await self.http.get(f"/v1/experiments/{name}")).json()
        schemas.ExperimentAnswer.model_validate(answer)
        found: dict[str, Any] = answer
        return found


def image() -> str:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    made = Service(ROUTING)
    async with made.http, made.service:
        yield made


@pytest.fixture
async def plain() -> AsyncIterator[Service]:
    made = Service(None)
    async with made.http, made.service:
        yield made


async def test_answers_name_experiment_and_arm_by_the_header(service: Service) -> None:
    arms = set()
    for number in range(20):
        user = f"user {number}"
        scored = (await service.ask(user)).json()
        schemas.ScoreAnswer.model_validate(scored)
        chosen = scored["experiment"]
        assert chosen["name"] == "by-header"
        assert scored["model"] == service.snapshot.resolve(chosen["arm"]).id
        embedded = (await service.ask(user, "/v1/embeddings", input=["x"])).json()
        schemas.EmbeddingsAnswer.model_validate(embedded)
        assert embedded["experiment"] == chosen
        files = {"image": base64.b64decode(image())}
        multipart = await service.http.post(
            "/v1/score", files=files, data={"text": "red"}, headers={"x-uSER": user}
        )
        assert multipart.json()["experiment"] == chosen
        arms.add(chosen["arm"])
    assert arms == {"fast", "poisoned"}


async def test_a_named_model_and_a_service_without_routing_have_no_experiment(
    service: Service, plain: Service
) -> None:
    for answer in (await service.ask(model="shade"), await plain.ask()):
        assert answer.json()["experiment"] is None
    assert (await service.report())["arms"]["fast"]["count"] == 0
    assert (await plain.http.get("/v1/experiments")).json() == {"object": "list", "data": []}
    answer = await plain.http.get("/v1/experiments/x")
    assert (answer.status_code, answer.json()["code"]) == (404, "unknown_experiment")
    assert "None is declared" in answer.json()["detail"]


async def test_a_report_counts_requests_errors_and_shadows(service: Service) -> None:
    arms: dict[str, list[str]] = {"fast": [], "poisoned": []}
    for number in range(10):
        answer = (await service.ask(f"user {number}")).json()
        arms[answer["experiment"]["arm"]].append(f"user {number}")
        await service.service._shadows.drain()
    assert all(arms.values())
    failed = await service.ask(arms["poisoned"][0], texts=["poison"])
    assert (failed.status_code, failed.json()["experiment"]["arm"]) == (422, "poisoned")
    schemas.ProblemAnswer.model_validate(failed.json())
    refused = await service.ask(arms["fast"][0], metrics=["beauty"])
    assert refused.status_code == 422
    found = await service.report()
    assert {name: arm["weight"] for name, arm in found["arms"].items()} == {
        "fast": 50,
        "poisoned": 50,
    }
    counts = {name: (arm["count"], arm["errors"]) for name, arm in found["arms"].items()}
    assert counts == {
        "fast": (len(arms["fast"]) + 1, 0),
        "poisoned": (len(arms["poisoned"]) + 1, 1),
    }
    assert all(0 < arm["p50_ms"] <= arm["p95_ms"] for arm in found["arms"].values())
    # Only what was answered has shadows, and none of them is counted as a request.
    assert found["shadow"] == {
        "shade": {"sent": 10, "dropped": 0, "failed": 0},
        "broken": {"sent": 0, "dropped": 0, "failed": 10},
    }
    assert {name: found[name] for name in ("name", "state", "control", "replicas")} == {
        "name": "by-header",
        "state": "running",
        "control": "fast",
        "replicas": 1,
    }


async def test_errors_of_an_arm_that_cannot_be_loaded_are_counted(service: Service) -> None:
    answer = await service.ask(model="failing")
    assert (answer.status_code, answer.json()["code"]) == (503, "model_load_failed")
    arm = (await service.report("failing"))["arms"]["broken"]
    assert arm == {"weight": 100, "count": 1, "errors": 1, "p50_ms": None, "p95_ms": None}


async def test_all_experiments_are_listed_in_order(service: Service) -> None:
    listed = (await service.http.get("/v1/experiments")).json()
    schemas.ExperimentsAnswer.model_validate(listed)
    assert [one["name"] for one in listed["data"]] == ["by-header", "failing"]
    assert listed["data"][0] == await service.report()


async def test_an_unknown_experiment_is_404_with_what_was_meant(service: Service) -> None:
    answer = await service.http.get("/v1/experiments/by-heder")
    assert (answer.status_code, answer.json()["code"]) == (404, "unknown_experiment")
    assert "did you mean 'by-header'" in answer.json()["detail"]


async def test_readiness_is_no_request_of_an_experiment(service: Service) -> None:
    assert (await service.http.get("/readyz")).status_code == 200
    found = await service.report()
    assert [arm["count"] for arm in found["arms"].values()] == [0, 0]
    assert sum(sum(each.values()) for each in found["shadow"].values()) == 0
