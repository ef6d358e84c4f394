"""What the engine's tests share: models of shipped fakes, images, and an executor over them."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import numpy as np
import pytest
from PIL import Image

from serve_app.config.args import Limits
from serve_app.config.faults import Origin
from serve_app.config.routing_source import RoutingDocument
from serve_app.engine.answered import Answered
from serve_app.engine.loading import LoadedModel, model_loader
from serve_app.engine.local import LocalExecutor, build_local_executor
from serve_app.engine.pipeline import ScoringPipeline
from serve_app.models.base import Placement
from serve_app.models.factory import SimilarityModelFactory
from serve_app.models.registry import RegistrySnapshot, ResolvedModel
from serve_app.routing.build import build_routing
from serve_app.testing import FakeModel, fake_spec


def resolved(name: str = "fake", backend: str = "FakeDualEncoder", **changes: Any) -> ResolvedModel:
    return ResolvedModel(name, "00000001", fake_spec(backend, **changes), Placement())


def snapshot_of(
    *models: ResolvedModel, routing: Mapping[str, Any] | None = None
) -> RegistrySnapshot:
    snapshot = RegistrySnapshot(1, {model.name: model for model in models}, models[0].name)
    if routing is None:
        return snapshot
    document = RoutingDocument(routing, Origin("test"))
    return snapshot.routed_by(build_routing(document, snapshot.models, snapshot.default))


def png(color: str | tuple[int, int, int], size: tuple[int, int] = (8, 8)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, color).save(buffer, "PNG")
    return buffer.getvalue()


def noise(seed: int, count: int = 1) -> list[np.ndarray]:
    generator = np.random.default_rng(seed)
    return [generator.integers(0, 256, (8, 8, 3), dtype=np.uint8) for _ in range(count)]


class RecordingLoader:
    """Loads through the real factory and keeps every model, for tests to look into."""

    def __init__(self) -> None:
        self._load = model_loader(SimilarityModelFactory())
        self.models: dict[str, list[FakeModel]] = {}

    def __call__(self, model: ResolvedModel) -> LoadedModel:
        loaded = self._load(model)
        assert isinstance(loaded.model, FakeModel)
        loaded.model.image_batches.clear()  # without warm-up
        loaded.model.text_batches.clear()
        loaded.model.entered.clear()
        self.models.setdefault(model.name, []).append(loaded.model)
        return loaded

    def __getitem__(self, name: str) -> FakeModel:
        return self.models[name][-1]


class Engine:
    """A pipeline over an in-process executor over fakes, and what it has told."""

    def __init__(
        self,
        limits: Limits,
        models: tuple[ResolvedModel, ...],
        routing: Mapping[str, Any] | None = None,
        fetch: Any = None,
        **options: Any,
    ) -> None:
        self.load = RecordingLoader()
        self.answered: list[Answered] = []
        self.snapshot = snapshot_of(*models, routing=routing)
        self.executor: LocalExecutor = build_local_executor(
            self.snapshot, load=self.load, **options
        )
        self.pipeline = ScoringPipeline(
            self.snapshot, self.executor, limits, 2, self.answered.append, fetch=fetch
        )

    def fake(self, name: str = "fake") -> FakeModel:
        return self.load[name]

    async def close(self) -> None:
        self.pipeline.close()
        await self.executor.close()


Builder = Callable[..., Engine]


@pytest.fixture
async def engine() -> AsyncIterator[Builder]:
    """Builds engines: `engine(model, ..., limits={...}, routing={...}, options...)`."""
    built: list[Engine] = []

    def build(
        *models: ResolvedModel, limits: Mapping[str, Any] | None = None, **options: Any
    ) -> Engine:
        made = Engine(Limits(**(limits or {})), models or (resolved(),), **options)
        built.append(made)
        return made

    yield build
    for each in built:
        for models in each.load.models.values():
            for model in models:
                model.gate.set()
        await each.close()
