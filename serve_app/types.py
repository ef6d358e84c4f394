"""The values that travel between client, ingress and replicas; knows no library and no model.

All of them are immutable, picklable and free of behaviour.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

OnTruncate = Literal["warn", "error"]


@dataclass(frozen=True, slots=True)
class ItemFault:
    """Why one item could not be scored: an error's stable `code` and its `detail`."""

    code: str
    detail: str


@dataclass(frozen=True, slots=True)
class ImageUrl:
    """An image that the service is to fetch, if it does such a thing.

    Not part of a representation: a URL may hold a signature.
    """

    url: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class ItemWarning:
    """Something a caller should know about a score that was given all the same.

    `tokens` and `limit` are set for `text_truncated`: how many tokens the text has, and how many
    the model reads.
    """

    code: str
    detail: str
    tokens: int | None = None
    limit: int | None = None


@dataclass(frozen=True, slots=True)
class ExperimentArm:
    """The experiment that chose the model of an answer, and the arm that it chose."""

    name: str
    arm: str


@dataclass(frozen=True, slots=True)
class ScoreRequest:
    """A request to score pairs, in any transport.

    Attributes:
        images: Encoded image files (JPEG, PNG, ...), where they can be fetched, or the fault of one
            that could not be read.
        texts: The texts.
        pairs: `(image index, text index)` of each pair; None means every combination, row-major
            by image.
        model: Name of a model, alias or experiment, `name@revision`, or None for the default.
        metrics: Names of metrics to return; None for the model's usual ones.
        routing_key: What experiments are sticky by.
        on_truncate: What to do with a text longer than the model's context.
        request_id: Chosen by the caller, or None to have one made.
        headers: Those of an HTTP request, by lower-case name; experiments can be sticky by one.
            They may hold secrets, so they are never shown.
    """

    images: tuple[bytes | ImageUrl | ItemFault, ...]
    texts: tuple[str, ...]
    pairs: tuple[tuple[int, int], ...] | None = None
    model: str | None = None
    metrics: tuple[str, ...] | None = None
    routing_key: str | None = None
    on_truncate: OnTruncate = "warn"
    request_id: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict, repr=False, hash=False)


@dataclass(frozen=True, slots=True)
class PairResult:
    """The score of one pair, or why there is none.

    Attributes:
        image: Index of the image in the request (for a `pairs` request, of the pair).
        text: Index of the text in the request (for a `pairs` request, of the pair).
        score: The one number to act on; None when `error` is set.
        scores: Every named metric, unrounded.
        warnings: What the caller should know about this score.
        error: Why there is no score; None when there is one.
        rank: 1 for the best; only in answers of `rank`, and only where there is a score.
    """

    image: int
    text: int
    score: float | None = None
    scores: Mapping[str, float] = field(default_factory=dict)
    warnings: tuple[ItemWarning, ...] = ()
    error: ItemFault | None = None
    rank: int | None = None


@dataclass(frozen=True, slots=True)
class ScoreResponse:
    """The answer to a `ScoreRequest`: one result per pair, in the order asked (or by rank).

    Attributes:
        id: The request's id, also in logs.
        model: `name@revision` that answered.
        results: One per pair.
        timing_ms: Milliseconds: `decode`, `queue` (waiting for the model), `model`, `total`.
        experiment: What chose the model, if an experiment did.
    """

    id: str
    model: str
    results: tuple[PairResult, ...]
    timing_ms: Mapping[str, float]
    experiment: ExperimentArm | None = None


@dataclass(frozen=True, slots=True)
class EmbedRequest:
    """A request for embeddings: each input is a text, an image as in `ScoreRequest`, or a fault.

    The other fields are as in `ScoreRequest`.
    """

    inputs: tuple[str | bytes | ImageUrl | ItemFault, ...]
    model: str | None = None
    on_truncate: OnTruncate = "warn"
    request_id: str | None = None
    routing_key: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict, repr=False, hash=False)


@dataclass(frozen=True, slots=True)
class EmbedResult:
    """One embedding (unit length, float32, `dimension` values as little-endian bytes) or a fault.

    `tokens` is the number of tokens of a text (0 for an image).
    """

    index: int
    embedding: bytes | None = None
    tokens: int = 0
    warnings: tuple[ItemWarning, ...] = ()
    error: ItemFault | None = None


@dataclass(frozen=True, slots=True)
class EmbedResponse:
    """The answer to an `EmbedRequest`: one result per input, in the order asked."""

    id: str
    model: str
    dimension: int
    results: tuple[EmbedResult, ...]
    timing_ms: Mapping[str, float]
    experiment: ExperimentArm | None = None
