"""What pair scorers in torch share: each image once, pairs in batches, and what is told of them.

Knows no library of models: a backend says how images, texts and pairs compute.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from serve_app.inputs.preprocess import ImagePreprocess
from serve_app.models.base import Capabilities, Pixels, Scores
from serve_app.models.torch_model import TorchModel
from serve_app.models.torch_runtime import computing, run_chunked


class TextRows(Protocol):
    """Texts to whatever `LoadedPairs.score` takes, one for each."""

    def rows(self, texts: Sequence[str]) -> Sequence[Any]:
        """One of each text, cut to the context."""

    def count(self, texts: Sequence[str]) -> tuple[int, ...]:
        """Tokens of each whole text, special tokens counted."""


@dataclass(frozen=True, slots=True)
class LoadedPairs:
    """Everything that a loaded pair scorer holds; set at once, so no half of it can be seen.

    Attributes:
        model: Kept alive for as long as the functions are.
        check_images: Raises `ModelFailedError` for images that `preprocess` has not made.
        images: Images that have passed, at least one, to features (n, …) on the device.
        texts: The texts.
        score: Features of images and as many rows of texts to (n,) numbers by metric, in fp32.
        capabilities: What it can do.
        preprocess: How images must be fitted to it.
        parameters: Number of parameters that take part.
        bytes: Bytes of parameters and buffers.
        details: Further facts.
    """

    model: torch.nn.Module
    check_images: Callable[[Sequence[Pixels]], None]
    images: Callable[[Sequence[Pixels]], torch.Tensor]
    texts: TextRows
    score: Callable[[torch.Tensor, Sequence[Any]], Mapping[str, torch.Tensor]]
    capabilities: Capabilities
    preprocess: ImagePreprocess
    parameters: int
    bytes: int
    details: Mapping[str, str]


class TorchPairScorer(TorchModel[LoadedPairs]):
    """A pair scorer in torch; a backend adds `_load`."""

    def compute_similarity(self, pairs: Sequence[tuple[Pixels, str]]) -> list[Scores]:
        """Scores pairs; an image object that stands in several is encoded once.

        Raises:
            ModelFailedError: An image has not the size that `preprocess` gives, or memory is too
                small even for one pair.
        """
        state = self._loaded
        if not pairs:
            return []
        images = list({id(image): image for image, _ in pairs}.values())
        texts = list(dict.fromkeys(text for _, text in pairs))
        state.check_images(images)
        image_rows = {id(image): row for row, image in enumerate(images)}
        rows = dict(zip(texts, state.texts.rows(texts), strict=True))
        names = list(state.capabilities.metrics)
        with computing(self.placement):
            features = torch.cat(run_chunked(state.images, images, self.max_batch))

            def score(batch: Sequence[tuple[int, Any]]) -> torch.Tensor:
                index = torch.tensor([row for row, _ in batch], device=features.device)
                found = state.score(features[index], [tokens for _, tokens in batch])
                return torch.stack([found[name].float() for name in names], dim=1)

            asked = [(image_rows[id(image)], rows[text]) for image, text in pairs]
            numbers = torch.cat(run_chunked(score, asked, self.max_batch)).tolist()
        return [dict(zip(names, row, strict=True)) for row in numbers]

    def count_tokens(self, texts: Sequence[str]) -> tuple[int, ...]:
        """Tokens of each whole text, special tokens counted."""
        return self._loaded.texts.count(texts)
