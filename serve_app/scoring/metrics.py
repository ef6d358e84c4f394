"""The metrics of dual encoders: from a cosine to a named score; knows no model."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ScoreInputs:
    """What a metric is computed from.

    Attributes:
        cosine: Cosine of image and text embedding, -1 to 1.
        logit_scale: The model's own factor (exponential taken).
        logit_bias: The model's own bias, 0 where it has none.
    """

    cosine: float
    logit_scale: float
    logit_bias: float


@dataclass(frozen=True, slots=True)
class Metric:
    """A named way to score a pair.

    Attributes:
        name: As in requests and answers.
        compute: The formula.
        text_prefix: Put before the text when it is encoded for this metric.
        low: Smallest possible value.
        high: Largest possible value.
    """

    name: str
    compute: Callable[[ScoreInputs], float]
    text_prefix: str = ""
    low: float = -math.inf
    high: float = math.inf


def _cosine(inputs: ScoreInputs) -> float:
    return inputs.cosine


def _logit(inputs: ScoreInputs) -> float:
    return inputs.logit_scale * inputs.cosine + inputs.logit_bias


def _probability(inputs: ScoreInputs) -> float:
    """Sigmoid of the logit, as SigLIP is trained (Zhai et al. 2023, equation 1)."""
    logit = _logit(inputs)
    if logit >= 0:
        return 1.0 / (1.0 + math.exp(-logit))
    return math.exp(logit) / (1.0 + math.exp(logit))  # exp(-logit) would overflow


def _clipscore(inputs: ScoreInputs) -> float:
    """CLIPScore, w = 2.5 (Hessel et al. 2021, equation 1)."""
    return 2.5 * max(inputs.cosine, 0.0)


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("cosine", _cosine, low=-1.0, high=1.0),
        Metric("logit", _logit),
        Metric("probability", _probability, low=0.0, high=1.0),
        # The prefix is part of the published metric: all its results were computed with it.
        Metric("clipscore", _clipscore, text_prefix="A photo depicts ", low=0.0, high=2.5),
    )
}
"""Every metric of dual encoders, by name."""
