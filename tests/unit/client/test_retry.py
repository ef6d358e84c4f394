"""What is tried again, against a real server that fails first; both clients, one behaviour."""

import asyncio
import socket
from typing import Any

import pytest

from serve_app.client import AsyncSimilarityClient, SimilarityClient
from serve_app.errors import (
    DeadlineExceededError,
    InvalidRequestError,
    ModelLoadError,
    NotReadyError,
    OverloadedError,
    ServeAppError,
    ServiceError,
    UnexpectedError,
    UnknownModelError,
)
from tests.unit.client.scripted import CUT, DROP, HANG, SCORED, Say, problem, scripted_server

KINDS = ["sync", "async"]


def score_one(kind: str, url: str, **options: Any) -> float:
    if kind == "sync":
        with SimilarityClient.from_url(url, **options) as client:
            return client.score_one(b"image", "text")

    async def ask() -> float:
        async with AsyncSimilarityClient.from_url(url, **options) as client:
            return await client.score_one(b"image", "text")

    return asyncio.run(ask())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "failure",
    [
        DROP,
        problem(503, "overloaded", retry_after="0"),
        problem(503, "overloaded"),
        problem(503, "not_ready"),
        problem(503, "service_error", retry_after="0"),
        Say(503, b"<html>No server is available</html>"),
    ],
)
def test_what_may_pass_is_tried_again(kind: str, failure: Say | str) -> None:
    with scripted_server(failure, failure, SCORED) as server:
        assert score_one(kind, server.url) == 0.5
    assert len(server.requests) == 3
    assert len({content for _, _, content in server.requests}) == 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("failure", "error"),
    [
        (problem(422, "invalid_request"), InvalidRequestError),
        (problem(404, "unknown_model"), UnknownModelError),
        (problem(503, "model_load_failed"), ModelLoadError),
        (problem(500, "internal_error"), UnexpectedError),
        (problem(504, "deadline_exceeded"), DeadlineExceededError),
        (problem(429, "something_new"), ServeAppError),
        (Say(502, b"Bad Gateway"), ServiceError),
        (Say(307, b"", (("location", "http://127.0.0.1:9/"),)), ServiceError),
        (Say(200, b"hello"), UnexpectedError),
        (Say(200, {"answer": 42}), UnexpectedError),
        (CUT, ServiceError),
    ],
)
def test_what_would_fail_again_is_not(
    kind: str, failure: Say | str, error: type[ServeAppError]
) -> None:
    with scripted_server(failure, SCORED) as server, pytest.raises(ServeAppError) as caught:
        score_one(kind, server.url)
    assert type(caught.value) is error
    assert len(server.requests) == 1
    if isinstance(failure, Say) and isinstance(failure.body, dict) and "code" in failure.body:
        assert failure.body["detail"] in caught.value.detail


@pytest.mark.parametrize("kind", KINDS)
def test_the_last_failure_is_raised_when_tries_are_used_up(kind: str) -> None:
    with (
        scripted_server(problem(503, "overloaded", retry_after="0")) as server,
        pytest.raises(OverloadedError, match="because of overloaded"),
    ):
        score_one(kind, server.url, retries=1)
    assert len(server.requests) == 2


@pytest.mark.parametrize("kind", KINDS)
def test_a_wait_longer_than_the_timeout_is_not_begun(kind: str) -> None:
    with (
        scripted_server(problem(503, "overloaded", retry_after="3600"), SCORED) as server,
        pytest.raises(OverloadedError),
    ):
        score_one(kind, server.url)
    assert len(server.requests) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_service_that_never_answers(kind: str) -> None:
    with (
        scripted_server(HANG) as server,
        pytest.raises(DeadlineExceededError, match=r"within 0\.2 s"),
    ):
        score_one(kind, server.url, timeout=0.2)
    assert len(server.requests) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_nobody_listens(kind: str) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(NotReadyError, match=rf"Cannot reach {url} .*is the service running"):
            score_one(kind, url, retries=1)
        with SimilarityClient.from_url(url) as client:
            assert client.ready() is False


def test_ready_asks_once_and_says_no() -> None:
    with scripted_server(problem(503, "not_ready"), Say(200, {"status": "ok"})) as server:
        with SimilarityClient.from_url(server.url) as client:
            assert client.ready() is False
            assert len(server.requests) == 1
            assert client.ready() is True
        assert server.requests[0][0] == "/readyz"


def test_ready_of_something_else_is_an_error_rather_than_no() -> None:
    with (
        scripted_server(problem(404, "not_found")) as server,
        SimilarityClient.from_url(server.url) as client,
        pytest.raises(ServeAppError, match="not_found"),
    ):
        client.ready()


def test_headers_and_a_path_prefix_are_kept() -> None:
    with (
        scripted_server(SCORED) as server,
        SimilarityClient.from_url(f"{server.url}/a/", headers={"x-token": "secret"}) as client,
    ):
        client.score([b"i"], ["t"])
    path, headers, _ = server.requests[0]
    assert path == "/a/v1/score"
    assert headers["x-token"] == "secret"
    assert headers["user-agent"].startswith("serve-app/")


def test_the_routing_key_travels_with_every_kind_of_request() -> None:
    with scripted_server(SCORED) as server, SimilarityClient.from_url(server.url) as client:
        client.score([b"a"], ["x"], routing_key="user-1")
        client.score(pairs=[(b"a", "x")], routing_key="user-1")
        with pytest.raises(UnexpectedError):  # the script answers with scores
            client.embed(["x"], routing_key="user-1")
    assert [path for path, _, _ in server.requests] == ["/v1/score", "/v1/score", "/v1/embeddings"]
    assert all(b"routing_key" in body and b"user-1" in body for _, _, body in server.requests)


@pytest.mark.parametrize("experiment", ["a name", {"name": "x"}, 3])
def test_an_experiment_of_another_shape_is_another_service(experiment: object) -> None:
    answer = Say(200, {**SCORED.body, "experiment": experiment})
    with (
        scripted_server(answer) as server,
        SimilarityClient.from_url(server.url) as client,
        pytest.raises(UnexpectedError, match="serve_app"),
    ):
        client.score([b"a"], ["x"])
