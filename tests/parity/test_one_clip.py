"""One set of weights through three backends: the same scores."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from serve_app.config.spec import ModelSpec
from serve_app.models.base import DualEncoder, Placement
from serve_app.models.factory import SimilarityModelFactory
from tests.one_clip import write_three
from tests.parity.conftest import TEXTS

# The library's tokenizer reads "&amp;" as it stands and keeps its own rules for odd letters.
PLAIN = [text for text in TEXTS if text.isascii() and "&" not in text]


def test_three_backends_give_the_same_scores(
    tmp_path: Path, images: tuple[Image.Image, ...]
) -> None:
    found, counts = {}, set()
    for backend, spec in write_three(tmp_path).items():
        model = SimilarityModelFactory().create(ModelSpec(**spec), Placement("cpu", "fp32", 1))
        assert isinstance(model, DualEncoder)
        model.load()
        # An odd rest of a crop is cut as each library does, so the picture is square.
        pixels = [model.preprocess.apply(image.resize((48, 48))) for image in images]
        scores = model.compute_similarity([(image, text) for image in pixels for text in PLAIN])
        found[backend] = np.array([[s["cosine"], s["logit"]] for s in scores])
        counts.add(model.count_tokens(PLAIN))
    reference = found.pop("open_clip")
    assert len(PLAIN) >= 3
    assert len(counts) == 1
    assert np.std(reference[:, 0]) > 1e-3
    for scores in found.values():
        assert np.abs(scores - reference).max(axis=0)[0] <= 1e-5
        assert np.abs(scores - reference).max(axis=0)[1] <= 1e-5 / 0.07
