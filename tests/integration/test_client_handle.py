"""The client gives the same answers over HTTP and over a Serve handle, in and outside of actors."""

from __future__ import annotations

import pytest

from serve_app.client import AsyncSimilarityClient, SimilarityClient
from serve_app.errors import UnknownModelError
from serve_app.types import ScoreResponse
from tests.integration.support import SWAPPED, TRUE, UNRELATED, Running, drawing


def scores(response: ScoreResponse) -> list[float | None]:
    return [result.score for result in response.results]


def test_http_and_handle_agree(demo: Running) -> None:
    arguments = {"images": [drawing(), b"broken"], "texts": [TRUE, SWAPPED]}
    with (
        SimilarityClient.from_url(demo.url) as http,
        SimilarityClient.from_app(demo.name) as handle,
    ):
        one, other = http.score(**arguments), handle.score(**arguments)
        assert scores(one)[:2] == pytest.approx(scores(other)[:2], abs=1e-6)
        assert [result.error for result in one.results] == [item.error for item in other.results]
        assert one.model == other.model
        for client in (http, handle):
            assert client.ready()
            assert [model["name"] for model in client.models()] == ["demo", "demo-lite"]
            with pytest.raises(UnknownModelError, match="demo"):
                client.score(images=[drawing()], texts=[TRUE], model="nosuch")
            failed = client.score(images=[b"broken"], texts=[TRUE])
            assert failed.results[0].error is not None


async def test_the_async_client_works_over_a_handle(demo: Running) -> None:
    async with AsyncSimilarityClient.from_app(demo.name) as client:
        response = await client.rank(image=drawing(), texts=[UNRELATED, TRUE])
    assert response.results[0].text == 1


def test_another_ray_job_can_use_it(demo: Running) -> None:
    import ray

    @ray.remote(num_cpus=0)
    def job(name: str, image: bytes) -> list[float | None]:
        with SimilarityClient.from_app(name) as client:
            response = client.score(images=[image], texts=["a red circle"])
            return [result.score for result in response.results]

    (score,) = ray.get(job.remote(demo.name, drawing()))
    assert score is not None and -1 <= score <= 1
