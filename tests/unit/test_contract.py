"""The contract suite finds what breaks the contract: each test of it can fail."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from serve_app.models.base import (
    Capabilities,
    Embeddings,
    Pixels,
    Placement,
    Scores,
    SimilarityModel,
    TextEmbeddings,
)
from serve_app.testing import FakeDualEncoder, fake_spec
from serve_app.testing.contract import TEXTS, DualEncoderContract, pictures

SUITE = DualEncoderContract()


class _ByNeighbours(FakeDualEncoder):
    def compute_similarity(self, pairs: Sequence[tuple[Pixels, str]]) -> list[Scores]:
        found = super().compute_similarity(pairs)
        return [{name: value + 0.01 * len(pairs) for name, value in s.items()} for s in found]


class _ByPlace(FakeDualEncoder):
    def encode_images(self, images: Sequence[Pixels]) -> Embeddings:
        return np.roll(super().encode_images(images), 1, axis=0)


class _ByTextPlace(FakeDualEncoder):
    def encode_texts(self, texts: Sequence[str]) -> TextEmbeddings:
        found = super().encode_texts(texts)
        return TextEmbeddings(np.sort(found.embeddings, axis=0), found.tokens)


class _Constant(FakeDualEncoder):
    def compute_similarity(self, pairs: Sequence[tuple[Pixels, str]]) -> list[Scores]:
        return [dict.fromkeys(("cosine", "logit", "probability"), 0.5) for _ in pairs]


class _Random(FakeDualEncoder):
    def encode_texts(self, texts: Sequence[str]) -> TextEmbeddings:
        found = super().encode_texts(texts)
        noise = np.random.default_rng().normal(0, 0.1, found.embeddings.shape)
        rows = found.embeddings + noise
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        return TextEmbeddings(rows.astype(np.float32), found.tokens)


class _Writes(FakeDualEncoder):
    def encode_images(self, images: Sequence[Pixels]) -> Embeddings:
        found = super().encode_images(images)
        for image in images:
            image[:] = 0
        return found


class _Boasts(FakeDualEncoder):
    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(("cosine", "beauty"), ("cosine",), "cosine", True, 8, 16, 16)


class _Uncut(FakeDualEncoder):
    def _embed_text(self, text: str) -> Any:
        return super()._embed_text(text[-40:])


class _ForgetsTokens(FakeDualEncoder):
    def count_tokens(self, texts: Sequence[str]) -> tuple[int, ...]:
        return tuple(min(count, 16) for count in super().count_tokens(texts))


class _Overflows(FakeDualEncoder):
    def compute_similarity(self, pairs: Sequence[tuple[Pixels, str]]) -> list[Scores]:
        found = super().compute_similarity(pairs)
        odd = [len(text) > 1000 or image.mean() > 254 for image, text in pairs]
        return [{**s, "logit": float("inf")} if o else s for s, o in zip(found, odd, strict=True)]


class _Leaks(FakeDualEncoder):
    kept: list[Any] = []  # noqa: RUF012 - that is the fault

    def load(self) -> None:
        super().load()
        import torch

        self.kept.append(torch.zeros(200_000))


class _NotUnit(FakeDualEncoder):
    def encode_images(self, images: Sequence[Pixels]) -> Embeddings:
        return 2 * super().encode_images(images)


class _HalfIsElse(FakeDualEncoder):
    def compute_similarity(self, pairs: Sequence[tuple[Pixels, str]]) -> list[Scores]:
        found = super().compute_similarity(pairs)
        if self.placement.precision == "fp32":
            return found
        return [{name: -value for name, value in scores.items()} for scores in found]


class _Small(FakeDualEncoder):
    def encode_images(self, images: Sequence[Pixels]) -> Embeddings:
        if not images:
            raise ValueError("nothing to embed")
        return super().encode_images(images[: self.capabilities.max_batch])


class _SmallPairs(FakeDualEncoder):
    def compute_similarity(self, pairs: Sequence[tuple[Pixels, str]]) -> list[Scores]:
        return super().compute_similarity(pairs[: self.capabilities.max_batch])


class _Unpicklable(FakeDualEncoder):
    @property
    def details(self) -> Any:
        return {"generator": lambda: None}


FAULTS: dict[type[SimilarityModel], tuple[str, ...]] = {
    _ByNeighbours: ("neighbours_do_not_change_a_score", "scores_are_made_of_the_embeddings"),
    _ByPlace: ("order_does_not_change_a_score", "batches_do_not_change_embeddings"),
    _ByTextPlace: ("every_image_with_every_text", "batches_do_not_change_embeddings"),
    _Constant: ("different_pairs_score_differently", "duplicates_score_alike"),
    _Random: ("the_same_input_gives_the_same_output",),
    _Writes: ("inputs_are_left_as_they_were",),
    _Boasts: ("capabilities_are_true",),
    _Uncut: ("long_text_is_cut_and_counted",),
    _ForgetsTokens: ("long_text_is_cut_and_counted",),
    _Overflows: ("odd_texts_give_finite_scores", "odd_images_give_finite_scores"),
    _Leaks: ("unload_returns_the_memory_and_the_model_can_be_loaded_again",),
    _NotUnit: ("embeddings_are_unit_rows_of_the_declared_dimension",),
    _HalfIsElse: ("half_precision_stays_near",),
    _SmallPairs: ("more_pairs_than_one_batch_holds",),
    _Small: (
        "more_items_than_one_batch_holds",
        "empty_batches_of_either_kind",
    ),
    _Unpicklable: ("results_travel_between_processes",),
}


@pytest.mark.parametrize(
    ("kind", "test"),
    [(kind, test) for kind, tests in FAULTS.items() for test in tests],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_a_fault_is_found(kind: type[SimilarityModel], test: str) -> None:
    with pytest.raises((AssertionError, LookupError, ValueError, AttributeError, TypeError)):
        run(kind, test)
    run(FakeDualEncoder, test)  # and where there is none, none


def test_every_test_of_the_suite_is_seen_to_fail_by_some_fault() -> None:
    tests = {name for name in dir(SUITE) if name.startswith("test_")}
    seen = {f"test_{name}" for names in FAULTS.values() for name in names}
    unseen = {"test_empty_batches", "test_tokens_of_embedded_texts_are_those_that_are_counted"}
    assert tests - seen == unseen


def run(kind: Any, test: str) -> None:
    def make(placement: Placement) -> SimilarityModel:
        return kind(fake_spec(), placement)  # type: ignore[no-any-return]

    model = make(Placement("cpu", "fp32", 1))
    model.load()
    images = pictures(model)
    pairs = list(zip(images, TEXTS, strict=True))
    given = {"make_model": make, "model": model, "images": images, "pairs": pairs}
    method = getattr(SUITE, f"test_{test}")
    wanted = method.__code__.co_varnames[1 : method.__code__.co_argcount]
    method(**{name: given[name] for name in wanted})
