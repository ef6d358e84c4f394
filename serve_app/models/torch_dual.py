"""What dual encoders in torch share: embedding in batches, precision, and what is told of them.

Knows no library of models: a backend says how its two towers compute and how texts become tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch.nn import functional as F  # noqa: N812 - torch's own idiom

from serve_app.errors import ModelLoadError
from serve_app.inputs.preprocess import ImagePreprocess
from serve_app.models.base import (
    Capabilities,
    DualEncoder,
    Embeddings,
    Pixels,
    TextEmbeddings,
)
from serve_app.models.torch_model import TorchModel
from serve_app.models.torch_runtime import computing, run_chunked


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


class TorchDualEncoder(TorchModel[LoadedDual], DualEncoder):
    """A dual encoder in torch; a backend adds `_load`."""

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
            max_batch=self.max_batch,
            context_length=context,
            embedding_dim=dimension,
        )

    def count_tokens(self, texts: Sequence[str]) -> tuple[int, ...]:
        """Tokens of each whole text, special tokens counted."""
        return self._loaded.texts.count(texts)

    @property
    def logit_scale(self) -> float:
        """The model's own factor, exponential taken."""
        return self._loaded.logit_scale

    @property
    def logit_bias(self) -> float:
        """The model's own bias; 0 where it has none."""
        return self._loaded.logit_bias
