"""What dual encoders in torch share: embedding in batches, precision, and what is told of them.

Knows no library of models: a backend says how its two towers compute and how texts become tokens.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch.nn import functional as F  # noqa: N812 - torch's own idiom

from serve_app.config.spec import ModelSpec
from serve_app.errors import ModelFailedError, ModelLoadError, ModelTooLargeError, ServeAppError
from serve_app.inputs.preprocess import ImagePreprocess
from serve_app.models.base import (
    Capabilities,
    DualEncoder,
    Embeddings,
    Pixels,
    Placement,
    TextEmbeddings,
)
from serve_app.models.torch_runtime import (
    computing,
    is_out_of_memory,
    release_memory,
    run_chunked,
    set_threads,
)

DEFAULT_MAX_BATCH = {"cpu": 32, "cuda": 256}


class TextTower(Protocol):
    """Texts to features, in two steps: all texts become tokens at once, batches become features."""

    context_length: int

    def tokens(self, texts: Sequence[str]) -> tuple[Any, tuple[int, ...]]:
        """Whatever `features` takes, cut to the context; and the tokens of each whole text."""

    def features(self, tokens: Any, rows: Sequence[int]) -> torch.Tensor:
        """Features (rows, dimension) of some of the texts, not normalised."""

    def count(self, texts: Sequence[str]) -> tuple[int, ...]:
        """Tokens of each whole text, special tokens counted."""


@dataclass(frozen=True, slots=True)
class LoadedDual:
    """Everything that a loaded dual encoder holds; set at once, so no half of it can be seen.

    Attributes:
        model: Kept alive for as long as the towers are.
        device: Where it is.
        check_images: Raises `ModelFailedError` for images that `preprocess` has not made.
        images: Images that have passed, at least one, to features (n, dimension) on the device.
        texts: The text tower.
        dimension: Of the embeddings.
        logit_scale: What the cosine is multiplied with.
        logit_bias: What is added then.
        capabilities: What it can do.
        preprocess: How images must be fitted to it.
        parameters: Number of parameters that take part.
        bytes: Bytes of parameters and buffers.
        details: Further facts.
    """

    model: torch.nn.Module
    device: torch.device
    check_images: Callable[[Sequence[Pixels]], None]
    images: Callable[[Sequence[Pixels]], torch.Tensor]
    texts: TextTower
    dimension: int
    logit_scale: float
    logit_bias: float
    capabilities: Capabilities
    preprocess: ImagePreprocess
    parameters: int
    bytes: int
    details: Mapping[str, str]


class TorchDualEncoder(DualEncoder):
    """A dual encoder in torch; a backend adds how it is loaded.

    Args:
        spec: The declared configuration.
        placement: Device, precision and threads, resolved.
    """

    def __init__(self, spec: ModelSpec, placement: Placement) -> None:
        super().__init__(spec, placement)
        self._state: LoadedDual | None = None

    @abstractmethod
    def _load(self) -> LoadedDual:
        """Loads everything; raises `ModelLoadError`, or anything else, when it cannot."""

    def load(self) -> None:
        """Loads weights onto the device.

        Raises:
            DeviceUnavailableError: There is no such device.
            ModelTooLargeError: The device's memory is too small.
            MissingExtraError: A package is missing.
            ModelLoadError: Architecture, weights, tokenizer or an option are at fault.
        """
        self.unload()
        set_threads(self.placement.threads)
        try:
            with torch.no_grad():
                self._state = self._load()
        except ServeAppError:
            raise
        except Exception as error:
            kind = ModelTooLargeError if is_out_of_memory(error) else ModelLoadError
            named = " ".join(filter(None, (self.spec.architecture, f"({self.spec.pretrained})")))
            raise kind(f"Loading {named} failed: {type(error).__name__}: {error}") from error
        finally:
            # Also after success: building and casting leave a third of the weights' size behind.
            release_memory()

    def encode_images(self, images: Sequence[Pixels]) -> Embeddings:
        """Embeds images; see `DualEncoder.encode_images`.

        Raises:
            ModelFailedError: An image has not the size that `preprocess` gives, or memory is too
                small even for one.
        """
        state = self._loaded
        state.check_images(images)
        return self._embed(state.images, images)

    def encode_texts(self, texts: Sequence[str]) -> TextEmbeddings:
        """Embeds texts; see `DualEncoder.encode_texts`."""
        tower = self._loaded.texts
        tokens, counts = tower.tokens(texts)
        rows = self._embed(lambda batch: tower.features(tokens, batch), range(len(texts)))
        return TextEmbeddings(rows, counts)

    def _embed(self, compute: Callable[[Any], torch.Tensor], items: Sequence[Any]) -> Embeddings:
        """Features of items to unit rows; the norm is taken in fp32 whatever the precision."""
        state = self._loaded
        if not len(items):
            return np.zeros((0, state.dimension), dtype=np.float32)
        with computing(self.placement):
            rows = run_chunked(
                lambda batch: F.normalize(compute(batch).float(), dim=-1),
                items,
                state.capabilities.max_batch,
            )
            embeddings: Embeddings = torch.cat(rows).cpu().numpy()
        return embeddings

    def dual_capabilities(self, *, sigmoid: bool, context: int, dimension: int) -> Capabilities:
        """Capabilities of a dual encoder.

        Args:
            sigmoid: Whether it was trained with a sigmoid loss: then it gives probabilities.
            context: Tokens that it reads of a text.
            dimension: Of the embeddings.

        Raises:
            ModelLoadError: The spec's primary metric is none of the model's.
        """
        usual = ("cosine", "logit", "probability") if sigmoid else ("cosine", "logit")
        metrics = (*usual, "clipscore")
        primary = self.spec.primary or ("probability" if sigmoid else "cosine")
        if primary not in metrics:
            raise ModelLoadError(
                f"`primary: {primary}` is not a metric of this model; it has {', '.join(metrics)}."
            )
        return Capabilities(
            metrics=metrics,
            default_metrics=usual,
            primary=primary,
            embeds=True,
            max_batch=self.spec.performance.max_batch or DEFAULT_MAX_BATCH[self.placement.device],
            context_length=context,
            embedding_dim=dimension,
        )

    def count_tokens(self, texts: Sequence[str]) -> tuple[int, ...]:
        """Tokens of each whole text, special tokens counted."""
        return self._loaded.texts.count(texts)

    def unload(self) -> None:
        """Frees the weights."""
        if self._state is not None:
            self._state = None
            release_memory()

    @property
    def _loaded(self) -> LoadedDual:
        if self._state is None:
            named = self.spec.architecture or self.spec.pretrained
            raise ModelFailedError(f"The model {named} is not loaded.")
        return self._state

    @property
    def capabilities(self) -> Capabilities:
        """What the loaded model can do."""
        return self._loaded.capabilities

    @property
    def preprocess(self) -> ImagePreprocess:
        """How images must be fitted to the model."""
        return self._loaded.preprocess

    @property
    def parameters(self) -> int:
        """Number of parameters that take part in similarity."""
        return self._loaded.parameters

    @property
    def bytes(self) -> int:
        """Bytes of parameters and buffers, in the precision used."""
        return self._loaded.bytes

    @property
    def details(self) -> Mapping[str, str]:
        """Source and SHA-256 of the weights, sizes and counts, as strings."""
        return self._loaded.details

    @property
    def logit_scale(self) -> float:
        """The model's own factor, exponential taken."""
        return self._loaded.logit_scale

    @property
    def logit_bias(self) -> float:
        """The model's own bias; 0 where it has none."""
        return self._loaded.logit_bias
