from __future__ import annotations

import asyncio

import numpy as np
import pytest

from serve_app.errors import (
    DeadlineExceededError,
    InvalidRequestError,
    ModelLoadError,
    TooManyPairsError,
    UnknownMetricError,
    UnknownModelError,
    UnsupportedOperationError,
)
from serve_app.types import EmbedRequest, ItemFault, ScoreRequest
from tests.unit.engine.conftest import Builder, png, resolved, snapshot_of

RED, GREEN, BLUE = png((255, 0, 0)), png((0, 255, 0)), png((0, 0, 255))
BROKEN = b"\xff\xd8\xff no jpeg"


async def test_scores_every_combination_row_major_and_highest_where_they_match(engine: Builder):
    pipeline = engine().pipeline
    response = await pipeline.score(ScoreRequest((RED, BLUE), ("a red one", "a blue one")))
    assert response.model == "fake@00000001"
    assert [(r.image, r.text) for r in response.results] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    scores = [r.score for r in response.results]
    assert min(scores[0], scores[3]) > max(scores[1], scores[2])
    assert set(response.timing_ms) == {"decode", "queue", "model", "total"}
    assert response.timing_ms["total"] >= response.timing_ms["decode"] > 0
    assert len(response.id) == 32


async def test_n_images_and_m_texts_cost_n_plus_m_encodes(engine: Builder):
    made = engine()
    images = (RED, GREEN, RED, BLUE, RED)
    texts = ("red", "blue", "red")
    response = await made.pipeline.score(ScoreRequest(images, texts))
    assert len(response.results) == 15
    assert sum(made.fake().image_batches) == 3
    assert sum(map(len, made.fake().text_batches)) == 2
    by_pair = {(r.image, r.text): r.score for r in response.results}
    assert by_pair[0, 0] == by_pair[4, 2] == by_pair[2, 0]


async def test_pairs_are_answered_in_the_order_asked_and_unused_items_cost_nothing(engine: Builder):
    made = engine()
    request = ScoreRequest((RED, BROKEN, BLUE), ("x", "y"), pairs=((2, 1), (0, 0), (2, 1)))
    response = await made.pipeline.score(request)
    assert [(r.image, r.text) for r in response.results] == [(2, 1), (0, 0), (2, 1)]
    assert response.results[0] == response.results[2]
    assert all(r.error is None for r in response.results)
    assert sum(made.fake().image_batches) == 2


async def test_one_bad_item_is_its_own_error_and_the_image_goes_before_the_text(engine: Builder):
    made = engine()
    fault = ItemFault("image_encoding_invalid", "not base64")
    request = ScoreRequest((RED, BROKEN, fault), ("red", "  "))
    results = (await made.pipeline.score(request)).results
    codes = [r.error.code if r.error else None for r in results]
    assert codes[:2] == [None, "text_empty"]
    assert codes[2] == codes[3] == "image_undecodable"
    assert codes[4] == codes[5] == "image_encoding_invalid"
    alone = (await made.pipeline.score(ScoreRequest((RED,), ("red",)))).results
    assert alone[0] == results[0]


async def test_when_all_fail_there_is_still_an_answer_and_the_model_is_not_called(engine: Builder):
    made = engine()
    response = await made.pipeline.score(ScoreRequest((BROKEN,), ("a", "b")))
    assert [r.error.code for r in response.results if r.error] == ["image_undecodable"] * 2
    assert made.fake().image_batches == []


async def test_long_text_is_warned_about_or_refused(engine: Builder):
    pipeline = engine(resolved(options={"context_length": 6})).pipeline
    texts = ("one two three four five", "one two three four")
    warned = (await pipeline.score(ScoreRequest((RED,), texts))).results
    (warning,) = warned[0].warnings
    assert (warning.code, warning.tokens, warning.limit) == ("text_truncated", 7, 6)
    assert warned[0].score is not None
    assert warned[1].warnings == ()
    refused = (await pipeline.score(ScoreRequest((RED,), texts, on_truncate="error"))).results
    assert refused[0].error is not None
    assert refused[0].error.code == "text_too_long"
    assert refused[0].score is None
    assert refused[1].score == warned[1].score


async def test_metrics_are_those_asked_for_and_the_primary_one(engine: Builder):
    pipeline = engine().pipeline
    usual = (await pipeline.score(ScoreRequest((RED,), ("red",)))).results[0]
    assert set(usual.scores) == {"cosine", "logit"}
    assert usual.scores["logit"] == pytest.approx(10 * usual.scores["cosine"] - 1)
    asked = await pipeline.score(ScoreRequest((RED,), ("red",), metrics=("logit", "logit")))
    assert set(asked.results[0].scores) == {"logit", "cosine"}
    assert asked.results[0].score == usual.score == usual.scores["cosine"]


async def test_clipscore_encodes_the_prefixed_text(engine: Builder):
    made = engine()
    request = ScoreRequest((RED,), ("red",), metrics=("clipscore",))
    scored = (await made.pipeline.score(request)).results[0]
    assert {text for batch in made.fake().text_batches for text in batch} == {
        "red",
        "A photo depicts red",
    }
    prefixed = ScoreRequest((RED,), ("A photo depicts red",))
    cosine = (await made.pipeline.score(prefixed)).results[0].scores["cosine"]
    assert scored.scores["clipscore"] == pytest.approx(2.5 * max(cosine, 0))
    assert scored.scores["clipscore"] > 0
    assert scored.scores["cosine"] != pytest.approx(cosine)


async def test_the_prefix_counts_for_the_length_of_a_text(engine: Builder):
    pipeline = engine(resolved(options={"context_length": 6})).pipeline
    request = ScoreRequest((RED,), ("one two",), metrics=("clipscore",))
    (warning,) = (await pipeline.score(request)).results[0].warnings
    assert warning.tokens == 7
    plain = await pipeline.score(ScoreRequest((RED,), ("one two",)))
    assert plain.results[0].warnings == ()


async def test_unknown_metric_and_model_are_refused_before_any_image_is_looked_at(engine: Builder):
    pipeline = engine().pipeline
    with pytest.raises(UnknownMetricError, match=r"'beauty'.*cosine, logit, probability"):
        await pipeline.score(ScoreRequest((BROKEN,), ("x",), metrics=("beauty",)))
    with pytest.raises(UnknownModelError):
        await pipeline.score(ScoreRequest((RED,), ("x",), model="nobody"))


@pytest.mark.parametrize(
    "request_",
    [
        ScoreRequest((), ("x",)),
        ScoreRequest((RED,), ()),
        ScoreRequest((RED,), ("x",), pairs=()),
        ScoreRequest((RED,), ("x",), pairs=((0, 1),)),
        ScoreRequest((RED,), ("x",), pairs=((-1, 0),)),
    ],
)
async def test_nothing_to_score_is_an_invalid_request(engine: Builder, request_: ScoreRequest):
    with pytest.raises(InvalidRequestError):
        await engine().pipeline.score(request_)


@pytest.mark.parametrize(
    "request_",
    [
        ScoreRequest((RED,) * 3, ("a", "b")),
        ScoreRequest((RED,), ("a",), pairs=((0, 0),) * 6),
        ScoreRequest((RED,) * 6, ("a",), pairs=((0, 0),)),
    ],
)
async def test_too_many_pairs(engine: Builder, request_: ScoreRequest):
    pipeline = engine(limits={"max_pairs": 5}).pipeline
    with pytest.raises(TooManyPairsError, match=r"6 pairs; at most 5"):
        await pipeline.score(request_)
    allowed = ScoreRequest((RED,) * 5, ("a",))
    assert len((await pipeline.score(allowed)).results) == 5


async def test_rank_is_best_first_stable_and_failed_ones_last(engine: Builder):
    pipeline = engine().pipeline
    request = ScoreRequest((BLUE, BROKEN, RED, BLUE), ("red",))
    results = (await pipeline.rank(request)).results
    assert [(r.image, r.rank) for r in results] == [(2, 1), (0, 2), (3, 3), (1, None)]
    by_text = (await pipeline.rank(ScoreRequest((BLUE,), ("red", "blue")))).results
    assert [r.text for r in by_text] == [1, 0]
    with pytest.raises(InvalidRequestError, match="one text"):
        await pipeline.rank(ScoreRequest((RED, BLUE), ("red", "blue")))
    with pytest.raises(InvalidRequestError):
        await pipeline.rank(ScoreRequest((RED,), ("red",), pairs=((0, 0),)))


async def test_embeddings_of_texts_and_images_give_the_cosine(engine: Builder):
    made = engine()
    fault = ItemFault("image_empty", "no bytes")
    inputs = ("red", RED, "", BROKEN, fault, "red")
    response = await made.pipeline.embed(EmbedRequest(inputs))
    assert response.dimension == 16
    assert [r.index for r in response.results] == list(range(6))
    codes = [r.error.code if r.error else None for r in response.results]
    assert codes == [None, None, "text_empty", "image_undecodable", "image_empty", None]
    text, image = (np.frombuffer(r.embedding, "<f4") for r in response.results[:2])
    scored = await made.pipeline.score(ScoreRequest((RED,), ("red",)))
    assert float(text @ image) == pytest.approx(scored.results[0].scores["cosine"], abs=1e-6)
    assert [r.tokens for r in response.results] == [3, 0, 0, 0, 0, 3]
    assert response.results[5].embedding == response.results[0].embedding


async def test_embedding_a_long_text_warns_or_fails(engine: Builder):
    pipeline = engine(resolved(options={"context_length": 3})).pipeline
    warned = (await pipeline.embed(EmbedRequest(("one two",)))).results[0]
    assert [w.code for w in warned.warnings] == ["text_truncated"]
    refused = (await pipeline.embed(EmbedRequest(("one two",), on_truncate="error"))).results[0]
    assert refused.error is not None
    assert refused.error.code == "text_too_long"
    assert refused.embedding is None


async def test_pair_scorers_score_and_do_not_embed(engine: Builder):
    made = engine(resolved(backend="FakePairScorer"))
    response = await made.pipeline.score(ScoreRequest((RED, RED), ("red", "blue")))
    assert [set(r.scores) for r in response.results] == [{"match"}] * 4
    assert sum(made.fake().image_batches) == 2
    with pytest.raises(UnsupportedOperationError):
        await made.pipeline.embed(EmbedRequest(("red",)))
    with pytest.raises(UnknownMetricError):
        await made.pipeline.score(ScoreRequest((RED,), ("red",), metrics=("cosine",)))


async def test_a_poisoned_text_or_image_harms_only_its_own_pairs(engine: Builder):
    model = resolved(options={"fail_text": "poison", "fail_image_pixel": 77})
    made, healthy = engine(model), engine()
    images = (RED, png((77, 0, 0)), BLUE)
    texts = ("red", "poison", "blue", "green")
    results = (await made.pipeline.score(ScoreRequest(images, texts))).results
    expected = (await healthy.pipeline.score(ScoreRequest(images, texts))).results
    for got, plain in zip(results, expected, strict=True):
        if got.image == 1 or got.text == 1:
            assert got.error is not None
            assert got.error.code == "model_failed"
        else:
            assert got == plain


async def test_a_number_that_is_not_finite_is_never_a_score(engine: Builder):
    made = engine(resolved(options={"nan_text": "nan"}))
    nan, red = (await made.pipeline.score(ScoreRequest((RED,), ("nan", "red")))).results
    assert nan.error is not None
    assert nan.error.code == "model_failed"
    assert nan.score is None
    assert red.score is not None


async def test_images_beyond_the_decoded_budget_wait_and_are_all_answered(engine: Builder):
    # 1 MiB is the least that may be set; each image takes 1 MiB decoded, two never fit.
    made = engine(limits={"max_decoded_bytes": 2**20})
    images = tuple(png((index, 0, 0), (512, 512)) for index in range(6))
    large = png((99, 0, 0), (1024, 1024))  # larger than the whole budget
    response = await made.pipeline.score(ScoreRequest((*images, large), ("red",)))
    assert all(result.error is None for result in response.results)
    assert made.pipeline._images.budget.used == 0


async def test_a_deadline_ends_a_request_and_the_next_is_answered(engine: Builder):
    made = engine(limits={"request_timeout_s": 1})
    await made.executor.describe("fake@00000001")
    made.fake().gate.clear()
    with pytest.raises(DeadlineExceededError, match="1 s"):
        await made.pipeline.score(ScoreRequest((RED,), ("blue",)))
    made.fake().gate.set()
    again = await made.pipeline.score(ScoreRequest((RED,), ("red",)))
    assert again.results[0].error is None


async def test_load_failures_are_not_kept_and_concurrent_requests_share_one_question(
    engine: Builder,
):
    made = engine(resolved("bad", options={"fail_load": "no such file"}), resolved("good"))
    with pytest.raises(ModelLoadError, match="no such file"):
        await made.pipeline.score(ScoreRequest((RED,), ("x",)))
    request = ScoreRequest((RED,), ("x",), model="good")
    await asyncio.gather(*(made.pipeline.score(request) for _ in range(8)))
    assert len(made.load.models["good"]) == 1
    assert made.pipeline.known_info("good@00000001") is not None
    assert made.pipeline.known_info("bad@00000001") is None


async def test_an_update_changes_what_is_declared(engine: Builder):
    made = engine()
    other = snapshot_of(resolved("other"))
    made.executor.update(other)
    made.pipeline.update(other)
    response = await made.pipeline.score(ScoreRequest((RED,), ("x",), request_id="mine"))
    assert (response.model, response.id) == ("other@00000001", "mine")
    with pytest.raises(UnknownModelError):
        await made.pipeline.score(ScoreRequest((RED,), ("x",), model="fake"))


async def test_statistics_tell_what_was_run(engine: Builder):
    made = engine()
    await made.pipeline.score(ScoreRequest((RED, BLUE), ("x",)))
    statistics = made.executor.statistics()
    assert statistics["models"] == ["fake@00000001"]
    assert statistics["batches"]["fake@00000001"]["items"] == {"image": 2, "text": 1}


HALVES = {"experiments": {"test": {"arms": {"fake": 50, "other": 50}, "shadow": ["other"]}}}


def halves(engine: Builder, **options):
    models = (resolved(), resolved("other", options={"size": 4}), resolved("third"))
    return engine(*models, routing=HALVES, **options)


async def test_an_experiment_chooses_the_model_and_the_answer_says_so(engine: Builder):
    made = halves(engine)
    arms = set()
    for number in range(20):
        key = f"user {number}"
        scored = await made.pipeline.score(ScoreRequest((RED,), ("red",), routing_key=key))
        embedded = await made.pipeline.embed(EmbedRequest(("red",), routing_key=key))
        ranked = await made.pipeline.rank(ScoreRequest((RED,), ("red", "b"), routing_key=key))
        for response in (scored, embedded, ranked):
            assert response.experiment is not None
            assert response.experiment == scored.experiment
            assert response.model == f"{response.experiment.arm}@00000001"
        arms.add(scored.experiment.arm)
    assert arms == {"fake", "other"}


async def test_a_named_model_answers_without_the_experiment(engine: Builder):
    made = halves(engine)
    for model in ("fake", "other@00000001", "third"):
        response = await made.pipeline.score(ScoreRequest((RED,), ("red",), model=model))
        assert response.model.partition("@")[0] == model.partition("@")[0]
        assert response.experiment is None
    assert [each.routed.route.shadows for each in made.answered] == [(), (), ()]


async def test_it_is_told_how_each_request_ended(engine: Builder):
    made = halves(engine)
    await made.pipeline.score(ScoreRequest((RED,), ("red",), model="test", request_id="mine"))
    with pytest.raises(UnknownMetricError):
        await made.pipeline.score(ScoreRequest((RED,), ("red",), metrics=("beauty",)))
    with pytest.raises(UnknownModelError):
        await made.pipeline.score(ScoreRequest((RED,), ("red",), model="nobody"))
    first, second = made.answered  # what reached no model is told of nowhere
    assert (first.outcome.code, first.request.request_id) == ("ok", "mine")
    assert (second.outcome.code, second.outcome.failed) == ("unknown_metric", False)
    assert len(second.request.request_id or "") == 32
    assert first.seconds > 0
    assert made.pipeline.in_flight == 0


async def test_a_failed_answer_and_a_passed_deadline_are_told_as_the_services_fault(
    engine: Builder,
):
    made = engine(resolved(options={"fail_text": "poison"}), limits={"request_timeout_s": 1})
    await made.pipeline.score(ScoreRequest((RED,), ("poison",)))
    made.fake().gate.clear()
    with pytest.raises(DeadlineExceededError):
        await made.pipeline.score(ScoreRequest((RED,), ("red",)))
    codes = [(each.outcome.code, each.outcome.failed) for each in made.answered]
    assert codes == [("model_failed", True), ("deadline_exceeded", True)]


async def test_a_request_that_its_caller_gave_up_is_told_of_nowhere(engine: Builder):
    made = engine()
    await made.pipeline.score(ScoreRequest((RED,), ("red",)))
    made.fake().entered.clear()
    made.fake().gate.clear()
    task = asyncio.create_task(made.pipeline.score(ScoreRequest((RED,), ("blue",))))
    await asyncio.to_thread(made.fake().entered.wait)
    assert made.pipeline.in_flight == 1
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (len(made.answered), made.pipeline.in_flight) == (1, 0)


async def test_a_shadow_scores_the_same_inputs_on_another_model_and_is_told_of_nowhere(
    engine: Builder,
):
    made = halves(engine)
    request = ScoreRequest((RED, BROKEN), ("red",), model="fake", metrics=("logit",))
    await made.pipeline.score(request)
    await made.pipeline.embed(EmbedRequest(("red",), model="fake"))
    scored, embedded = made.answered.copy()
    other = made.snapshot.resolve("other")
    shadow = await made.pipeline.shadow(scored, other)
    plain = await made.pipeline.score(ScoreRequest((RED, BROKEN), ("red",), model="other"))
    assert shadow.model == other.id
    assert shadow.experiment is None
    assert [r.score for r in shadow.results] == [r.score for r in plain.results]
    assert set(shadow.results[0].scores) == {"cosine"}, "asks for nothing but the primary metric"
    shadow = await made.pipeline.shadow(embedded, other)
    assert shadow.model == other.id
    assert len(made.answered) == 3


async def test_an_update_changes_the_routing_of_later_requests(engine: Builder):
    made = halves(engine)
    routing = {"default": "third"}
    models = [made.snapshot.resolve(name) for name in ("fake", "other", "third")]
    made.pipeline.update(snapshot_of(*models, routing=routing))
    response = await made.pipeline.score(ScoreRequest((RED,), ("red",)))
    assert (response.model, response.experiment) == ("third@00000001", None)
