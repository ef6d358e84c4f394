"""What crosses from the pipeline to an executor and back; knows neither model nor transport."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from serve_app.models.base import Embeddings, ModelInfo, Pixels
from serve_app.types import ItemFault


@dataclass(frozen=True, slots=True)
class ScoreWork:
    """Pairs to score on one model. Images and texts stand here once, however many pairs use them.

    Attributes:
        model_id: `name@revision`.
        images: Fitted to the model by its `ImagePreprocess`: RGB, uint8, (height, width, 3).
        texts: Distinct texts.
        pairs: `(image index, text index)`.
        metrics: Names of metrics; all are known to the model.
        shadow: Whether nobody waits for it: it is refused where others' work waits.
    """

    model_id: str
    images: tuple[Pixels, ...]
    texts: tuple[str, ...]
    pairs: tuple[tuple[int, int], ...]
    metrics: tuple[str, ...]
    shadow: bool = False


@dataclass(frozen=True, slots=True)
class ScoreOutcome:
    """Scores of `ScoreWork`.

    Attributes:
        scores: Per pair, in order: named scores, or the fault of that pair alone.
        tokens: Per text: tokens it has with the longest prefix of the asked metrics.
        queue_ms: Milliseconds the work waited for the model.
        model_ms: Milliseconds the model computed.
    """

    scores: tuple[Mapping[str, float] | ItemFault, ...]
    tokens: tuple[int, ...]
    queue_ms: float
    model_ms: float


@dataclass(frozen=True, slots=True)
class EmbedWork:
    """Images and texts to embed on one dual encoder; `shadow` is as in `ScoreWork`."""

    model_id: str
    images: tuple[Pixels, ...]
    texts: tuple[str, ...]
    shadow: bool = False


@dataclass(frozen=True, slots=True)
class EmbedOutcome:
    """Embeddings of `EmbedWork`; a row whose index stands in the faults is not a result.

    Attributes:
        images: Unit-length rows, float32, shape (images, dimension).
        texts: Unit-length rows, float32, shape (texts, dimension).
        image_faults: By image index.
        text_faults: By text index.
        tokens: Per text.
        queue_ms: Milliseconds the work waited for the model.
        model_ms: Milliseconds the model computed.
    """

    images: Embeddings
    texts: Embeddings
    image_faults: Mapping[int, ItemFault]
    text_faults: Mapping[int, ItemFault]
    tokens: tuple[int, ...]
    queue_ms: float
    model_ms: float


class Executor(Protocol):
    """Runs work on a model: in this process, or over Ray handles.

    All methods raise `ModelError` when the model as a whole cannot do it, `UnknownModelError` for
    an id that is not declared, and `OverloadedError` when the queue is full, or when the work is a
    shadow's and others' work waits.
    """

    async def describe(self, model_id: str) -> ModelInfo:
        """Loads the model if it is not resident, and tells about it."""

    async def score(self, work: ScoreWork) -> ScoreOutcome:
        """Scores pairs; one bad pair is a fault of that pair alone."""

    async def embed(self, work: EmbedWork) -> EmbedOutcome:
        """Embeds images and texts; one bad item is a fault of that item alone."""
