"""The parity gate: whether a loaded model gives its golden scores; loads nothing itself.

It stands in the loader, so a model that drifts is never loaded, by whatever way it is asked for.
Scores are computed as those of requests are.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serve_app.config.args import Limits
from serve_app.config.parity import GoldenPair, Parity, is_path, read_parity
from serve_app.engine.lanes import IMAGE, PAIR, TEXT, Lane, ScoredPair, lanes_of
from serve_app.engine.pair_scores import asked_scores, pair_scores
from serve_app.errors import ConfigError, ItemError, ParityError
from serve_app.inputs.decode import DecodeLimits, decode_image
from serve_app.inputs.source import check_text, parse_image_string
from serve_app.models.base import DualEncoder, Pixels, Scores, SimilarityModel
from serve_app.scoring.metrics import METRICS
from serve_app.types import ImageUrl, ItemFault

UNCHECKED = "no golden pairs: nothing checked its scores"
"""What is told of a model whose spec has none."""

_TOLD_AT_MOST = 3
_LONGEST_TEXT = 40
_LONGEST_IMAGE = 80


@dataclass(frozen=True, slots=True)
class _Compared:
    """One golden score and what the model gives."""

    text: str
    metric: str
    recorded: float
    got: float

    @property
    def difference(self) -> float:
        """Infinite where a score is no number: that passes no tolerance."""
        difference = abs(self.got - self.recorded)
        return difference if math.isfinite(difference) else math.inf

    def __str__(self) -> str:
        return (
            f"{_short(self.text, _LONGEST_TEXT)}: {self.metric} was {self.recorded:.6g} and is "
            f"{self.got:.6g} ({self.difference:.3g} away)"
        )


def check_parity(model: SimilarityModel, parity: Parity | None, name: str) -> str | None:
    """Compares a loaded model with its golden scores.

    Args:
        model: Loaded.
        parity: What its spec says.
        name: What it is called in errors.

    Returns:
        A note where there is nothing to compare with; else None.

    Raises:
        ParityError: A score is further away than the tolerance, or cannot be computed.
    """
    if parity is None:
        return UNCHECKED
    try:
        golden = read_parity(parity)
    except ConfigError as error:
        faults = "; ".join(map(str, error.faults))
        raise ParityError(f"{name}: its golden pairs cannot be read: {faults}.") from error
    found = golden_scores(model, golden.pairs, name)
    compared = [
        _Compared(pair.text, metric, recorded, scores[metric])
        for pair, scores in zip(golden.pairs, found, strict=True)
        for metric, recorded in pair.scores.items()
    ]
    drifted = [each for each in compared if each.difference > golden.tolerance]
    if drifted:
        drifted.sort(key=lambda each: each.difference, reverse=True)
        worst = "; ".join(map(str, drifted[:_TOLD_AT_MOST]))
        raise ParityError(
            f"{name}: {len(drifted)} of {len(compared)} golden scores are further than "
            f"{golden.tolerance:g} from what was recorded. Worst: {worst}. If the new scores are "
            "right, record them anew with `serve-app record-parity`."
        )
    return None


def golden_scores(
    model: SimilarityModel, pairs: Sequence[GoldenPair], name: str
) -> list[dict[str, float]]:
    """What a loaded model gives for golden pairs: of each, the metrics that it asks for.

    A pair for which the model gives no finite number has NaN in all of them.

    Args:
        model: Loaded.
        pairs: Only the names of their scores matter.
        name: What the model is called in errors.

    Raises:
        ParityError: An image or a text cannot be scored, or the model does not have a metric.
    """
    unknown = {metric for pair in pairs for metric in pair.scores} - set(model.capabilities.metrics)
    if unknown:
        raise ParityError(
            f"{name}: the golden pairs ask for {', '.join(sorted(unknown))}; it has "
            f"{', '.join(model.capabilities.metrics)}."
        )
    most = model.capabilities.max_batch
    lanes = lanes_of(model, most)
    found: list[dict[str, float]] = []
    for start in range(0, len(pairs), most):
        part = pairs[start : start + most]
        # One object for each image, however many texts it has: it is computed once.
        images = {image: _pixels(model, image, name) for image in {pair.image for pair in part}}
        for pair in part:
            _check_text(pair.text, name)
        scored = (
            _embedded_scores(model, lanes, images, part)
            if isinstance(model, DualEncoder)
            else _paired_scores(lanes, images, part)
        )
        for pair, scores in zip(part, scored, strict=True):
            numbers = {} if isinstance(scores, ItemFault) else scores
            found.append({metric: float(numbers.get(metric, math.nan)) for metric in pair.scores})
    return found


def _embedded_scores(
    model: DualEncoder,
    lanes: Mapping[str, Lane],
    images: Mapping[str, Pixels],
    pairs: Sequence[GoldenPair],
) -> list[Scores | ItemFault]:
    # As for requests: a metric with a prefix has text embeddings of its own.
    variants = dict.fromkeys(
        METRICS[metric].text_prefix + pair.text for pair in pairs for metric in pair.scores
    )
    embedded = dict(zip(images, lanes[IMAGE].compute(list(images.values())), strict=True))
    texts = _computed(lanes[TEXT], list(variants))
    return [
        pair_scores(model, embedded[pair.image], pair.text, texts, list(pair.scores))
        for pair in pairs
    ]


def _paired_scores(
    lanes: Mapping[str, Lane], images: Mapping[str, Pixels], pairs: Sequence[GoldenPair]
) -> list[Scores | ItemFault]:
    scored = lanes[PAIR].compute([(images[pair.image], pair.text) for pair in pairs])
    return [
        asked_scores(each.scores, list(pair.scores)) if isinstance(each, ScoredPair) else each
        for pair, each in zip(pairs, scored, strict=True)
    ]


def _computed(lane: Lane, items: Sequence[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for start in range(0, len(items), lane.capacity):
        part = items[start : start + lane.capacity]
        found |= zip(part, lane.compute(part), strict=True)
    return found


def _pixels(model: SimilarityModel, image: str, name: str) -> Pixels:
    limits = Limits()
    try:
        data = _read(image, limits.max_image_bytes)
        decoded = decode_image(data, DecodeLimits(limits.max_image_bytes, limits.max_pixels))
    except (OSError, ItemError) as error:
        reason = error.strerror or str(error) if isinstance(error, OSError) else error.detail
        told = f"{name}: the golden image {_short(image, _LONGEST_IMAGE)}: {reason}"
        if not is_path(image) and len(image) <= _LONGEST_IMAGE:
            told += " If it is the path of a file: that has a dot in it, as in ./image."
        raise ParityError(told) from error
    return model.preprocess.apply(decoded.image)


def _read(image: str, max_bytes: int) -> bytes:
    if is_path(image):
        return Path(image).expanduser().read_bytes()
    data = parse_image_string(image, max_bytes)
    if isinstance(data, ItemFault):
        raise ItemError(data.detail)
    if isinstance(data, ImageUrl):
        raise ItemError("Golden images are not fetched; give a path or a data URI.")
    return data


def _check_text(text: str, name: str) -> None:
    fault = check_text(text, Limits().max_text_characters)
    if fault is not None:
        raise ParityError(
            f"{name}: the golden text {_short(text, _LONGEST_TEXT)} cannot be scored: "
            f"{fault.detail}"
        )


def _short(text: str, longest: int) -> str:
    return repr(text if len(text) <= longest else text[: longest - 1] + "…")
