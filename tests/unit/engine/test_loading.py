from __future__ import annotations

import threading
from pathlib import Path

import pytest

from serve_app.config.document import Document
from serve_app.config.faults import Origin
from serve_app.engine.loading import model_loader
from serve_app.engine.parity import UNCHECKED
from serve_app.engine.threads import run_within
from serve_app.errors import DeadlineExceededError, ModelLoadError
from serve_app.models.base import Placement
from serve_app.models.factory import SimilarityModelFactory
from serve_app.models.identity import UNIDENTIFIED
from serve_app.models.placement import PoolPlacement
from serve_app.models.registry import DynamicModelRegistry
from serve_app.testing import FakeDualEncoder
from tests.unit.engine.conftest import resolved


class OneModel(SimilarityModelFactory):
    """Makes a model and keeps it."""

    def create(self, spec, placement: Placement) -> FakeDualEncoder:
        self.made = FakeDualEncoder(spec, placement)
        return self.made


def test_a_loaded_model_is_warm_and_described():
    loaded = model_loader(SimilarityModelFactory())(
        resolved(architecture="tiny", options={"delay_ms": 2, "bytes": 77})
    )
    assert loaded.model.text_batches[0] == ("warm-up",)
    info = loaded.info
    assert (info.id, info.bytes, info.architecture) == ("fake@00000001", 77, "tiny")
    assert info.expected_ms >= 4  # one image and one text, 2 ms each
    assert info.preprocess.size == (8, 8)


@pytest.mark.parametrize(
    "changes",
    [
        {"options": {"fail_load": "no"}},
        {"options": {"fail_text": "warm-up"}},
        {"primary": "beauty"},
    ],
)
def test_half_a_model_is_unloaded(changes):
    factory = OneModel()
    with pytest.raises((ModelLoadError, RuntimeError)):
        model_loader(factory)(resolved(**changes))
    assert factory.made.unloads == 1


class Panic(BaseException):
    """What libraries in Rust raise."""


class Panicking(FakeDualEncoder):
    def load(self) -> None:
        raise Panic("index out of bounds")


class OnePanicking(OneModel):
    def create(self, spec, placement: Placement) -> FakeDualEncoder:
        self.made = Panicking(spec, placement)
        return self.made


def test_a_panic_is_an_ordinary_failure():
    factory = OnePanicking()
    with pytest.raises(ModelLoadError, match="Panic: index out of bounds"):
        model_loader(factory)(resolved())
    assert factory.made.unloads == 1


class Replacing(FakeDualEncoder):
    """Somebody replaces its weights while it reads them."""

    def load(self) -> None:
        super().load()
        Path(str(self.spec.pretrained)).write_bytes(b"the second")


class OneReplacing(OneModel):
    def create(self, spec, placement: Placement) -> FakeDualEncoder:
        self.made = Replacing(spec, placement)
        return self.made


def test_weights_that_are_replaced_before_or_during_the_load_are_refused(tmp_path: Path):
    weights = tmp_path / "weights.safetensors"
    weights.write_bytes(b"the first")
    factory = OneReplacing()
    spec = {"backend": "serve_app.testing:FakeDualEncoder", "pretrained": str(weights)}
    registry = DynamicModelRegistry({"default": PoolPlacement()})
    declared = registry.update(Document({"a": spec}, Origin("models"))).models["a"]
    for loads in (1, 1):
        with pytest.raises(ModelLoadError, match="its files have changed since"):
            model_loader(factory)(declared)
        assert factory.made.loads == loads, "the second time it is seen before the load"
    assert factory.made.unloads == 1


def test_weights_that_nothing_vouches_for_are_noted(tmp_path: Path):
    weights = tmp_path / "weights.safetensors"
    spec = {"backend": "serve_app.testing:FakeDualEncoder", "pretrained": str(weights)}
    registry = DynamicModelRegistry({"default": PoolPlacement()})
    declared = registry.update(Document({"a": spec}, Origin("models"))).models["a"]
    weights.write_bytes(b"the first")
    loaded = model_loader(SimilarityModelFactory())(declared)
    assert loaded.note == f"{UNCHECKED}; {UNIDENTIFIED}"


async def test_a_call_within_its_time_gives_its_result_or_error():
    discarded: list[int] = []
    assert await run_within(60, lambda: 1, discarded.append, "one") == 1

    def fail() -> int:
        raise TimeoutError("the call's own")

    with pytest.raises(TimeoutError, match="the call's own"):
        await run_within(60, fail, discarded.append, "failing")
    assert discarded == []


async def test_the_result_of_a_call_that_took_too_long_is_discarded():
    gate, thrown = threading.Event(), threading.Event()
    discarded: list[int] = []

    def discard(result: int) -> None:
        discarded.append(result)
        thrown.set()

    with pytest.raises(DeadlineExceededError, match="slow took longer"):
        await run_within(0.01, lambda: gate.wait(10) and 5, discard, "slow")
    assert discarded == []
    gate.set()
    assert thrown.wait(10)
    assert discarded == [5]
