"""Matching heads score as the transformers library's own call does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from numpy.typing import NDArray
from PIL import Image

from serve_app.config.spec import ModelSpec
from serve_app.errors import ModelLoadError
from serve_app.models.base import Placement
from serve_app.models.itm import ItmModel
from tests.tiny_itm import HEADS
from tests.tiny_transformers import clip

BOUND = 1e-5
TEXTS = (
    "a red circle left of a blue square",
    "two dogs",
    "x",
    "people who carry umbrellas in the rain " * 6,
)


def load(spec: ModelSpec) -> ItmModel:
    model = ItmModel(spec, Placement("cpu", "fp32", 1))
    model.load()
    return model


def reference(
    family: str, folder: Path, images: tuple[Image.Image, ...]
) -> dict[str, NDArray[np.float32]]:
    """Each pair by itself, by the library's processors and one call of the whole model."""
    kind = {
        "blip": transformers.BlipForImageTextRetrieval,
        "blip2": transformers.Blip2ForImageTextRetrieval,
    }[family]
    model: Any = kind.from_pretrained(folder).eval()
    processor = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    switch = "use_itm_head" if family == "blip" else "use_image_text_matching_head"
    found: dict[str, list[float]] = {"itm": [], "itc": []}
    for image in images:
        for text in TEXTS:
            given = {
                **processor(images=[image], return_tensors="pt"),
                **tokenizer([text], truncation=True, max_length=20, return_tensors="pt"),
            }
            with torch.no_grad():
                matched = model(**given, **{switch: True})
                compared = model(**given, **{switch: False})
            if family == "blip":
                logits, cosine = matched.itm_score, compared.itm_score
            else:
                logits, cosine = matched.logits_per_image, compared.logits_per_image
            found["itm"].append(float(logits.softmax(dim=-1)[0, 1]))
            found["itc"].append(float(cosine.reshape(())))
    return {name: np.array(values, dtype=np.float32) for name, values in found.items()}


@pytest.mark.parametrize("one_by_one", [False, True], ids=["together", "one by one"])
@pytest.mark.parametrize("family", HEADS)
def test_scores_equal_the_librarys(
    family: str, one_by_one: bool, tmp_path: Path, images: tuple[Image.Image, ...]
) -> None:
    model = load(HEADS[family](tmp_path, itc=True))
    expected = reference(family, tmp_path, images)
    fitted = [model.preprocess.apply(image) for image in images]
    pairs = [(image, text) for image in fitted for text in TEXTS]
    if one_by_one:
        scores = [model.compute_similarity([pair])[0] for pair in pairs]
    else:
        scores = model.compute_similarity(pairs)
    for metric, values in expected.items():
        assert np.ptp(values) > 1e-3  # else equality would mean nothing
        found = np.array([score[metric] for score in scores])
        assert np.abs(found - values).max() <= BOUND


def test_only_the_head_is_asked_unless_the_cosine_is_wanted(tmp_path: Path) -> None:
    model = load(HEADS["blip"](tmp_path))
    assert model.capabilities.metrics == ("itm",)
    image = np.zeros((32, 32, 3), dtype=np.uint8)
    assert set(model.compute_similarity([(image, "a dog")])[0]) == {"itm"}


def test_an_image_is_encoded_once_however_many_texts_it_has(tmp_path: Path) -> None:
    model = load(HEADS["blip"](tmp_path))
    seen: list[int] = []
    vision: Any = model._loaded.model.vision_model
    vision.register_forward_hook(lambda module, given, found: seen.append(len(found[0])))
    images = [np.full((32, 32, 3), level, dtype=np.uint8) for level in (10, 200)]
    model.compute_similarity([(image, text) for image in images for text in TEXTS])
    assert seen == [2]


def test_a_checkpoint_without_such_a_head_is_told(tmp_path: Path) -> None:
    clip(tmp_path)
    with pytest.raises(ModelLoadError, match=r"is a clip.*blip and blip-2"):
        load(ModelSpec(backend="itm", pretrained=str(tmp_path)))


def test_a_captioning_checkpoint_has_no_head(tmp_path: Path) -> None:
    spec = HEADS["blip"](tmp_path)
    config = transformers.BlipConfig.from_pretrained(tmp_path)
    transformers.BlipForConditionalGeneration(config).save_pretrained(tmp_path)
    with pytest.raises(ModelLoadError, match="no weights for"):
        load(spec)


def test_a_metric_that_was_not_asked_for_is_told(tmp_path: Path) -> None:
    spec = HEADS["blip"](tmp_path)
    with pytest.raises(ModelLoadError, match="primary: itc"):
        load(spec.model_copy(update={"primary": "itc"}))
