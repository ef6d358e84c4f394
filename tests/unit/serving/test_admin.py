"""The admin routes over a real control plane."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from serve_app.serving import admin_schemas, schemas
from tests.unit.control.fleet import new_id
from tests.unit.serving.operated import MODELS, TOKEN, Operated, operated, spec

WHY = {"who": "eve", "reason": "a rehearsal"}


class Service:
    """A running service and a client that shows the token."""

    def __init__(self, made: Operated, state: Path) -> None:
        self.made = made
        self.state = state
        self.http = httpx.Client(
            base_url=made.url, headers={"Authorization": f"Bearer {TOKEN}"}, trust_env=False
        )

    def operate(self, kind: str, **body: Any) -> httpx.Response:
        return self.http.post(f"/v1/admin/{kind}", json={**WHY, **body})

    def status(self) -> dict[str, Any]:
        answer = self.http.get("/v1/admin/status")
        assert answer.status_code == 200, answer.text
        admin_schemas.StatusReport.model_validate(answer.json())
        found: dict[str, Any] = answer.json()
        return found

    def models(self) -> dict[str, Any]:
        answer = self.http.get("/v1/models").json()
        schemas.ModelsAnswer.model_validate(answer)
        found: dict[str, Any] = answer
        return found

    def standing(self) -> dict[str, Any]:
        """What no refused operation may change."""
        told = self.status()
        kept = ("snapshot", "target", "complete", "overrides", "revisions", "snapshots", "version")
        return {key: told[key] for key in kept}


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    state = tmp_path / "state.db"
    with operated(state) as made:
        service = Service(made, state)
        yield service
        service.http.close()


def test_the_status_tells_what_is_served_and_who_follows(service: Service) -> None:
    told = service.status()
    assert (told["snapshot"], told["target"], told["complete"]) == (1, 1, True)
    assert {item["id"]: item["state"] for item in told["revisions"]} == {
        new_id("fast", 1): "active",
        new_id("slow", 2): "active",
    }
    members = {member["id"]: member for member in told["members"]}
    assert members["r1"]["models"][new_id("fast", 1)]["state"] == "ready"
    assert (members["i1"]["kind"], members["i1"]["current"]) == ("ingress", True)
    assert told["overrides"] is None


def test_a_rollback_is_in_effect_when_it_returns(service: Service) -> None:
    service.made.declare({**MODELS, "fast": spec(7)})
    active = {model["name"]: model["id"] for model in service.models()["data"]}
    assert active["fast"] == new_id("fast", 7)
    answer = service.operate("rollback")
    assert answer.status_code == 200, answer.text
    admin_schemas.OperationAnswer.model_validate(answer.json())
    assert answer.json() | {"version": None} == {
        "outcome": "in_effect",
        "snapshot": 1,
        "version": None,
        "detail": "",
        "withdrawn": False,
        "confirmed": ["i1"],
        "missing": [],
        "lost": [],
    }
    told = service.models()
    assert {model["name"]: model["id"] for model in told["data"]}["fast"] == new_id("fast", 1)
    assert told["overrides"] | {"since": None} == {
        "snapshot": 1,
        "default": None,
        "weights": {},
        "pinned": [],
        "keep": False,
        "since": None,
    }
    states = {item["id"]: item["state"] for item in told["revisions"]}
    assert states[new_id("fast", 7)] == "draining"


def test_operations_stand_on_top_of_each_other_until_they_are_cleared(service: Service) -> None:
    arms = {"fast": 60, "slow": 40}
    assert service.operate("weights", experiment="split", arms=arms).status_code == 200
    assert service.operate("promote", target="slow", keep=True).status_code == 200
    assert service.operate("pin", name="slow").status_code == 200
    overrides = service.status()["overrides"]
    assert overrides["weights"] == {"split": arms}
    assert (overrides["default"], overrides["pinned"]) == ("slow", ["slow"])
    assert (overrides["keep"], overrides["who"], overrides["reason"]) == (True, *WHY.values())
    assert [m["name"] for m in service.models()["data"] if m["default"]] == ["slow"]
    assert service.http.get("/v1/experiments/split").json()["arms"]["slow"]["weight"] == 40
    assert service.operate("unpin", name="slow").status_code == 200
    assert service.operate("clear").status_code == 200
    assert service.status()["overrides"] is None
    assert service.http.get("/v1/experiments/split").json()["arms"]["slow"]["weight"] == 10


def test_the_audit_trail_tells_who_changed_what_when_and_why(service: Service) -> None:
    service.operate("promote", target="slow", reason="it is better")
    answer = service.http.get("/v1/admin/audit").json()
    admin_schemas.AuditAnswer.model_validate(answer)
    mine = next(entry for entry in answer["data"] if entry["who"] == "eve")
    assert (mine["what"], mine["why"]) == ("promote slow", "it is better")
    assert mine["at"] > 0
    numbers = [entry["number"] for entry in answer["data"]]
    assert numbers == sorted(numbers, reverse=True)
    assert len(service.http.get("/v1/admin/audit?limit=1").json()["data"]) == 1
    assert service.http.get("/v1/admin/audit?limit=0").status_code == 422


def test_an_operation_is_on_the_disk_when_it_is_in_effect(service: Service) -> None:
    service.operate("promote", target="slow")
    with sqlite3.connect(service.state) as connection:
        kept = dict(connection.execute("SELECT key, value FROM state"))
    connection.close()
    assert '"default":"slow"' in kept["overrides"]


def test_an_operation_whose_model_cannot_be_loaded_is_withdrawn(service: Service) -> None:
    old = new_id("slow", 2)
    service.made.declare({"fast": spec(1), "slow": spec(3)})
    service.made.lose(old, "its file is gone")
    before = service.standing()
    answer = service.operate("rollback", number=1)
    assert answer.status_code == 409, answer.text
    document = answer.json()
    assert (document["code"], document["outcome"]) == ("operation_failed", "failed")
    assert document["withdrawn"] is True
    assert "its file is gone" in document["detail"]
    after = service.standing()
    assert (after["overrides"], after["target"]) == (before["overrides"], before["target"])


def test_an_operation_that_takes_longer_is_pending_and_goes_on(service: Service) -> None:
    spare = new_id("spare", 7)
    service.made.replica.slow.add(spare)
    service.made.declare({**MODELS, "spare": spec(7)})
    # The control plane's clock stands still until it is told.
    with ThreadPoolExecutor(1) as thread:
        asked = thread.submit(service.operate, "promote", target="spare", timeout_s=0.5)
        while service.status()["complete"]:
            time.sleep(0.01)
        service.made.fleet.clock.advance(1)
        answer = asked.result(30)
    assert answer.status_code == 202, answer.text
    assert (answer.json()["outcome"], answer.json()["version"]) == ("pending", None)
    assert spare in answer.json()["detail"]
    service.made.run(_finish(service.made, spare))
    service.made.run(service.made.fleet.complete())
    assert [m["id"] for m in service.models()["data"] if m["default"]] == [spare]


async def _finish(made: Operated, model_id: str) -> None:
    made.replica.finish(model_id)


REFUSED = [
    ("weights", {"experiment": "nosuch", "arms": {"fast": 100}}, ["nosuch"]),
    ("weights", {"experiment": "split", "arms": {"fast": 90, "slow": 20}}, ["110"]),
    ("weights", {"experiment": "split", "arms": {"fast": 90, "ghost": 10}}, ["ghost"]),
    ("weights", {"experiment": "split", "arms": {"ghost": 50, "fast": 60}}, ["ghost", "110"]),
    ("weights", {"experiment": "split", "arms": {}}, ["arms"]),
    ("weights", {"experiment": "split", "arms": {"fast": -1, "slow": 101}}, ["fast"]),
    ("promote", {"target": "nosuch"}, ["nosuch"]),
    ("promote", {"target": "slow", "reason": ""}, ["reason"]),
    ("promote", {"target": "slow", "reason": "  "}, ["reason"]),
    ("promote", {"target": "slow", "who": ""}, ["who"]),
    ("promote", {"target": 1}, ["target"]),
    ("promote", {"target": "slow", "keep": "yes"}, ["keep"]),
    ("promote", {"target": "slow", "zebra": 1}, ["zebra"]),
    ("promote", {"target": "slow", "timeout_s": 0}, ["timeout_s"]),
    ("rollback", {"number": 99}, ["99"]),
    ("rollback", {"number": 0}, ["number"]),
    ("rollback", {}, ["no earlier snapshot"]),
    ("pin", {"name": "nosuch"}, ["nosuch"]),
    ("pin", {"name": "cheap"}, ["cheap"]),
    ("unpin", {"name": "fast"}, ["not pinned"]),
    ("clear", {"keep": True}, ["keep"]),
]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """For what changes nothing."""
    state = tmp_path_factory.mktemp("state") / "state.db"
    with operated(state) as made:
        service = Service(made, state)
        yield service
        service.http.close()


@pytest.mark.parametrize(("kind", "body", "told"), REFUSED)
def test_what_cannot_be_is_refused_and_changes_nothing(
    shared: Service, kind: str, body: dict[str, Any], told: list[str]
) -> None:
    before = shared.standing()
    answer = shared.operate(kind, **body)
    assert answer.status_code in (404, 422), answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert all(word in answer.json()["detail"] for word in told), answer.json()["detail"]
    assert shared.standing() == before


@pytest.mark.parametrize(
    ("content", "status"),
    [(b"", 400), (b"{", 400), (b"[]", 422), (b"\xff", 400), (b" " * 70_000, 413)],
)
def test_a_body_that_is_none_is_refused(shared: Service, content: bytes, status: int) -> None:
    assert shared.http.post("/v1/admin/clear", content=content).status_code == status


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "Bearer",
        f"Basic {TOKEN}",
        TOKEN,
        f"Bearer {TOKEN[:-1]}",
        f"Bearer {TOKEN}x",
        f"Bearer {TOKEN.upper()}",
    ],
)
@pytest.mark.parametrize("path", ["status", "audit", "clear", "rollback"])
def test_without_the_token_nothing_is_told_or_done(
    shared: Service, header: str | None, path: str
) -> None:
    before = shared.standing()
    headers = {} if header is None else {"Authorization": header}
    headers |= {"X-Forwarded-For": "127.0.0.1", "X-Real-IP": "127.0.0.1"}
    method = "GET" if path in ("status", "audit") else "POST"
    url = f"{shared.made.url}/v1/admin/{path}"
    # Neither body nor query is looked at before the token.
    answer = httpx.request(method, url, headers=headers, trust_env=False)
    assert answer.status_code == 401, answer.text
    assert answer.json()["code"] == "unauthorized"
    assert answer.headers["www-authenticate"] == "Bearer"
    assert TOKEN not in answer.text
    assert shared.standing() == before


def test_without_a_token_at_the_start_there_are_no_admin_routes(tmp_path: Path) -> None:
    with operated(tmp_path / "state.db", admin=False) as made:
        headers = {"Authorization": f"Bearer {TOKEN}"}
        for path in ("status", "audit"):
            url = f"{made.url}/v1/admin/{path}"
            assert httpx.get(url, headers=headers, trust_env=False).status_code == 404
        url = f"{made.url}/v1/admin/clear"
        assert httpx.post(url, headers=headers, json=WHY, trust_env=False).status_code == 404
        document = httpx.get(f"{made.url}/openapi.json", trust_env=False).json()
        assert not [path for path in document["paths"] if "admin" in path]
