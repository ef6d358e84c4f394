"""The interface that every model implements; knows no backend, no Ray and no HTTP."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from serve_app.config.spec import ModelSpec
from serve_app.inputs.preprocess import ImagePreprocess
from serve_app.scoring.metrics import METRICS, ScoreInputs

Pixels = NDArray[np.uint8]
"""An image as a model takes it: RGB, uint8, shape (height, width, 3)."""

Embeddings = NDArray[np.float32]
"""Unit-length rows, float32, shape (items, dimension)."""

Scores = Mapping[str, float]
"""Named metrics of one pair."""


@dataclass(frozen=True, slots=True)
class Placement:
    """Where and how a model computes, with nothing left on `auto`.

    Attributes:
        device: `cpu` or `cuda`.
        precision: `fp32`, `bf16` or `fp16`.
        threads: Torch threads of the process.
    """

    device: str = "cpu"
    precision: str = "fp32"
    threads: int = 1


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a loaded model can do.

    Attributes:
        metrics: Metrics it can give.
        default_metrics: Metrics it gives when a request names none.
        primary: The metric that becomes `score`.
        embeds: Whether it is a dual encoder, which embeds images and texts on their own.
        max_batch: Most images (or pairs) in one batch.
        context_length: Tokens it reads of a text; None: no bound.
        embedding_dim: Length of an embedding; None where it has none.
    """

    metrics: tuple[str, ...]
    default_metrics: tuple[str, ...]
    primary: str
    embeds: bool
    max_batch: int
    context_length: int | None = None
    embedding_dim: int | None = None


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What there is to know about a loaded model, for people and for the ingress.

    Attributes:
        id: `name@revision`.
        backend: As declared.
        architecture: Name of the architecture.
        pretrained: Where the weights came from.
        placement: Device, precision and threads in use.
        capabilities: What it can do.
        preprocess: How the ingress must fit images to it.
        parameters: Number of parameters.
        bytes: Memory the model takes, in bytes.
        load_seconds: How long load and warm-up took.
        expected_ms: Milliseconds for one pair, declared or measured at warm-up.
        details: Further facts, backend by backend.
    """

    id: str
    backend: str
    architecture: str
    pretrained: str
    placement: Placement
    capabilities: Capabilities
    preprocess: ImagePreprocess
    parameters: int
    bytes: int
    load_seconds: float
    expected_ms: float
    details: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TextEmbeddings:
    """Embeddings of texts, and how long each text was.

    Attributes:
        embeddings: Unit-length rows, float32, shape (texts, dimension).
        tokens: Tokens of each whole text, special tokens counted, before any cut.
    """

    embeddings: Embeddings
    tokens: tuple[int, ...]


class SimilarityModel(ABC):
    """Scores image-text pairs. The contract, held by `tests/contract` for every backend:

    - `load` is called once, before anything else; it raises `ModelLoadError` with the cause.
    - Methods are called from one thread at a time, never from an event loop.
    - A pair's scores do not depend on its neighbours in the batch, beyond rounding.
    - `unload` gives the memory back; it may be called twice.

    Args:
        spec: The declared configuration.
        placement: Device, precision and threads, resolved.
    """

    def __init__(self, spec: ModelSpec, placement: Placement) -> None:
        self.spec = spec
        self.placement = placement

    @abstractmethod
    def load(self) -> None:
        """Loads weights onto the device."""

    @abstractmethod
    def compute_similarity(self, pairs: Sequence[tuple[Pixels, str]]) -> list[Scores]:
        """Scores pairs, all metrics of `capabilities.metrics` that need no other text.

        Args:
            pairs: Images as `preprocess` makes them, and texts.

        Returns:
            One mapping of metric name to score per pair, in order.
        """

    @property
    @abstractmethod
    def capabilities(self) -> Capabilities:
        """What the loaded model can do."""

    @property
    @abstractmethod
    def preprocess(self) -> ImagePreprocess:
        """How images must be fitted to the model."""

    @property
    @abstractmethod
    def parameters(self) -> int:
        """Number of parameters of the loaded model."""

    @property
    @abstractmethod
    def bytes(self) -> int:
        """Memory the loaded model takes, in bytes."""

    def count_tokens(self, texts: Sequence[str]) -> tuple[int, ...]:
        """Tokens of each whole text, special tokens counted; zeros where there is no bound."""
        return (0,) * len(texts)

    @property
    def details(self) -> Mapping[str, str]:
        """Further facts for `ModelInfo`."""
        return {}

    def warmup(self) -> None:
        """Computes once, so that the first request pays for nothing."""
        height, width = self.preprocess.size
        image = np.full((height, width, 3), 127, dtype=np.uint8)
        self.compute_similarity([(image, "warm-up")])

    def unload(self) -> None:  # noqa: B027 - optional: not every model holds something to free
        """Frees what the model holds."""


class DualEncoder(SimilarityModel):
    """A model that embeds images and texts apart and compares the embeddings."""

    @abstractmethod
    def encode_images(self, images: Sequence[Pixels]) -> Embeddings:
        """Embeds images.

        Args:
            images: RGB, uint8, each of shape (height, width, 3) as `preprocess` makes them.

        Returns:
            Unit-length rows, float32, shape (images, dimension).
        """

    @abstractmethod
    def encode_texts(self, texts: Sequence[str]) -> TextEmbeddings:
        """Embeds texts; those longer than the context are cut, and their tokens say so."""

    @property
    @abstractmethod
    def logit_scale(self) -> float:
        """What the cosine is multiplied with, the exponential already taken."""

    @property
    @abstractmethod
    def logit_bias(self) -> float:
        """What is added to the scaled cosine; 0 where the model has none."""

    def score_inputs(self, cosine: float) -> ScoreInputs:
        """What metrics are computed from, for a pair with this cosine.

        Rounding takes the product of two unit rows past 1 by up to 1e-6; a cosine is not.
        """
        # In this order NaN stays what it is, and does not become a perfect match.
        return ScoreInputs(min(max(cosine, -1.0), 1.0), self.logit_scale, self.logit_bias)

    def compute_similarity(self, pairs: Sequence[tuple[Pixels, str]]) -> list[Scores]:
        """Scores pairs; an image object or a text that stands in several is encoded once."""
        if not pairs:
            return []
        images = {id(image): image for image, _ in pairs}
        texts = list(dict.fromkeys(text for _, text in pairs))
        image_rows = {key: row for row, key in enumerate(images)}
        text_rows = {text: row for row, text in enumerate(texts)}
        image_embeddings = self.encode_images(list(images.values()))
        text_embeddings = self.encode_texts(texts).embeddings
        names = [name for name in self.capabilities.metrics if not METRICS[name].text_prefix]
        results: list[Scores] = []
        for image, text in pairs:
            left, right = image_embeddings[image_rows[id(image)]], text_embeddings[text_rows[text]]
            inputs = self.score_inputs(float(np.dot(left, right)))
            results.append({name: METRICS[name].compute(inputs) for name in names})
        return results
