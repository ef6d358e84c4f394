"""Both clients against the real routes and engine: what is asked, answered and raised."""

import asyncio
import inspect
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import serve_app
import serve_app.client
from serve_app.client import AsyncSimilarityClient, SimilarityClient, embeddings_array
from serve_app.errors import (
    BodyTooLargeError,
    ConfigError,
    ImageUndecodableError,
    ModelLoadError,
    ServeAppError,
    TextTooLongError,
    TooManyPairsError,
    UnknownMetricError,
    UnknownModelError,
    UnsupportedOperationError,
)
from serve_app.types import ExperimentArm, ScoreResponse

RED = np.full((16, 16, 3), (255, 0, 0), np.uint8)
BLUE = np.full((16, 16, 3), (0, 0, 255), np.uint8)
TEXTS = ["a red thing", "a blue thing"]
LONG = "red " * 30


@pytest.fixture(params=["sync", "async"])
def ask(request: pytest.FixtureRequest, service_url: str) -> Callable[..., Any]:
    """Calls a method by name on either client."""

    def call(method: str, *arguments: Any, **options: Any) -> Any:
        if request.param == "sync":
            with SimilarityClient.from_url(service_url) as client:
                return getattr(client, method)(*arguments, **options)

        async def call_async() -> Any:
            async with AsyncSimilarityClient.from_url(service_url) as client:
                return await getattr(client, method)(*arguments, **options)

        return asyncio.run(call_async())

    return call


Ask = Callable[..., Any]


def best(response: ScoreResponse, image: int) -> int:
    results = [result for result in response.results if result.image == image]
    return max(results, key=lambda result: result.score or -1.0).text


def test_a_grid_is_scored_row_by_row(ask: Ask) -> None:
    response = ask("score", [RED, BLUE], TEXTS)
    places = [(result.image, result.text) for result in response.results]
    assert places == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert (best(response, 0), best(response, 1)) == (0, 1)
    assert response.model.startswith("fake@")
    assert response.id
    assert response.timing_ms["total"] > 0
    assert set(response.results[0].scores) == {"cosine", "logit"}
    assert response.results[0].score == response.results[0].scores["cosine"]


def test_pairs_give_what_the_grid_gives(ask: Ask) -> None:
    grid = ask("score", [RED, BLUE], TEXTS)
    pairs = ask("score", pairs=[(RED, TEXTS[1]), (BLUE, TEXTS[0]), (RED, TEXTS[1])])
    assert [result.image for result in pairs.results] == [0, 1, 2]
    expected = [grid.results[1].score, grid.results[2].score, grid.results[1].score]
    assert [result.score for result in pairs.results] == pytest.approx(expected, abs=1e-6)


def test_every_kind_of_image_scores_the_same(ask: Ask, tmp_path: Path) -> None:
    path = tmp_path / "red.png"
    image = Image.fromarray(RED)
    image.save(path)
    with path.open("rb") as file:
        kinds = [str(path), path, path.read_bytes(), image, RED, file]
        response = ask("score", kinds, TEXTS[:1])
    scores = [result.score for result in response.results]
    assert len(scores) == len(kinds)
    assert scores == pytest.approx([scores[0]] * len(kinds), abs=1e-6)


def test_texts_arrive_as_they_are(ask: Ask) -> None:
    texts = ['quo"te\r\nline', "emoji 🔴 red", "Ünïcödé", "-"]
    response = ask("score", [RED], texts)
    pairs = ask("score", pairs=[(RED, text) for text in texts])  # sent as JSON, not as a form
    assert all(result.error is None for result in response.results)
    assert [result.score for result in response.results] == pytest.approx(
        [result.score for result in pairs.results], abs=1e-6
    )


def test_options_reach_the_service(ask: Ask) -> None:
    response = ask("score", [RED], TEXTS[:1], metrics=["clipscore"], routing_key="user-1")
    assert set(response.results[0].scores) == {"clipscore", "cosine"}  # and the primary one
    response = ask("score", [RED], TEXTS[:1], model="pairs")
    assert response.model.startswith("pairs@")
    assert set(response.results[0].scores) == {"match"}


def test_an_experiment_that_chose_the_model_is_named(ask: Ask) -> None:
    wanted = ExperimentArm("trial", "fake")
    asked = {"model": "trial", "routing_key": "user-1"}
    assert ask("score", [RED], TEXTS, **asked).experiment == wanted
    assert ask("rank", image=RED, texts=TEXTS, **asked).experiment == wanted
    assert ask("embed", TEXTS, **asked).experiment == wanted
    failed = ask("score", [b"\xff\xd8\xff broken"], TEXTS, **asked)
    assert (failed.results[0].error.code, failed.experiment) == ("image_undecodable", wanted)
    failed = ask("embed", [b"\xff\xd8\xff broken"], **asked)
    assert failed.experiment == wanted
    for named in ("fake", None):
        assert ask("score", [RED], TEXTS, model=named).experiment is None
        assert ask("embed", TEXTS, model=named).experiment is None


def test_truncation_is_a_warning_or_an_error(ask: Ask) -> None:
    (result,) = ask("score", [RED], [LONG]).results
    (warning,) = result.warnings
    assert (warning.code, warning.tokens, warning.limit) == ("text_truncated", 32, 16)
    (result,) = ask("score", [RED], [LONG], on_truncate="error").results
    assert result.error is not None
    assert result.error.code == "text_too_long"
    with pytest.raises(TextTooLongError):
        ask("score_one", RED, LONG, on_truncate="error")


def test_one_bad_item_leaves_its_neighbours(ask: Ask) -> None:
    broken, red = ask("score", [b"\xff\xd8\xff broken", RED], TEXTS[:1]).results
    assert broken.score is None
    assert broken.error is not None
    assert broken.error.code == "image_undecodable"
    assert red.error is None


def test_all_items_failed_is_a_response_and_no_exception(ask: Ask) -> None:
    response = ask("score", [b"\xff\xd8\xff broken"], TEXTS)
    assert [result.error.code for result in response.results] == ["image_undecodable"] * 2
    assert response.model.startswith("fake@")
    assert response.id
    response = ask("embed", [b"\xff\xd8\xff broken"])
    assert response.results[0].error.code == "image_undecodable"
    with pytest.raises(ImageUndecodableError):
        embeddings_array(response)


def test_score_one_is_the_number_or_the_items_error(ask: Ask) -> None:
    assert ask("score_one", RED, TEXTS[0]) == pytest.approx(
        ask("score", [RED], TEXTS).results[0].score, abs=1e-6
    )
    with pytest.raises(ImageUndecodableError):
        ask("score_one", b"\xff\xd8\xff broken", "x")


def test_rank_puts_the_best_first_and_failures_last(ask: Ask) -> None:
    response = ask("rank", text="a blue thing", images=[b"\xff\xd8\xff", RED, BLUE])
    assert [result.image for result in response.results] == [2, 1, 0]
    assert [result.rank for result in response.results] == [1, 2, None]
    response = ask("rank", image=BLUE, texts=TEXTS)
    assert [result.text for result in response.results] == [1, 0]


def test_embeddings_become_an_array(ask: Ask) -> None:
    response = ask("embed", ["a red thing", RED, LONG])
    array = embeddings_array(response)
    assert array.shape == (3, response.dimension)
    assert array.dtype == np.float32
    assert array.flags.writeable
    np.testing.assert_allclose(np.linalg.norm(array, axis=1), 1.0, atol=1e-5)
    expected = ask("score", [RED], ["a red thing"], metrics=["cosine"]).results[0].score
    assert float(array[0] @ array[1]) == pytest.approx(expected, abs=1e-6)
    assert response.results[2].warnings[0].code == "text_truncated"


def test_models_and_ready(ask: Ask) -> None:
    models = ask("models")
    assert [model["name"] for model in models] == ["fake", "pairs", "broken"]
    assert models[0]["default"] is True
    assert ask("ready") is True


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"model": "nosuch"}, UnknownModelError, "nosuch"),
        ({"model": "broken"}, ModelLoadError, "on fire"),
        ({"metrics": ["nosuch"]}, UnknownMetricError, "nosuch"),
        ({"texts": [str(number) for number in range(13)]}, TooManyPairsError, "12"),
        ({"images": [b"x" * 300_000]}, BodyTooLargeError, "200000"),
    ],
)
def test_errors_of_a_request_are_raised_as_their_class(
    ask: Ask, arguments: dict[str, Any], error: type[ServeAppError], message: str
) -> None:
    with pytest.raises(ServeAppError, match=message) as caught:
        ask("score", **{"images": [RED], "texts": TEXTS, **arguments})
    assert type(caught.value) is error


def test_a_model_without_embeddings_says_so(ask: Ask) -> None:
    with pytest.raises(UnsupportedOperationError):
        ask("embed", ["x"], model="pairs")


def test_local_mistakes_are_found_before_anything_is_sent(ask: Ask) -> None:
    with pytest.raises(FileNotFoundError, match=r"absent\.png"):
        ask("score", ["absent.png"], ["x"])
    with pytest.raises(TypeError, match="float32"):
        ask("score", [RED.astype(np.float32)], ["x"])


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://host", "http://", "", "/path"])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    for client in (SimilarityClient, AsyncSimilarityClient):
        with pytest.raises(ConfigError, match="http://"):
            client.from_url(url)


def test_one_client_serves_many_threads_and_tasks(service_url: str) -> None:
    with SimilarityClient.from_url(service_url) as client:
        expected = client.score([RED], TEXTS)

        async def threads() -> list[ScoreResponse]:
            asked = (asyncio.to_thread(client.score, [RED], TEXTS) for _ in range(8))
            return list(await asyncio.gather(*asked))

        async def tasks() -> list[ScoreResponse]:
            async with AsyncSimilarityClient.from_url(service_url) as other:
                return list(await asyncio.gather(*(other.score([RED], TEXTS) for _ in range(8))))

        for response in (*asyncio.run(threads()), *asyncio.run(tasks())):
            same = replace(response, id=expected.id, timing_ms=expected.timing_ms)
            assert same.model == expected.model
            assert [r.score for r in same.results] == pytest.approx(
                [r.score for r in expected.results], abs=1e-6
            )


def test_both_clients_have_the_same_interface() -> None:
    def interface(client: type) -> dict[str, list[str]]:
        return {
            name: [str(parameter) for parameter in inspect.signature(method).parameters.values()]
            for name, method in inspect.getmembers(client, callable)
            if not name.startswith("_")
        }

    assert interface(SimilarityClient) == interface(AsyncSimilarityClient)


def test_all_is_what_is_exported() -> None:
    public = {
        name
        for name, value in vars(serve_app.client).items()
        if not name.startswith("_") and not inspect.ismodule(value) and name != "annotations"
    }
    assert set(serve_app.client.__all__) == public
    assert serve_app.SimilarityClient is SimilarityClient
    assert serve_app.AsyncSimilarityClient is AsyncSimilarityClient
    assert set(serve_app.__all__) == {"AsyncSimilarityClient", "SimilarityClient", "__version__"}
    with pytest.raises(AttributeError, match="nothing"):
        _ = serve_app.nothing
