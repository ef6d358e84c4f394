"""What a client over a handle raises: the errors that it would raise over HTTP."""

from __future__ import annotations

import pytest

from serve_app.client import AsyncSimilarityClient, SimilarityClient
from serve_app.errors import DeadlineExceededError, NotReadyError, TooManyPairsError
from tests.integration.support import TRUE, Running, drawing


def test_an_application_that_does_not_run(demo: Running) -> None:
    with SimilarityClient.from_app("nosuch") as client:
        assert client.ready() is False
        with pytest.raises(NotReadyError, match="'nosuch'"):
            client.score([drawing()], [TRUE])


async def test_an_async_client_for_an_application_that_does_not_run(demo: Running) -> None:
    async with AsyncSimilarityClient.from_app("nosuch") as client:
        assert await client.ready() is False


def test_limits_hold_over_the_handle_too(demo: Running) -> None:
    with (
        SimilarityClient.from_app(demo.name) as client,
        pytest.raises(TooManyPairsError),
    ):
        client.score([drawing()], [str(number) for number in range(257)])


def test_no_answer_in_time(demo: Running) -> None:
    with (
        SimilarityClient.from_app(demo.name, timeout=0.001) as client,
        pytest.raises(DeadlineExceededError, match="timeout"),
    ):
        client.score([drawing()], [TRUE])


async def test_no_answer_in_time_async(demo: Running) -> None:
    async with AsyncSimilarityClient.from_app(demo.name, timeout=0.001) as client:
        with pytest.raises(DeadlineExceededError, match="timeout"):
            await client.score([drawing()], [TRUE])


async def test_the_sync_client_refuses_to_block_an_event_loop(demo: Running) -> None:
    with (
        SimilarityClient.from_app(demo.name) as client,
        pytest.raises(RuntimeError, match="AsyncSimilarityClient"),
    ):
        client.score([drawing()], [TRUE])
