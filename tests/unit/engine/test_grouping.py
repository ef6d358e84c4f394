"""Property: an answer does not depend on what else was asked, together or at the same time."""

from __future__ import annotations

import asyncio

from hypothesis import given, settings
from hypothesis import strategies as st

from serve_app.config.args import Limits
from serve_app.types import ItemFault, ScoreRequest
from tests.unit.engine.conftest import Engine, png, resolved

IMAGES = (png("red"), png("blue"), png((77, 1, 2)), png("white"), b"no image", b"")
TEXTS = ("red", "a blue one", "poison", "nan", "", "one two three four five six seven")
OPTIONS = {
    "context_length": 7,
    "fail_text": "poison",
    "nan_text": "nan",
    "fail_image_pixel": 77,
}
MODEL = resolved(options=OPTIONS, performance={"max_batch": 3})

indices = st.tuples(st.integers(0, len(IMAGES) - 1), st.integers(0, len(TEXTS) - 1))
groups = st.lists(st.lists(indices, min_size=1, max_size=6), min_size=1, max_size=5)


def request_of(pairs: list[tuple[int, int]]) -> ScoreRequest:
    """One image and one text per pair, as the HTTP form `pairs` gives them."""
    return ScoreRequest(
        tuple(IMAGES[image] for image, _ in pairs),
        tuple(TEXTS[text] for _, text in pairs),
        pairs=tuple((index, index) for index in range(len(pairs))),
        metrics=("cosine", "clipscore"),
    )


async def answers(asked: list[list[tuple[int, int]]]) -> list[list[object]]:
    engine = Engine(Limits(), (MODEL,))
    try:
        responses = await asyncio.gather(
            *(engine.pipeline.score(request_of(pairs)) for pairs in asked)
        )
    finally:
        await engine.close()
    return [
        [
            result.error.code
            if isinstance(result.error, ItemFault)
            else (result.score, dict(result.scores), result.warnings)
            for result in response.results
        ]
        for response in responses
    ]


@settings(max_examples=25, deadline=None)
@given(groups)
def test_answers_do_not_depend_on_grouping(asked: list[list[tuple[int, int]]]):
    together = asyncio.run(answers(asked))
    alone = asyncio.run(answers([[pair] for pairs in asked for pair in pairs]))
    assert [answer for group in together for answer in group] == [answer for (answer,) in alone]
