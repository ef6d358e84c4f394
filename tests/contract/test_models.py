"""What every model promises, whatever its backend."""

import math
import threading

import numpy as np
import pytest
import torch

from serve_app.errors import ModelError
from serve_app.models.base import DualEncoder, Pixels
from serve_app.scoring.metrics import METRICS

TEXTS = [
    "a red circle",
    "two green triangles above a yellow star and a very small dog",
    "x",
    "a photo of people in the rain",
    "",
    "a red circle left of a blue square",
]
LONG = "umbrellas in the rain and dogs on the beach " * 40
CLOSE = 2e-6


def test_embeddings_are_unit_rows_of_the_declared_dimension(
    model: DualEncoder, images: list[Pixels]
) -> None:
    for rows in (model.encode_images(images), model.encode_texts(TEXTS).embeddings):
        assert rows.dtype == np.float32
        assert rows.shape[1] == model.capabilities.embedding_dim
        np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
        assert np.ptp(rows, axis=0).max() > 1e-3  # different items differ


def test_batch_size_does_not_change_embeddings(model: DualEncoder, images: list[Pixels]) -> None:
    alone = np.concatenate([model.encode_images([image]) for image in images])
    np.testing.assert_allclose(model.encode_images(images), alone, atol=CLOSE)
    alone = np.concatenate([model.encode_texts([text]).embeddings for text in TEXTS])
    np.testing.assert_allclose(model.encode_texts(TEXTS).embeddings, alone, atol=CLOSE)


def test_order_does_not_change_embeddings(model: DualEncoder, images: list[Pixels]) -> None:
    np.testing.assert_allclose(
        model.encode_images(images[::-1])[::-1], model.encode_images(images), atol=CLOSE
    )
    backwards = model.encode_texts(TEXTS[::-1])
    forwards = model.encode_texts(TEXTS)
    np.testing.assert_allclose(backwards.embeddings[::-1], forwards.embeddings, atol=CLOSE)
    assert backwards.tokens[::-1] == forwards.tokens


def test_more_items_than_one_batch_holds(model: DualEncoder, images: list[Pixels]) -> None:
    count = model.capabilities.max_batch + 3
    rows = model.encode_images([images[index % 5] for index in range(count)])
    np.testing.assert_allclose(rows, rows[np.arange(count) % 5], atol=CLOSE)
    texts = model.encode_texts([TEXTS[index % 6] for index in range(count)]).embeddings
    np.testing.assert_allclose(texts, texts[np.arange(count) % 6], atol=CLOSE)


def test_empty_batches(model: DualEncoder) -> None:
    dimension = model.capabilities.embedding_dim
    assert model.encode_images([]).shape == (0, dimension)
    texts = model.encode_texts([])
    assert texts.embeddings.shape == (0, dimension)
    assert texts.tokens == ()
    assert model.count_tokens([]) == ()
    assert model.compute_similarity([]) == []


def test_same_input_same_output(model: DualEncoder, images: list[Pixels]) -> None:
    np.testing.assert_array_equal(model.encode_images(images), model.encode_images(images))
    np.testing.assert_array_equal(
        model.encode_texts(TEXTS).embeddings, model.encode_texts(TEXTS).embeddings
    )


def test_duplicates_score_alike_and_neighbours_do_not_matter(
    model: DualEncoder, images: list[Pixels]
) -> None:
    pairs = [(images[0], TEXTS[0]), (images[1], TEXTS[1]), (images[0], TEXTS[0])]
    first, _, third = model.compute_similarity(pairs)
    assert first == third
    (alone,) = model.compute_similarity(pairs[:1])
    assert first == pytest.approx(alone, abs=1e-4)


def test_capabilities_tell_the_truth(model: DualEncoder, images: list[Pixels]) -> None:
    capabilities = model.capabilities
    assert capabilities.primary in capabilities.metrics
    assert set(capabilities.default_metrics) <= set(capabilities.metrics) <= set(METRICS)
    assert capabilities.embeds
    (scores,) = model.compute_similarity([(images[0], TEXTS[0])])
    prefixed = {name for name in capabilities.metrics if METRICS[name].text_prefix}
    assert set(scores) == set(capabilities.metrics) - prefixed
    for name, value in scores.items():
        assert math.isfinite(value)
        assert METRICS[name].low <= value <= METRICS[name].high
    assert scores["logit"] == pytest.approx(model.logit_scale * scores["cosine"] + model.logit_bias)
    assert model.parameters > 0
    assert model.bytes >= 4 * model.parameters


def test_long_text_is_cut_and_says_so(model: DualEncoder) -> None:
    context = model.capabilities.context_length
    assert context is not None
    longer = model.encode_texts([LONG, LONG + "and more", TEXTS[0]])
    assert longer.tokens[1] > longer.tokens[0] > context >= longer.tokens[2]
    assert longer.tokens == model.count_tokens([LONG, LONG + "and more", TEXTS[0]])
    np.testing.assert_allclose(longer.embeddings[0], longer.embeddings[1], atol=CLOSE)
    np.testing.assert_allclose(
        longer.embeddings[2], model.encode_texts([TEXTS[0]]).embeddings[0], atol=CLOSE
    )


def test_odd_texts_and_images_give_finite_scores(model: DualEncoder) -> None:
    shape = (*model.preprocess.size, 3)
    images = [np.full(shape, level, dtype=np.uint8) for level in (0, 255)]
    images.append(np.asfortranarray(images[0]))
    odd = ["\0", "😀" * 30, "\u202e\n\t", "<end_of_text> behind", "a" * 10_000]
    for scores in model.compute_similarity([(i, t) for i in images for t in odd]):
        assert all(math.isfinite(value) for value in scores.values())


def test_wrong_pixels_are_refused(model: DualEncoder) -> None:
    height, width = model.preprocess.size
    with pytest.raises(ModelError, match="takes"):
        model.encode_images([np.zeros((height + 1, width, 3), dtype=np.uint8)])
    with pytest.raises(ModelError, match="uint8"):
        model.encode_images([np.zeros((height, width, 3), dtype=np.float32)])  # type: ignore[list-item]


def test_inputs_are_left_as_they_were(model: DualEncoder, images: list[Pixels]) -> None:
    before = [image.copy() for image in images]
    model.encode_images(images)
    for image, copy in zip(images, before, strict=True):
        np.testing.assert_array_equal(image, copy)


def test_threads_are_those_of_the_placement_in_any_thread(
    model: DualEncoder, images: list[Pixels]
) -> None:
    seen: list[int] = []

    def other() -> None:
        torch.set_num_threads(2)
        model.encode_images(images[:1])
        seen.append(torch.get_num_threads())

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    model.encode_images(images[:1])
    assert [*seen, torch.get_num_threads()] == [1, 1]


def test_unload_and_load_again(unloaded: DualEncoder) -> None:
    with pytest.raises(ModelError, match="not loaded"):
        unloaded.encode_texts(TEXTS)
    unloaded.unload()
    unloaded.load()
    before = unloaded.encode_texts(TEXTS).embeddings
    unloaded.unload()
    unloaded.unload()
    with pytest.raises(ModelError, match="not loaded"):
        _ = unloaded.capabilities
    unloaded.load()
    np.testing.assert_array_equal(unloaded.encode_texts(TEXTS).embeddings, before)
