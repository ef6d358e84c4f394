"""What every model promises, as tests that a plug-in's author runs on a model of their own.

Subclass the suite in a test module and say how a model is made:

    class TestMine(DualEncoderContract):
        @pytest.fixture(scope="module")
        @classmethod
        def make_model(cls) -> ModelMaker:
            return lambda placement: Mine(ModelSpec(backend="mine:Mine"), placement)

A small model is enough, and best: the suite loads it several times. Knows no backend.
"""

from __future__ import annotations

import gc
import math
import pickle
import sys
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from PIL import Image

from serve_app.models.base import DualEncoder, Pixels, Placement, Scores, SimilarityModel
from serve_app.scoring.metrics import METRICS

ModelMaker = Callable[[Placement], SimilarityModel]
"""Makes a model that is not loaded; each call another one of the same spec."""

FULL = Placement("cpu", "fp32", 1)
"""Where the suite computes, if it does not say otherwise."""

TEXTS = (
    "a red circle",
    "two green triangles above a yellow star and a very small dog",
    "x",
    "a photo of people in the rain",
    "a red circle left of a blue square",
)
LONG = "umbrellas in the rain and dogs on the beach " * 40
ODD_TEXTS = ("\0", "😀" * 30, "\u202e\n\t", "<end_of_text> behind", "a" * 10_000)
_ODD_SIZES = ((1, 1), (1, 300), (300, 1), (7, 5), (640, 480))


def pictures(model: SimilarityModel) -> list[Pixels]:
    """As many as `TEXTS`: two by two coloured fields, of several shapes, fitted to the model."""
    rng = np.random.default_rng(1)
    fields = [
        Image.fromarray(rng.integers(0, 256, (2, 2, 3), dtype=np.uint8)).resize(
            (width, height), Image.Resampling.NEAREST
        )
        for width, height in ((96, 96), (128, 64), (40, 80), (96, 72), (50, 50))
    ]
    return [model.preprocess.apply(field) for field in fields]


class ModelContract:
    """For every `SimilarityModel`.

    Attributes:
        close: Largest difference of scores that count as equal: rounding, in fp32.
        half_close: Largest difference between a score in bf16 and in fp32, relative to the
            score where it is above 1.
        memory_left: Bytes that may stay behind after `unload`.
    """

    close = 1e-5
    half_close = 0.1
    memory_left = 200_000

    @pytest.fixture(scope="module")
    @classmethod
    def make_model(cls) -> ModelMaker:
        """Override it."""
        raise NotImplementedError("give the fixture `make_model`; see serve_app.testing.contract")

    @pytest.fixture(scope="module")
    @classmethod
    def model(cls, make_model: ModelMaker) -> Iterator[SimilarityModel]:
        """One model, loaded, for the tests that leave it as it was."""
        loaded = make_model(FULL)
        loaded.load()
        loaded.warmup()
        yield loaded
        loaded.unload()

    @pytest.fixture(scope="module")
    @classmethod
    def images(cls, model: SimilarityModel) -> list[Pixels]:
        """See `pictures`."""
        return pictures(model)

    @pytest.fixture(scope="module")
    @classmethod
    def pairs(cls, images: list[Pixels]) -> list[tuple[Pixels, str]]:
        """Each image with a text of its own."""
        return list(zip(images, TEXTS, strict=True))

    def test_different_pairs_score_differently(
        self, model: SimilarityModel, pairs: list[tuple[Pixels, str]]
    ) -> None:
        """Else nothing that follows would mean anything."""
        primary = model.capabilities.primary
        scores = [scores[primary] for scores in model.compute_similarity(pairs)]
        assert len(set(scores)) == len(scores)

    def test_neighbours_do_not_change_a_score(
        self, model: SimilarityModel, pairs: list[tuple[Pixels, str]]
    ) -> None:
        together = model.compute_similarity(pairs)
        alone = [model.compute_similarity([pair])[0] for pair in pairs]
        self._same(together, alone)

    def test_order_does_not_change_a_score(
        self, model: SimilarityModel, pairs: list[tuple[Pixels, str]]
    ) -> None:
        self._same(model.compute_similarity(pairs[::-1])[::-1], model.compute_similarity(pairs))

    def test_every_image_with_every_text(
        self, model: SimilarityModel, images: list[Pixels]
    ) -> None:
        grid = [(image, text) for image in images[:2] for text in TEXTS[:2]]
        expected = [model.compute_similarity([(image.copy(), text)])[0] for image, text in grid]
        self._same(model.compute_similarity(grid), expected)

    def test_duplicates_score_alike(
        self, model: SimilarityModel, pairs: list[tuple[Pixels, str]]
    ) -> None:
        first, second, again = model.compute_similarity([pairs[0], pairs[1], pairs[0]])
        self._same([first], [again])
        assert first != second

    def test_more_pairs_than_one_batch_holds(
        self, model: SimilarityModel, pairs: list[tuple[Pixels, str]]
    ) -> None:
        count = model.capabilities.max_batch + 3
        many = model.compute_similarity([pairs[index % len(pairs)] for index in range(count)])
        few = model.compute_similarity(pairs)
        self._same(many, [few[index % len(pairs)] for index in range(count)])

    def test_empty_batches(self, model: SimilarityModel) -> None:
        assert model.compute_similarity([]) == []
        assert model.count_tokens([]) == ()

    def test_the_same_input_gives_the_same_output(
        self, model: SimilarityModel, pairs: list[tuple[Pixels, str]]
    ) -> None:
        assert model.compute_similarity(pairs) == model.compute_similarity(pairs)

    def test_capabilities_are_true(
        self, model: SimilarityModel, pairs: list[tuple[Pixels, str]]
    ) -> None:
        can = model.capabilities
        assert can.primary in can.metrics
        assert can.primary in can.default_metrics
        assert set(can.default_metrics) <= set(can.metrics)
        assert can.max_batch >= 1
        assert can.embeds == isinstance(model, DualEncoder)
        (scores,) = model.compute_similarity(pairs[:1])
        prefixed = {name for name in can.metrics if name in METRICS and METRICS[name].text_prefix}
        assert set(scores) == set(can.metrics) - (prefixed if can.embeds else set())
        for name, value in scores.items():
            assert math.isfinite(value)
            if name in METRICS:
                assert METRICS[name].low <= value <= METRICS[name].high
        assert model.parameters >= 0
        assert model.bytes >= 0

    def test_results_travel_between_processes(
        self, model: SimilarityModel, pairs: list[tuple[Pixels, str]]
    ) -> None:
        scores = model.compute_similarity(pairs[:1])
        assert pickle.loads(pickle.dumps(scores)) == scores  # noqa: S301 - our own
        for fact in (model.capabilities, model.preprocess, dict(model.details)):
            assert pickle.loads(pickle.dumps(fact)) == fact  # noqa: S301 - our own
        assert all(isinstance(value, str) for value in model.details.values())

    def test_long_text_is_cut_and_counted(
        self, model: SimilarityModel, images: list[Pixels]
    ) -> None:
        context = model.capabilities.context_length
        counts = model.count_tokens([LONG, f"{LONG} and more", TEXTS[0]])
        if context is None:
            model.compute_similarity([(images[0], LONG)])
            return
        assert counts[1] > counts[0] > context >= counts[2]
        longer = f"{LONG} and more"
        first, second = model.compute_similarity([(images[0], LONG), (images[0], longer)])
        self._same([first], [second])

    def test_odd_texts_give_finite_scores(
        self, model: SimilarityModel, images: list[Pixels]
    ) -> None:
        found = model.compute_similarity([(images[0], text) for text in ODD_TEXTS])
        assert all(math.isfinite(value) for scores in found for value in scores.values())

    def test_odd_images_give_finite_scores(self, model: SimilarityModel) -> None:
        odd = [Image.new("RGB", size, "white") for size in _ODD_SIZES]
        odd.append(Image.new("RGB", (9, 9), "black"))
        pixels = [model.preprocess.apply(image) for image in odd]
        pixels.append(np.asfortranarray(pixels[0]))
        found = model.compute_similarity([(image, TEXTS[0]) for image in pixels])
        assert all(math.isfinite(value) for scores in found for value in scores.values())

    def test_inputs_are_left_as_they_were(
        self, model: SimilarityModel, pairs: list[tuple[Pixels, str]]
    ) -> None:
        before = [image.copy() for image, _ in pairs]
        model.compute_similarity(pairs)
        for (image, _), copy in zip(pairs, before, strict=True):
            np.testing.assert_array_equal(image, copy)

    def test_half_precision_stays_near(
        self,
        make_model: ModelMaker,
        model: SimilarityModel,
        pairs: list[tuple[Pixels, str]],
    ) -> None:
        half = make_model(Placement("cpu", "bf16", 1))
        half.load()
        try:
            found, full = half.compute_similarity(pairs), model.compute_similarity(pairs)
        finally:
            half.unload()
        for one, other in zip(found, full, strict=True):
            for name, value in one.items():
                # Far from 1 a factor of the model's own has made the error larger, too.
                assert abs(value - other[name]) <= self.half_close * max(1.0, abs(other[name]))

    def test_unload_returns_the_memory_and_the_model_can_be_loaded_again(
        self, make_model: ModelMaker, model: SimilarityModel, pairs: list[tuple[Pixels, str]]
    ) -> None:
        expected = model.compute_similarity(pairs)  # besides, every library is imported by now
        other = make_model(FULL)
        other.unload()
        before = _memory()
        for _ in range(2):
            other.load()
            assert other.compute_similarity(pairs) == expected
            other.unload()
            other.unload()
        assert _memory() - before <= self.memory_left

    def _same(self, found: Sequence[Scores], expected: Sequence[Scores]) -> None:
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            # An error of the cosine is as many times larger in the logit as the model's factor.
            limits = {name: self.close * max(1.0, abs(value)) for name, value in other.items()}
            assert set(one) == set(other)
            wrong = {
                name: (one[name], other[name])
                for name in one
                if not abs(one[name] - other[name]) <= limits[name]
            }
            assert not wrong


class DualEncoderContract(ModelContract):
    """For every `DualEncoder`, besides."""

    def test_embeddings_are_unit_rows_of_the_declared_dimension(
        self, model: DualEncoder, images: list[Pixels]
    ) -> None:
        for rows in (model.encode_images(images), model.encode_texts(TEXTS).embeddings):
            assert rows.dtype == np.float32
            assert rows.shape == (5, model.capabilities.embedding_dim)
            np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
            assert np.ptp(rows, axis=0).max() > 1e-3  # different items differ

    def test_batches_do_not_change_embeddings(
        self, model: DualEncoder, images: list[Pixels]
    ) -> None:
        alone = np.concatenate([model.encode_images([image]) for image in images])
        np.testing.assert_allclose(model.encode_images(images), alone, atol=self.close)
        alone = np.concatenate([model.encode_texts([text]).embeddings for text in TEXTS])
        forwards = model.encode_texts(TEXTS)
        np.testing.assert_allclose(forwards.embeddings, alone, atol=self.close)
        backwards = model.encode_texts(TEXTS[::-1])
        np.testing.assert_allclose(backwards.embeddings[::-1], alone, atol=self.close)
        assert backwards.tokens[::-1] == forwards.tokens

    def test_more_items_than_one_batch_holds(
        self, model: DualEncoder, images: list[Pixels]
    ) -> None:
        count = model.capabilities.max_batch + 3
        rows = model.encode_images([images[index % 5] for index in range(count)])
        np.testing.assert_allclose(rows, rows[np.arange(count) % 5], atol=self.close)
        texts = model.encode_texts([TEXTS[index % 5] for index in range(count)]).embeddings
        np.testing.assert_allclose(texts, texts[np.arange(count) % 5], atol=self.close)

    def test_empty_batches_of_either_kind(self, model: DualEncoder) -> None:
        dimension = model.capabilities.embedding_dim
        assert model.encode_images([]).shape == (0, dimension)
        texts = model.encode_texts([])
        assert texts.embeddings.shape == (0, dimension)
        assert texts.tokens == ()

    def test_scores_are_made_of_the_embeddings(
        self, model: DualEncoder, pairs: list[tuple[Pixels, str]]
    ) -> None:
        images = model.encode_images([image for image, _ in pairs])
        texts = model.encode_texts([text for _, text in pairs]).embeddings
        for scores, cosine in zip(
            model.compute_similarity(pairs), (images * texts).sum(axis=1), strict=True
        ):
            assert scores["cosine"] == pytest.approx(float(cosine), abs=self.close)
            logit = model.logit_scale * scores["cosine"] + model.logit_bias
            assert scores["logit"] == pytest.approx(logit)

    def test_tokens_of_embedded_texts_are_those_that_are_counted(self, model: DualEncoder) -> None:
        texts = [*TEXTS, LONG]
        assert model.encode_texts(texts).tokens == model.count_tokens(texts)


def _memory() -> int:
    """Bytes of what Python and torch hold; of torch only where it is used at all."""
    gc.collect()
    torch: Any = sys.modules.get("torch")
    if torch is None:
        if not tracemalloc.is_tracing():
            tracemalloc.start()
        return tracemalloc.get_traced_memory()[0]
    storages = {}
    for found in gc.get_objects():
        if type(found) in (torch.Tensor, torch.nn.Parameter) and found.device.type != "meta":
            storage = found.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())
