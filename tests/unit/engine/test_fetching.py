"""Images by URL: fetched once, before they are routed, and each fault its own."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from serve_app.errors import ImageUrlRefusedError, TooManyPairsError
from serve_app.types import EmbedRequest, ImageUrl, ScoreRequest
from tests.unit.engine.conftest import Builder, png, resolved

RED, BLUE = png((255, 0, 0)), png((0, 0, 255))
URL, OTHER = ImageUrl("https://images.example/red.png"), ImageUrl("https://images.example/blue.png")

Fetch = Callable[[str], Awaitable[bytes]]


class Web:
    """What there is to fetch, and what was."""

    def __init__(self, pages: dict[str, bytes]) -> None:
        self.pages = pages
        self.fetched: list[str] = []

    async def __call__(self, url: str) -> bytes:
        self.fetched.append(url)
        await asyncio.sleep(0)
        if url not in self.pages:
            raise ImageUrlRefusedError("The image's URL is not fetched: it is not known.")
        return self.pages[url]


@pytest.fixture
def web() -> Web:
    return Web({URL.url: RED, OTHER.url: BLUE})


async def test_a_url_scores_as_its_bytes_and_is_fetched_once(engine: Builder, web: Web) -> None:
    pipeline = engine(fetch=web).pipeline
    by_url = await pipeline.score(ScoreRequest((URL, OTHER, URL), ("a red one",)))
    by_bytes = await pipeline.score(ScoreRequest((RED, BLUE, RED), ("a red one",)))
    assert [r.score for r in by_url.results] == [r.score for r in by_bytes.results]
    assert web.fetched == [URL.url, OTHER.url]
    embedded = await pipeline.embed(EmbedRequest(("a red one", OTHER)))
    assert all(result.error is None for result in embedded.results)


async def test_what_cannot_be_fetched_is_the_fault_of_that_item(engine: Builder, web: Web) -> None:
    absent = ImageUrl("https://images.example/absent.png")
    response = await engine(fetch=web).pipeline.score(ScoreRequest((absent, URL), ("red",)))
    bad, good = response.results
    assert bad.error is not None
    assert bad.error.code == "image_url_refused"
    assert good.error is None


async def test_a_defect_while_fetching_is_the_fault_of_that_item(engine: Builder) -> None:
    async def broken(url: str) -> bytes:
        raise RuntimeError(url)

    response = await engine(fetch=broken).pipeline.score(ScoreRequest((URL, RED), ("red",)))
    bad, good = response.results
    assert bad.error is not None
    assert bad.error.code == "internal_error"
    assert URL.url not in bad.error.detail
    assert good.error is None


async def test_without_a_fetcher_urls_are_faults(engine: Builder) -> None:
    pipeline = engine().pipeline
    response = await pipeline.score(ScoreRequest((URL, RED), ("red",)))
    assert response.results[0].error is not None
    assert response.results[0].error.code == "image_url_disabled"
    assert response.results[1].error is None
    embedded = await pipeline.embed(EmbedRequest((URL, "red")))
    assert embedded.results[0].error is not None
    assert embedded.results[0].error.code == "image_url_disabled"


async def test_what_is_fetched_for_one_request_is_bounded(engine: Builder, web: Web) -> None:
    web.pages[URL.url] = RED + bytes(2000)  # what stands behind an image is not read
    most = len(web.pages[URL.url]) + len(BLUE) - 1
    pipeline = engine(fetch=web, limits={"max_body_bytes": most}).pipeline
    response = await pipeline.score(ScoreRequest((URL, OTHER), ("red",)))
    codes = [result.error and result.error.code for result in response.results]
    assert codes == [None, "image_too_large"]


async def test_too_many_urls_are_refused_before_one_is_fetched(engine: Builder, web: Web) -> None:
    pipeline = engine(fetch=web, limits={"max_pairs": 2}).pipeline
    images = tuple(ImageUrl(f"https://images.example/{n}.png") for n in range(3))
    with pytest.raises(TooManyPairsError, match="3 URLs"):
        await pipeline.score(ScoreRequest(images, ("red",)))
    assert web.fetched == []


async def test_an_image_by_url_is_on_the_arm_of_its_bytes(engine: Builder) -> None:
    """Experiments can be sticky by an image, so it is there before the request is routed."""
    models = (resolved("one"), resolved("two"))
    arms = {"arms": {"one": 50, "two": 50}, "sticky_by": "image"}
    routing = {"default": "split", "experiments": {"split": arms}}
    pictures = {f"https://images.example/{n}.png": png((n, 3 * n, 7)) for n in range(30)}
    made = engine(*models, routing=routing, fetch=Web(pictures))
    seen = set()
    for url, content in pictures.items():
        by_url = await made.pipeline.score(ScoreRequest((ImageUrl(url),), ("red",)))
        by_bytes = await made.pipeline.score(ScoreRequest((content,), ("red",)))
        assert by_url.model == by_bytes.model
        seen.add(by_url.model)
    assert len(seen) == 2
