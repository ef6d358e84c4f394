"""What a loaded model can batch: one lane per kind of item; knows no queue and no device.

Dual encoders have the lanes `image` and `text`; other models have the lane `pair`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serve_app.engine.poison import Compute
from serve_app.errors import ModelFailedError
from serve_app.models.base import DualEncoder, Pixels, Scores, SimilarityModel
from serve_app.types import ItemFault

IMAGE, TEXT, PAIR = "image", "text", "pair"

# A text costs a fraction of an image, and requests usually bring several texts per image.
_TEXTS_PER_IMAGE = 4

NOT_FINITE = ItemFault(
    ModelFailedError.code, "The model gave a number for this item that is not finite."
)
"""The fault of an item whose result has a NaN or infinity: that is never an answer."""


@dataclass(frozen=True, slots=True)
class Lane:
    """Items of one kind that can be computed together.

    Attributes:
        capacity: Most items in one batch.
        compute: One result per item; a result may be an `ItemFault`.
        key: Items with the same key have the same result and are computed once per batch.
    """

    capacity: int
    compute: Compute
    key: Callable[[Any], Hashable]


@dataclass(frozen=True, slots=True)
class EncodedText:
    """Embedding (unit length, float32) and number of tokens of one text."""

    embedding: NDArray[np.float32]
    tokens: int


@dataclass(frozen=True, slots=True)
class ScoredPair:
    """Scores of one pair, and number of tokens of its text."""

    scores: Scores
    tokens: int


def lanes_of(model: SimilarityModel, max_batch: int) -> Mapping[str, Lane]:
    """The lanes of a loaded model.

    Args:
        model: The model.
        max_batch: Most images (or pairs) in one batch.
    """
    if isinstance(model, DualEncoder):
        return {
            IMAGE: Lane(max_batch, lambda images: _encode_images(model, images), id),
            TEXT: Lane(
                max_batch * _TEXTS_PER_IMAGE,
                lambda texts: _encode_texts(model, texts),
                lambda text: text,
            ),
        }
    return {
        PAIR: Lane(
            max_batch,
            lambda pairs: _score_pairs(model, pairs),
            lambda pair: (id(pair[0]), pair[1]),
        )
    }


def _encode_images(model: DualEncoder, images: Sequence[Pixels]) -> list[Any]:
    return [
        row if np.isfinite(row).all() else NOT_FINITE for row in _rows(model.encode_images(images))
    ]


def _encode_texts(model: DualEncoder, texts: Sequence[str]) -> list[Any]:
    encoded = model.encode_texts(texts)
    rows = _rows(encoded.embeddings)
    return [
        EncodedText(row, tokens) if np.isfinite(row).all() else NOT_FINITE
        for row, tokens in zip(rows, encoded.tokens, strict=True)
    ]


def _rows(embeddings: Any) -> NDArray[np.float32]:
    rows = np.asarray(embeddings, dtype=np.float32)
    if rows.ndim != 2:
        raise ModelFailedError(f"embeddings have shape {rows.shape}, not (items, dimension)")
    return rows


def _score_pairs(model: SimilarityModel, pairs: Sequence[tuple[Pixels, str]]) -> list[Any]:
    scores = model.compute_similarity(pairs)
    tokens = model.count_tokens([text for _, text in pairs])
    return [
        ScoredPair(each, count) if _finite(each) else NOT_FINITE
        for each, count in zip(scores, tokens, strict=True)
    ]


def _finite(scores: Scores) -> bool:
    return all(map(math.isfinite, scores.values()))
