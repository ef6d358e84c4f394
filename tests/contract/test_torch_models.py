"""What models in torch promise besides: threads, wrong pixels, and no half-loaded state."""

import threading

import numpy as np
import pytest
import torch

from serve_app.errors import DeviceUnavailableError, ModelError
from serve_app.models.base import Pixels, Placement, SimilarityModel
from serve_app.testing.contract import FULL, TEXTS, ModelMaker
from tests.contract.conftest import DUAL_ENCODERS, PAIR_SCORERS, maker

_OTHERS = ("fake", "remote")
CASES = {
    name: write
    for name, write in (DUAL_ENCODERS | PAIR_SCORERS).items()
    if name.partition("-")[0] not in _OTHERS
}


@pytest.fixture(scope="module", params=CASES)
def make_model(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> ModelMaker:
    return maker(CASES[request.param], tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def model(make_model: ModelMaker) -> SimilarityModel:
    loaded = make_model(FULL)
    loaded.load()
    return loaded


@pytest.fixture
def image(model: SimilarityModel) -> Pixels:
    height, width = model.preprocess.size
    return np.full((height, width, 3), 90, dtype=np.uint8)


def test_wrong_pixels_are_refused(model: SimilarityModel) -> None:
    height, width = model.preprocess.size
    for pixels in (
        np.zeros((height + 1, width, 3), dtype=np.uint8),
        np.zeros((height, width, 4), dtype=np.uint8),
        np.zeros((height, width, 3), dtype=np.float32),
    ):
        with pytest.raises(ModelError, match=r"takes.*uint8"):
            model.compute_similarity([(pixels, TEXTS[0])])  # type: ignore[list-item]


def test_threads_are_those_of_the_placement_in_any_thread(
    model: SimilarityModel, image: Pixels
) -> None:
    seen: list[int] = []

    def other() -> None:
        torch.set_num_threads(2)
        model.compute_similarity([(image, TEXTS[0])])
        seen.append(torch.get_num_threads())

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    model.compute_similarity([(image, TEXTS[0])])
    assert [*seen, torch.get_num_threads()] == [1, 1]


def test_what_is_not_loaded_says_so(make_model: ModelMaker, image: Pixels) -> None:
    unloaded = make_model(FULL)
    for _ in range(2):
        with pytest.raises(ModelError, match="not loaded"):
            unloaded.compute_similarity([(image, TEXTS[0])])
        with pytest.raises(ModelError, match="not loaded"):
            _ = unloaded.capabilities
        unloaded.unload()


def test_bytes_are_those_of_the_parameters(model: SimilarityModel) -> None:
    assert model.parameters > 0
    assert model.bytes >= 4 * model.parameters
    details = model.details
    if model.capabilities.embeds:  # towers are of dual encoders
        image, text = int(details["image_parameters"]), int(details["text_parameters"])
        assert image > 0 < text
        assert image + text == model.parameters


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_precision_is_what_the_model_takes(make_model: ModelMaker, precision: str) -> None:
    model = make_model(Placement("cpu", precision, 1))
    model.load()
    width = 4 if precision == "fp32" else 2
    # Norms stay in fp32, and are small.
    assert width * model.parameters <= model.bytes < 1.3 * width * model.parameters
    model.unload()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_that_is_not_there_is_told(make_model: ModelMaker) -> None:
    model = make_model(Placement("cuda", "fp32", 1))
    with pytest.raises(DeviceUnavailableError, match="GPU"):
        model.load()
    with pytest.raises(ModelError, match="not loaded"):
        _ = model.capabilities


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")
def test_a_gpu_computes_the_same(
    make_model: ModelMaker, model: SimilarityModel, image: Pixels
) -> None:
    other = make_model(Placement("cuda", "fp32", 1))
    other.load()
    pairs = [(image, text) for text in TEXTS]
    for one, two in zip(
        model.compute_similarity(pairs), other.compute_similarity(pairs), strict=True
    ):
        assert one == pytest.approx(two, rel=1e-3, abs=1e-3)
    other.unload()
