"""From what a model computed for images and texts to the scores of one pair; knows no batch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from serve_app.engine.lanes import NOT_FINITE, EncodedText
from serve_app.errors import ModelFailedError
from serve_app.models.base import DualEncoder, Scores
from serve_app.scoring.metrics import METRICS
from serve_app.types import ItemFault


def pair_scores(
    model: DualEncoder,
    image: Any,
    text: str,
    texts: Mapping[str, EncodedText | ItemFault],
    metrics: Sequence[str],
) -> Scores | ItemFault:
    """Scores of a pair that was embedded, or why there are none.

    Args:
        model: Knows its logit scale and bias.
        image: Embedding or fault of the image.
        text: The text.
        texts: Embeddings or faults by text, also with the prefixes that metrics have.
        metrics: Which.
    """
    if isinstance(image, ItemFault):
        return image
    scores: dict[str, float] = {}
    for name in metrics:
        metric = METRICS[name]
        encoded = texts[metric.text_prefix + text]
        if isinstance(encoded, ItemFault):
            return encoded
        cosine = float(np.dot(image, encoded.embedding))
        scores[name] = float(metric.compute(model.score_inputs(cosine)))
    return scores if all(map(math.isfinite, scores.values())) else NOT_FINITE


def asked_scores(scores: Scores, metrics: Sequence[str]) -> Scores | ItemFault:
    """Of the scores that a model gave, those that are asked for."""
    missing = [name for name in metrics if name not in scores]
    if missing:
        return ItemFault(ModelFailedError.code, f"The model gave no {', '.join(missing)}.")
    return {name: float(scores[name]) for name in metrics}
