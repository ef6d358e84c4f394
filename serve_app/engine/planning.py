"""What a request asks for and what work that makes; pure functions, no input or output.

Three index spaces meet here: the request's images and texts; the distinct ones among them; and
those of the `ScoreWork`, which has only what is healthy and needed.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from serve_app.config.args import Limits
from serve_app.engine.preparation import PreparedImage
from serve_app.engine.work import EmbedWork, ScoreWork
from serve_app.errors import (
    InvalidRequestError,
    TooManyPairsError,
    UnknownMetricError,
)
from serve_app.models.base import ModelInfo, Pixels
from serve_app.types import ItemFault, ItemWarning, ScoreRequest

Item = TypeVar("Item")

Pairs = Sequence[tuple[int, int]]
"""`(image index, text index)`."""


def pairs_of(request: ScoreRequest, limits: Limits) -> Pairs:
    """The pairs that a request asks for, in order.

    Raises:
        InvalidRequestError: There are none, or an index has no image or text.
        TooManyPairsError: More than `limits.max_pairs`.
    """
    images, texts = len(request.images), len(request.texts)
    if not images or not texts:
        raise InvalidRequestError("At least one image and one text are needed.")
    count = images * texts if request.pairs is None else len(request.pairs)
    # Unused images and texts cost memory too, so they count as well.
    check_count(max(count, images, texts), "pairs", limits)
    if request.pairs is None:
        return [(image, text) for image in range(images) for text in range(texts)]
    if not request.pairs:
        raise InvalidRequestError("At least one pair is needed.")
    for image, text in request.pairs:
        if not (0 <= image < images and 0 <= text < texts):
            raise InvalidRequestError(
                f"The pair ({image}, {text}) has no image or text: there are {images} images and "
                f"{texts} texts, counted from 0."
            )
    return request.pairs


def check_count(count: int, noun: str, limits: Limits) -> None:
    """Refuses more than `limits.max_pairs`.

    Raises:
        TooManyPairsError: More than that.
    """
    if count > limits.max_pairs:
        raise TooManyPairsError(
            f"The request asks for {count} {noun}; at most {limits.max_pairs} are allowed "
            "(`limits.max_pairs`). Send several requests."
        )


def check_rankable(request: ScoreRequest) -> None:
    """Refuses what has no one order.

    Raises:
        InvalidRequestError: Neither one text nor one image, or pairs.
    """
    if request.pairs is not None or 1 not in (len(request.images), len(request.texts)):
        raise InvalidRequestError(
            "Ranking takes one text and several images, or one image and several texts."
        )


def metrics_of(info: ModelInfo, asked: Sequence[str] | None) -> tuple[str, ...]:
    """The metrics to compute: those asked for, or the usual ones; always the primary one.

    Raises:
        UnknownMetricError: The model does not give one of them.
    """
    capabilities = info.capabilities
    names = capabilities.default_metrics if asked is None else asked
    unknown = [name for name in names if name not in capabilities.metrics]
    if unknown:
        raise UnknownMetricError(
            f"{info.id} does not give {', '.join(map(repr, unknown))}; its metrics are "
            f"{', '.join(capabilities.metrics)}."
        )
    return tuple(dict.fromkeys((*names, capabilities.primary)))


@dataclass(frozen=True, slots=True)
class Distinct(Generic[Item]):
    """Items without their repetitions.

    Attributes:
        items: The distinct ones, in order of first appearance.
        rows: Per index of the request: which of `items` it is. Indices not in use are absent.
    """

    items: list[Item]
    rows: Mapping[int, int]


def distinct(items: Mapping[int, Item], keys: Sequence[Hashable]) -> Distinct[Item]:
    """Finds repetitions.

    Args:
        items: By index of the request.
        keys: Per item, in the same order; equal keys are one item.
    """
    kept: _Rows[Item] = _Rows()
    rows = {
        index: kept.row(key, item) for (index, item), key in zip(items.items(), keys, strict=True)
    }
    return Distinct(kept.items, rows)


@dataclass(frozen=True, slots=True)
class ScorePlan:
    """The work to be done for a request, and where each answer will be found.

    Attributes:
        work: What is healthy and needed, once each; None when nothing is.
        slots: Per pair asked for: index into `work.pairs`, or the fault that is known already.
    """

    work: ScoreWork | None
    slots: list[int | ItemFault]


def plan_scores(
    model_id: str,
    metrics: tuple[str, ...],
    pairs: Pairs,
    images: Distinct[PreparedImage],
    texts: Distinct[str | ItemFault],
) -> ScorePlan:
    """Leaves out of the work what is at fault, and what only faulty pairs need.

    An image's fault goes before a text's.
    """
    slots: list[int | ItemFault] = []
    work_images: _Rows[Pixels] = _Rows()
    work_texts: _Rows[str] = _Rows()
    work_pairs: _Rows[tuple[int, int]] = _Rows()
    for image_index, text_index in pairs:
        image, text = images.rows[image_index], texts.rows[text_index]
        pixels, words = images.items[image].result, texts.items[text]
        if isinstance(pixels, ItemFault):
            slots.append(pixels)
        elif isinstance(words, ItemFault):
            slots.append(words)
        else:
            pair = work_images.row(image, pixels), work_texts.row(text, words)
            slots.append(work_pairs.row(pair, pair))
    if not work_pairs.items:
        return ScorePlan(None, slots)
    work = ScoreWork(
        model_id,
        tuple(work_images.items),
        tuple(work_texts.items),
        tuple(work_pairs.items),
        metrics,
    )
    return ScorePlan(work, slots)


@dataclass(frozen=True, slots=True)
class EmbedPlan:
    """The work to be done for a request, and where each answer will be found.

    Attributes:
        work: What is healthy, once each; None when nothing is.
        slots: Per input: whether it is an image, and its index in the work; or its fault.
        warnings: Per input.
    """

    work: EmbedWork | None
    slots: list[tuple[bool, int] | ItemFault]
    warnings: list[tuple[ItemWarning, ...]]


def plan_embeddings(
    model_id: str,
    count: int,
    images: Distinct[PreparedImage],
    texts: Distinct[str | ItemFault],
) -> EmbedPlan:
    """Leaves out of the work what is at fault. Each of `count` inputs is an image or a text."""
    slots: list[tuple[bool, int] | ItemFault] = []
    warnings: list[tuple[ItemWarning, ...]] = []
    work_images: _Rows[Pixels] = _Rows()
    work_texts: _Rows[str] = _Rows()
    for index in range(count):
        image, text = images.rows.get(index), texts.rows.get(index)
        warnings.append(() if image is None else images.items[image].warnings)
        if image is not None:
            pixels = images.items[image].result
            if isinstance(pixels, ItemFault):
                slots.append(pixels)
            else:
                slots.append((True, work_images.row(image, pixels)))
        elif text is not None:
            words = texts.items[text]
            if isinstance(words, ItemFault):
                slots.append(words)
            else:
                slots.append((False, work_texts.row(text, words)))
    if not work_images.items and not work_texts.items:
        return EmbedPlan(None, slots, warnings)
    work = EmbedWork(model_id, tuple(work_images.items), tuple(work_texts.items))
    return EmbedPlan(work, slots, warnings)


class _Rows(Generic[Item]):
    """Items in order of first appearance, and where each of them is."""

    def __init__(self) -> None:
        self.items: list[Item] = []
        self._found: dict[Hashable, int] = {}

    def row(self, key: Hashable, item: Item) -> int:
        row = self._found.get(key)
        if row is None:
            row = self._found[key] = len(self.items)
            self.items.append(item)
        return row
