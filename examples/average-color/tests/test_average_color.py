"""Runs the contract that every model of serve-app keeps, and what this one promises besides."""

import numpy as np
import pytest
from average_color import AverageColor

from serve_app.config.spec import ModelSpec
from serve_app.errors import ModelLoadError
from serve_app.models.base import Placement
from serve_app.testing.contract import FULL, DualEncoderContract, ModelMaker


def make(**options: object) -> AverageColor:
    return AverageColor(ModelSpec(backend="average_color", options=options), FULL)


class TestContract(DualEncoderContract):
    @pytest.fixture(scope="module")
    @classmethod
    def make_model(cls) -> ModelMaker:
        def make_model(placement: Placement) -> AverageColor:
            return AverageColor(ModelSpec(backend="average_color"), placement)

        return make_model


def test_red_is_red() -> None:
    model = make()
    model.load()
    red = np.full((32, 32, 3), (250, 10, 10), dtype=np.uint8)
    scores = model.compute_similarity([(red, "a red wall"), (red, "a blue wall")])
    assert scores[0]["cosine"] > 0.9 > 0 > scores[1]["cosine"]


def test_words_of_ones_own() -> None:
    model = make(words={"ochre": [204, 119, 34]})
    model.load()
    ochre = np.full((32, 32, 3), (204, 119, 34), dtype=np.uint8)
    (scores,) = model.compute_similarity([(ochre, "ochre")])
    assert scores["cosine"] == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("options", [{"word": {}}, {"words": {"ochre": [1, 2]}}])
def test_wrong_options_are_told(options: dict[str, object]) -> None:
    with pytest.raises(ModelLoadError, match="options"):
        make(**options).load()
