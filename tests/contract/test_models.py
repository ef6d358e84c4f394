"""What every model promises, whatever its backend."""

import pytest

from serve_app.models.factory import SimilarityModelFactory
from serve_app.testing.contract import DualEncoderContract, ModelContract, ModelMaker
from tests.contract.conftest import DUAL_ENCODERS, PAIR_SCORERS, maker


class TestDualEncoders(DualEncoderContract):
    @pytest.fixture(scope="module", params=DUAL_ENCODERS)
    @classmethod
    def make_model(
        cls, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
    ) -> ModelMaker:
        return maker(DUAL_ENCODERS[request.param], tmp_path_factory.mktemp("model"))


class TestPairScorers(ModelContract):
    @pytest.fixture(scope="module", params=PAIR_SCORERS)
    @classmethod
    def make_model(
        cls, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
    ) -> ModelMaker:
        return maker(PAIR_SCORERS[request.param], tmp_path_factory.mktemp("model"))


def test_every_backend_is_held_to_it() -> None:
    held = {name.partition("-")[0] for name in (*DUAL_ENCODERS, *PAIR_SCORERS)} - {"fake"}
    assert held == set(SimilarityModelFactory.BUILT_IN)
