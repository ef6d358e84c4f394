from __future__ import annotations

import asyncio

import numpy as np
import pytest

from serve_app.engine.work import EmbedWork, ScoreWork
from serve_app.errors import OverloadedError, UnknownMetricError, UnknownModelError
from serve_app.models.base import DualEncoder
from serve_app.types import ItemFault
from tests.unit.engine.conftest import Builder, noise, resolved

FAKE = "fake@00000001"


def work(count: int, texts: tuple[str, ...], model_id: str = FAKE, **changes) -> ScoreWork:
    pairs = tuple((image, text) for image in range(count) for text in range(len(texts)))
    metrics = changes.pop("metrics", ("cosine",))
    return ScoreWork(model_id, tuple(noise(3, count)), texts, pairs, metrics, **changes)


async def test_scores_equal_the_models_own(engine: Builder):
    executor = (made := engine()).executor
    asked = work(5, ("red", "blue", "green"), metrics=("cosine", "logit", "probability"))
    outcome = await executor.score(asked)
    model = made.fake()
    assert isinstance(model, DualEncoder)
    pairs = [(asked.images[image], asked.texts[text]) for image, text in asked.pairs]
    for got, own in zip(outcome.scores, model.compute_similarity(pairs), strict=True):
        assert not isinstance(got, ItemFault)
        assert got == {name: own[name] for name in got}
    assert outcome.tokens == (3, 3, 3)
    assert outcome.model_ms > 0


async def test_models_are_evicted_beyond_the_budget_and_come_back(engine: Builder):
    models = [resolved(name, options={"bytes": 60}) for name in "abc"]
    made = engine(*models, memory_bytes=130)
    first = await made.executor.score(work(1, ("x",), "b@00000001"))
    for name in "abcb":
        outcome = await made.executor.score(work(1, ("x",), f"{name}@00000001"))
    assert outcome.scores == first.scores
    assert len(made.executor.states()) == 2
    # The default model is preloaded, so it is pinned: b and c take turns on the other place.
    assert set(made.executor.states()) == {"a@00000001", "b@00000001"}
    assert made.load.models["c"][0].unloads == 1


async def test_unknown_ids_and_metrics(engine: Builder):
    executor = engine().executor
    with pytest.raises(UnknownModelError):
        await executor.describe("fake@ffffffff")
    with pytest.raises(UnknownMetricError, match="'beauty'"):
        await executor.score(work(1, ("x",), metrics=("beauty",)))


async def test_listeners_hear_of_loads_and_evictions(engine: Builder):
    heard: list[str] = []
    models = [resolved(name, options={"bytes": 60}) for name in "abc"]
    made = engine(
        *models,
        memory_bytes=130,
        on_loading=lambda model_id: heard.append(f"loading {model_id[0]}"),
        on_unloaded=lambda model_id: heard.append(f"unloaded {model_id[0]}"),
    )
    for name in "abc":
        await made.executor.describe(f"{name}@00000001")
    assert heard == ["loading a", "loading b", "loading c", "unloaded b"]


async def test_embeddings_have_a_row_per_item_and_faults_by_index(engine: Builder):
    executor = engine(resolved(options={"fail_text": "poison"})).executor
    images = tuple(noise(1, 3))
    outcome = await executor.embed(EmbedWork(FAKE, images, ("red", "poison", "blue")))
    assert outcome.images.shape == outcome.texts.shape == (3, 16)
    assert outcome.image_faults == {}
    assert set(outcome.text_faults) == {1}
    assert outcome.tokens == (3, 0, 3)
    np.testing.assert_allclose(np.linalg.norm(outcome.images, axis=1), 1, atol=1e-6)
    none = await executor.embed(EmbedWork(FAKE, (), ("red",)))
    assert none.images.shape == (0, 16)
    np.testing.assert_array_equal(none.texts[0], outcome.texts[0])


async def test_requests_that_come_while_the_model_is_busy_share_a_batch(engine: Builder):
    made = engine()
    await made.executor.describe(FAKE)
    made.fake().gate.clear()
    first = asyncio.create_task(made.executor.score(work(1, ("first",))))
    assert await asyncio.to_thread(made.fake().entered.wait, 10)
    others = [
        asyncio.create_task(made.executor.score(work(1, (f"text {index}", "shared"))))
        for index in range(4)
    ]
    await asyncio.sleep(0.01)
    made.fake().gate.set()
    await asyncio.gather(first, *others)
    assert made.fake().image_batches == [1, 4]
    assert sorted(made.fake().text_batches[1]) == [
        "shared", "text 0", "text 1", "text 2", "text 3",
    ]  # fmt: skip


async def test_a_full_queue_is_overloaded(engine: Builder):
    made = engine(max_waiting=4)
    await made.executor.describe(FAKE)
    made.fake().gate.clear()
    running = asyncio.create_task(made.executor.score(work(1, ("a",))))
    assert await asyncio.to_thread(made.fake().entered.wait, 10)
    waiting = asyncio.create_task(made.executor.score(work(2, ("a", "b"))))
    await asyncio.sleep(0.01)
    with pytest.raises(OverloadedError):
        await made.executor.score(work(1, ("c",)))
    made.fake().gate.set()
    await asyncio.gather(running, waiting)
    assert (await made.executor.score(work(1, ("c",)))).tokens == (3,)


async def test_a_model_is_not_unloaded_under_a_running_batch(engine: Builder):
    made = engine(
        resolved("a", options={"bytes": 10}),
        resolved("b", options={"bytes": 60}),
        resolved("c", options={"bytes": 60}),
        memory_bytes=100,
    )
    await made.executor.describe("b@00000001")
    model = made.fake("b")
    model.gate.clear()
    running = asyncio.create_task(made.executor.score(work(1, ("x",), "b@00000001")))
    assert await asyncio.to_thread(model.entered.wait, 10)
    running.cancel()  # its lease ends, its batch does not
    await asyncio.gather(running, return_exceptions=True)
    await made.executor.describe("c@00000001")
    assert set(made.executor.states()) == {"c@00000001"}
    assert model.unloads == 0
    model.gate.set()
    await made.executor.score(work(1, ("x",), "c@00000001"))
    assert model.unloads == 1


async def test_a_pair_scorer_tells_tokens_and_faults_per_pair(engine: Builder):
    executor = engine(resolved(backend="FakePairScorer", options={"nan_text": "nan"})).executor
    outcome = await executor.score(work(2, ("one two", "nan"), metrics=("match",)))
    kinds = [isinstance(each, ItemFault) for each in outcome.scores]
    assert kinds == [False, True, False, True]
    assert outcome.tokens[0] == 4


async def test_a_shadows_work_is_refused_while_anything_waits_for_the_device(engine: Builder):
    made = engine(resolved("busy"), resolved("other"))
    for model in ("busy", "other"):
        await made.executor.describe(f"{model}@00000001")
    shadow = work(1, ("x",), "other@00000001", shadow=True)
    embed = EmbedWork("other@00000001", (), ("x",), shadow=True)
    assert len((await made.executor.score(shadow)).scores) == 1
    assert len((await made.executor.embed(embed)).texts) == 1
    fake = made.fake("busy")
    fake.gate.clear()
    # The first takes the device, the second waits for it.
    asked = [asyncio.create_task(made.executor.score(work(1, ("x",), "busy@00000001")))]
    await asyncio.to_thread(fake.entered.wait)
    asked.append(asyncio.create_task(made.executor.score(work(1, ("y",), "busy@00000001"))))
    _, batcher = made.executor._batchers["busy@00000001"]
    while not batcher.waiting:
        await asyncio.sleep(0)
    batches = len(made.fake("other").text_batches)
    for call in (made.executor.score(shadow), made.executor.embed(embed)):
        with pytest.raises(OverloadedError, match="shadows"):
            await call
    fake.gate.set()
    await asyncio.gather(*asked)
    assert len(made.fake("other").text_batches) == batches
    assert len((await made.executor.score(shadow)).scores) == 1
