"""CLIPScore as torchmetrics has it: the same within the context, and why not beyond it."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from numpy.typing import NDArray
from PIL import Image
from torchmetrics.functional.multimodal.clip_score import _clip_score_update

from serve_app.config.spec import ModelSpec
from serve_app.models.base import Placement
from serve_app.models.transformers_dual import TransformersModel
from serve_app.scoring.metrics import METRICS
from tests.tiny_transformers import clip

PREFIX = METRICS["clipscore"].text_prefix
WITHIN = ("a red circle left of a blue square", "two green triangles", "x")
BEYOND = "a photo of a dog that runs on the beach and people who carry umbrellas in the rain"


class _Processor:
    """The library's processor with Pillow behind it, as these models were trained."""

    def __init__(self, folder: Path) -> None:
        self._tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        self._images = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil")

    def __call__(self, text: Any = None, images: Any = None, **options: Any) -> Any:
        if text is not None:
            return self._tokenizer(text, padding=True, return_tensors="pt", verbose=False)
        return self._images(images=images, return_tensors="pt")


class _Features:
    """What torchmetrics expects of a model: features as tensors."""

    def __init__(self, folder: Path) -> None:
        self._model = transformers.CLIPModel.from_pretrained(folder).eval()
        self.config = self._model.config

    def to(self, device: Any) -> _Features:
        return self

    def get_image_features(self, pixels: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = self._model.get_image_features(pixels).pooler_output
        return features

    def get_text_features(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = self._model.get_text_features(ids, mask).pooler_output
        return features


def theirs(folder: Path, images: Sequence[Image.Image], texts: list[str]) -> NDArray[np.float32]:
    pixels = [torch.from_numpy(np.array(image)).permute(2, 0, 1) for image in images]
    model: Any = _Features(folder)
    processor: Any = _Processor(folder)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it cuts long captions
        scores, _ = _clip_score_update(pixels, texts, model, processor)
    return scores.numpy()


def ours(folder: Path, images: Sequence[Image.Image], texts: list[str]) -> NDArray[np.float32]:
    spec = ModelSpec(backend="transformers", pretrained=str(folder))
    model = TransformersModel(spec, Placement("cpu", "fp32", 1))
    model.load()
    pixels = [model.preprocess.apply(image) for image in images]
    scores = model.compute_similarity(list(zip(pixels, texts, strict=True)))
    return np.array([100 * score["cosine"] for score in scores])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return clip(tmp_path, pad="<end>", eos="<end>")  # as CLIP's own tokenizer


@pytest.mark.parametrize("prefix", ["", PREFIX], ids=["plain", "as published"])
def test_captions_within_the_context_score_the_same(
    prefix: str, folder: Path, images: tuple[Image.Image, ...]
) -> None:
    """It puts nothing before the caption; the published metric does, and so does `clipscore`."""
    texts = [prefix + text for text in WITHIN]
    expected = theirs(folder, images, texts)
    assert np.std(expected) > 0.1
    assert np.abs(ours(folder, images, texts) - expected).max() <= 100 * 1e-5


def test_captions_beyond_the_context_lose_their_end_there(
    folder: Path, images: tuple[Image.Image, ...]
) -> None:
    """It cuts the tokens and the end of text with them, where CLIP reads the text's features.

    No text in training was without one. We cut as CLIP's own tokenizer does: before the end.
    """
    texts = [BEYOND] * len(images)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    whole = tokenizer(BEYOND, verbose=False)["input_ids"]
    assert len(whole) > 16
    assert tokenizer.eos_token_id not in whole[:16]
    difference = np.abs(ours(folder, images, texts) - theirs(folder, images, texts)).max()
    assert difference > 1
    # And this is the text that it scores: ours, given the same tokens, agrees with CLIP's own cut.
    cut = tokenizer.decode(whole[1:15])
    assert np.abs(ours(folder, images, texts) - theirs(folder, images, [cut] * 3)).max() <= 1e-3
