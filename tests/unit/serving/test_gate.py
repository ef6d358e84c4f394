"""Who gets in, over real HTTP; and that a guess learns nothing from the time it takes."""

from __future__ import annotations

import asyncio
import socket
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import FrameType
from typing import Any

import httpx
import pytest

from serve_app.client import SimilarityClient
from serve_app.config.access import Access, ApiKey, key_digest
from serve_app.config.args import Limits
from serve_app.errors import RateLimitedError, UnauthorizedError
from serve_app.serving.api import create_api, openapi_document
from serve_app.serving.gate import HEALTH_PATHS, Gate
from serve_app.serving.load import Load
from tests.http_service import serving
from tests.integration.support import drawing
from tests.unit.serving.operated import TOKEN, operated

SCORE, ADMIN = "sk-" + "s" * 43, "sk-" + "a" * 43
KEYS = (ApiKey("team-a", key_digest(SCORE)), ApiKey("ops", key_digest(ADMIN), "admin"))


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


@pytest.fixture(scope="module")
def guarded() -> Iterator[str]:
    with serving(gate=Gate(Access(KEYS, required=True))) as url:
        yield url


def routes() -> list[tuple[str, str]]:
    nobody: Any = None
    paths = openapi_document(create_api(nobody, Limits(), Load(1, 1)))["paths"]
    found = [(method.upper(), path) for path, item in paths.items() for method in item]
    return [*found, ("GET", "/docs"), ("GET", "/openapi.json"), ("GET", "/nowhere")]


@pytest.mark.parametrize(("method", "path"), routes())
def test_no_route_but_health_answers_without_a_key(guarded: str, method: str, path: str) -> None:
    url = guarded + path.replace("{name}", "demo")
    for headers in (
        {},
        bearer("sk-wrong"),
        {"Authorization": "Bearer"},
        {"Authorization": f"Basic {SCORE}"},
    ):
        answer = httpx.request(method, url, headers=headers, timeout=30)
        if path in HEALTH_PATHS:
            assert answer.status_code == 200
            continue
        assert answer.status_code == 401, path
        assert answer.json()["code"] == "unauthorized"
        assert answer.headers["www-authenticate"] == "Bearer"
        assert "demo" not in answer.text, "nothing is told to who has no key"


def test_a_key_lets_in_and_the_client_shows_it(guarded: str) -> None:
    with SimilarityClient.from_url(guarded, api_key=SCORE) as client:
        assert client.models()
    with SimilarityClient.from_url(guarded) as client, pytest.raises(UnauthorizedError):
        client.models()


def test_scoring_keys_do_not_operate_and_operators_keys_do_both(tmp_path: Path) -> None:
    with operated(tmp_path / "state.db", access=Access(KEYS, required=True)) as made:
        http = httpx.Client(base_url=made.url, trust_env=False)
        for method, path in [
            ("GET", "/v1/admin/status"),
            ("GET", "/v1/admin/audit"),
            *(
                ("POST", f"/v1/admin/{kind}")
                for kind in ("promote", "rollback", "pin", "unpin", "weights", "clear")
            ),
        ]:
            answer = http.request(method, path, headers=bearer(SCORE))
            assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")
            assert http.request(method, path).status_code == 401
        assert http.get("/v1/models", headers=bearer(ADMIN)).status_code == 200
        body = {"target": "slow", "who": "eve", "reason": "a rehearsal"}
        done = http.post("/v1/admin/promote", json=body, headers=bearer(ADMIN))
        assert done.status_code == 200, done.text
        entries = http.get("/v1/admin/audit", headers=bearer(ADMIN)).json()["data"]
        assert "eve (key ops)" in [entry["who"] for entry in entries]
        http.close()


def test_where_scores_are_open_operating_is_not(tmp_path: Path) -> None:
    with operated(tmp_path / "state.db") as made:
        assert httpx.get(f"{made.url}/v1/models").status_code == 200
        assert httpx.get(f"{made.url}/v1/admin/status").status_code == 401
        assert httpx.get(f"{made.url}/v1/admin/status", headers=bearer(TOKEN)).status_code == 200


def test_every_answer_keeps_browsers_from_more(guarded: str) -> None:
    for path, headers in (("/healthz", {}), ("/v1/models", {}), ("/v1/models", bearer(SCORE))):
        answer = httpx.get(guarded + path, headers=headers)
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["content-security-policy"].startswith("default-src 'none'")
        assert answer.headers["cache-control"] == "no-store"
    docs = httpx.get(f"{guarded}/docs", headers=bearer(SCORE))
    assert "cdn.jsdelivr.net" in docs.headers["content-security-policy"]


def lines_run(gate: Gate, shown: str) -> list[tuple[str, int]]:
    """What is executed for a key that is shown, line by line."""
    ran: list[tuple[str, int]] = []

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        if event == "line":
            ran.append((frame.f_code.co_filename, frame.f_lineno))
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        gate._find(f"Bearer {shown}")
    finally:
        sys.settrace(before)
    return ran


def test_a_wrong_key_takes_the_same_way_however_near_it_is() -> None:
    gate = Gate(Access(KEYS, required=True))
    guesses = [SCORE[:length] + "x" * (len(SCORE) - length) for length in range(len(SCORE))]
    ways = [lines_run(gate, guess) for guess in guesses]
    assert all(way == ways[0] for way in ways)
    assert len([line for line in ways[0] if line in lines_run(gate, SCORE)]) > 5
    assert lines_run(gate, SCORE) != ways[0], "the trace sees the difference of a right one"


async def enter(gate: Gate, key: str = SCORE) -> None:
    async with gate.admit("/v1/score", f"Bearer {key}"):
        pass


async def test_requests_a_minute_are_bounded_per_key_and_it_says_how_long() -> None:
    told: list[tuple[str, str]] = []
    limited = ApiKey("team-a", key_digest(SCORE), "score", requests_per_minute=3)
    gate = Gate(Access((limited, KEYS[1]), required=True), on_refused=lambda *it: told.append(it))
    for _ in range(3):
        await enter(gate)
    with pytest.raises(RateLimitedError, match="3 requests a minute") as caught:
        await enter(gate)
    assert 1 <= caught.value.retry_after_s <= 61
    await enter(gate, ADMIN)
    assert told == [("rate_limited", "team-a")]
    async with gate.admit("/healthz", ""):
        pass


async def test_limits_are_shared_by_the_ingress_replicas() -> None:
    limited = ApiKey("team-a", key_digest(SCORE), "score", requests_per_minute=4, max_in_progress=4)
    gate = Gate(Access((limited,), required=True))
    gate.update(Access((limited,), required=True), 2)
    await enter(gate)
    await enter(gate)
    with pytest.raises(RateLimitedError):
        await enter(gate)


async def test_requests_at_a_time_are_bounded_and_given_back() -> None:
    limited = ApiKey("team-a", key_digest(SCORE), "score", max_in_progress=2)
    gate = Gate(Access((limited,), required=True))
    entered, leave = asyncio.Event(), asyncio.Event()

    async def stay() -> None:
        async with gate.admit("/v1/score", f"Bearer {SCORE}"):
            entered.set()
            await leave.wait()

    staying = [asyncio.create_task(stay()) for _ in range(2)]
    await entered.wait()
    await asyncio.sleep(0)
    with pytest.raises(RateLimitedError, match="2 requests in progress"):
        await enter(gate)
    leave.set()
    await asyncio.gather(*staying)
    await enter(gate)


async def test_requests_that_come_in_one_moment_do_not_pass_the_bound_together() -> None:
    limited = ApiKey("team-a", key_digest(SCORE), "score", 1000, max_in_progress=2)
    gate = Gate(Access((limited,), required=True))
    most = inside = 0

    async def stay() -> None:
        nonlocal most, inside
        async with gate.admit("/v1/score", f"Bearer {SCORE}"):
            inside += 1
            most = max(most, inside)
            await asyncio.sleep(0.01)
            inside -= 1

    ended = await asyncio.gather(*(stay() for _ in range(20)), return_exceptions=True)
    assert most == 2
    assert sum(isinstance(one, RateLimitedError) for one in ended) == 18


async def test_a_key_that_was_taken_away_is_good_no_longer() -> None:
    gate = Gate(Access(KEYS, required=True))
    await enter(gate)
    gate.update(Access(KEYS[1:], required=True), 1)
    with pytest.raises(UnauthorizedError):
        await enter(gate)
    gate.update(Access((), required=True), 1)
    with pytest.raises(UnauthorizedError):
        await enter(gate, ADMIN)


def connect(url: str) -> socket.socket:
    host, port = httpx.URL(url).host, httpx.URL(url).port
    assert port is not None
    return socket.create_connection((host, port), timeout=30)


def send_slowly(url: str, body: bytes, announced: int) -> socket.socket:
    """Begins a request whose body does not end."""
    connection = connect(url)
    connection.sendall(
        b"POST /v1/score HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        + f"Content-Length: {announced}\r\n\r\n".encode()
        + body
    )
    return connection


def test_a_body_that_does_not_end_is_given_up() -> None:
    with serving(limits=Limits(body_timeout_s=0.5)) as url:
        connection = send_slowly(url, b'{"pairs"', 1000)
        answer = connection.recv(4096)
        assert answer.startswith(b"HTTP/1.1 408")
        assert b"body_timeout" in answer
        connection.close()


def test_slow_and_half_open_connections_do_not_starve_others() -> None:
    with serving(limits=Limits(body_timeout_s=30)) as url:
        # More than the requests that are worked on at a time.
        slow = [send_slowly(url, b"{", 1000) for _ in range(100)]
        half = [connect(url) for _ in range(100)]
        began = time.monotonic()
        with ThreadPoolExecutor(4) as threads:
            answers = list(
                threads.map(
                    lambda _: httpx.post(
                        f"{url}/v1/score",
                        files={"image": drawing()},
                        data={"text": "a"},
                        timeout=30,
                    ),
                    range(20),
                )
            )
        assert {answer.status_code for answer in answers} == {200}
        assert time.monotonic() - began < 30, "nobody waited for the slow ones to be given up"
        for connection in (*slow, *half):
            connection.close()


def test_bodies_are_bounded_as_a_sum_and_given_back() -> None:
    limits = Limits(max_body_bytes=2000, max_bodies_bytes=3000, body_timeout_s=30)
    with serving(limits=limits) as url:
        slow = send_slowly(url, b'{"x":"' + b"a" * 1500, 1900)
        wanted = b'{"images": ["' + b"A" * 1700 + b'"], "texts": ["a"]}'
        headers = {"Content-Type": "application/json"}

        def status() -> int:
            return httpx.post(f"{url}/v1/score", content=wanted, headers=headers).status_code

        deadline = time.monotonic() + 20
        while status() != 503:
            assert time.monotonic() < deadline
        refused = httpx.post(f"{url}/v1/score", content=wanted, headers=headers)
        assert refused.json()["code"] == "overloaded"
        slow.close()
        while status() == 503:
            assert time.monotonic() < deadline


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"[" * 100_000 + b"]" * 100_000, 400),
        (b'{"pairs": ' + b"[" * 50_000 + b"]" * 50_000 + b"}", 400),
        (b'{"a":' * 50_000 + b"1" + b"}" * 50_000, 400),
        (b'{"images": [' + b'"",' * 200_000 + b'""], "texts": ["a"]}', 422),
        (b'{"images": ["a"], "texts": [' + b'"",' * 200_000 + b'""]}', 422),
        (b'{"images": ["a"], "texts": ["' + b"a" * 1_000_000 + b'"]}', 422),
        (b'{"images": ["a"], "texts": ["a"], "metrics": [' + b'"x",' * 100_000 + b'"x"]}', 422),
    ],
    ids=["arrays", "arrays below", "objects", "images", "texts", "one text", "metrics"],
)
def test_deep_and_wide_json_is_refused(body: bytes, status: int) -> None:
    with serving() as url:
        headers = {"Content-Type": "application/json"}
        answer = httpx.post(f"{url}/v1/score", content=body, headers=headers, timeout=30)
        assert answer.status_code in (status, 413), answer.text[:200]
        assert len(answer.content) < 10_000, "an answer is not larger than it has to be"
        assert httpx.get(f"{url}/healthz").status_code == 200
