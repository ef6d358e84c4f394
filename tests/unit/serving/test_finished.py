"""What is told of a request over HTTP when it is over, and which of them the access log has."""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Iterator

import httpx
import pytest

from serve_app.config.access import Access, ApiKey, key_digest
from serve_app.errors import ClientGoneError
from serve_app.serving.access_log import AccessLog
from serve_app.serving.finished import FinishedRequest
from serve_app.serving.gate import Gate
from serve_app.types import ExperimentArm
from tests.http_service import serving
from tests.integration.support import TRUE, drawing

KEY = "sk-" + "s" * 43
FILES = [("image", ("drawing.png", drawing(), "image/png"))]


class Service:
    def __init__(self, url: str, told: list[FinishedRequest]) -> None:
        self.told = told
        self.url = url
        self._http = httpx.Client(
            base_url=url, headers={"Authorization": f"Bearer {KEY}"}, trust_env=False
        )

    def close(self) -> None:
        self._http.close()

    def ask(self, method: str, path: str, **more: object) -> FinishedRequest:
        """What is told of one request."""
        self.told.clear()
        self._http.request(method, path, **more)  # type: ignore[arg-type]
        assert len(self.told) == 1
        return self.told[0]


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    told: list[FinishedRequest] = []
    gate = Gate(Access((ApiKey("team-a", key_digest(KEY)),), required=True))
    with serving(gate=gate, on_finished=(told.append,)) as url:
        found = Service(url, told)
        yield found
        found.close()


def test_a_scored_request_is_told_with_model_arm_and_key(service: Service) -> None:
    data = {"text": TRUE, "model": "trial"}
    found = service.ask("POST", "/v1/score", data=data, files=FILES, headers={"x-request-id": "r1"})
    assert (found.id, found.method, found.path) == ("r1", "POST", "/v1/score")
    assert (found.status, found.code, found.key) == (200, "ok", "team-a")
    assert found.experiment == ExperimentArm("trial", "fake")
    assert found.model is not None and found.model.startswith("fake@")
    assert 0 < found.seconds < 60


@pytest.mark.parametrize(
    ("method", "path", "more", "expected"),
    [
        ("GET", "/healthz", {}, ("/healthz", 200, "ok")),
        ("GET", "/v1/models/fake", {}, ("/v1/models/{name}", 200, "ok")),
        ("GET", "/v1/models/no", {}, ("/v1/models/{name}", 404, "unknown_model")),
        ("GET", "/made/up/4711", {}, ("unknown", 404, "not_found")),
        ("PUT", "/v1/score", {}, ("/v1/score", 405, "method_not_allowed")),
        ("POST", "/v1/score", {"content": b"{"}, ("/v1/score", 400, "invalid_json")),
        ("POST", "/v1/score", {"json": {"x": 1}}, ("/v1/score", 422, "invalid_request")),
        (
            "POST",
            "/v1/score",
            {"json": {"pairs": [{"image": "/etc/passwd", "text": "x"}]}},
            ("/v1/score", 422, "all_items_failed"),
        ),
        (
            "POST",
            "/v1/embeddings",
            {"json": {"input": [{"image": "/etc/passwd"}]}},
            ("/v1/embeddings", 422, "all_items_failed"),
        ),
        (
            "POST",
            "/v1/score",
            {"data": {"text": "x", "model": "broken"}, "files": FILES},
            ("/v1/score", 503, "model_load_failed"),
        ),
    ],
)
def test_paths_are_those_of_routes_and_codes_those_of_answers(
    service: Service,
    method: str,
    path: str,
    more: dict[str, object],
    expected: tuple[str, int, str],
) -> None:
    found = service.ask(method, path, **more)
    assert (found.path, found.status, found.code) == expected


def test_a_method_that_no_route_knows_is_not_told(service: Service) -> None:
    found = service.ask("PROPFIND", "/v1/models")
    assert (found.method, found.status, found.code) == ("unknown", 405, "method_not_allowed")


def test_who_is_not_let_in_is_told_too(service: Service) -> None:
    found = service.ask("GET", "/v1/models", headers={"Authorization": "Bearer no"})
    assert (found.status, found.code, found.key) == (401, "unauthorized", None)


def test_a_client_that_went_away_is_told_as_that(service: Service) -> None:
    service.told.clear()
    host, port = service.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(
            b"POST /v1/score HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Authorization: Bearer " + KEY.encode() + b"\r\nContent-Length: 100\r\n\r\n{"
        )
    deadline = time.monotonic() + 10
    while not service.told:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert (service.told[0].status, service.told[0].code) == (
        ClientGoneError.status_code,
        ClientGoneError.code,
    )


def finished(request_id: str, status: int = 200) -> FinishedRequest:
    arm = ExperimentArm("trial", "fast")
    return FinishedRequest(
        request_id, "POST", "/v1/score", status, "ok", 0.0123, "team-a", "fast@1234", arm
    )


def test_the_access_log_has_a_share_and_all_failures(caplog: pytest.LogCaptureFixture) -> None:
    log = AccessLog(0.25)
    with caplog.at_level(logging.INFO, logger="serve_app.access"):
        for number in range(2000):
            log.note(finished(f"request-{number}"))
        share = len(caplog.records) / 2000
        assert 0.2 < share < 0.3
        chosen = [vars(record)["request"] for record in caplog.records]
        caplog.clear()
        for number in range(2000):
            log.note(finished(f"request-{number}"))
        assert [vars(record)["request"] for record in caplog.records] == chosen
        caplog.clear()
        for number in range(100):
            log.note(finished(f"request-{number}", status=503))
        assert len(caplog.records) == 100


def test_a_line_has_its_fields_and_nothing_without_a_value(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.INFO, logger="serve_app.access"):
        AccessLog(1).note(finished("r1"))
        AccessLog(1).note(FinishedRequest("r2", "GET", "/healthz", 200))
        AccessLog(0).note(finished("r3", status=500))
    scored, health = map(vars, caplog.records)
    assert caplog.messages[0] == "POST /v1/score 200 ok 12.3 ms, request r1"
    assert {name: scored[name] for name in ("request", "model", "experiment", "arm", "key")} == {
        "request": "r1",
        "model": "fast@1234",
        "experiment": "trial",
        "arm": "fast",
        "key": "team-a",
    }
    assert scored["duration_ms"] == 12.3
    assert not {"model", "experiment", "arm", "key"} & set(health)
