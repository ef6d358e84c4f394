"""Turns a resolved configuration into a loaded, warmed and checked model; keeps nothing."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from serve_app.config.spec import ModelSpec
from serve_app.engine.observer import EngineObserver
from serve_app.engine.parity import check_parity
from serve_app.errors import ModelLoadError
from serve_app.models.base import ModelInfo, SimilarityModel
from serve_app.models.factory import SimilarityModelFactory
from serve_app.models.identity import check_identity
from serve_app.models.registry import ResolvedModel
from serve_app.observability.telling import tell
from serve_app.weights.cache import WeightsCache
from serve_app.weights.local import localised

_MEASUREMENTS = 3
_MEASURE_AT_MOST_S = 1.0


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model that is ready to compute, and what there is to know about it.

    Attributes:
        model: Loaded and warmed up.
        info: Measured.
        note: What else is worth knowing, for example that nothing checked its scores.
    """

    model: SimilarityModel
    info: ModelInfo
    note: str | None = None

    def unload(self) -> None:
        """Gives the memory back."""
        self.model.unload()


Loader = Callable[[ResolvedModel], LoadedModel]
"""Blocking; raises `ModelLoadError`, or anything else, when it cannot."""


def model_loader(
    factory: SimilarityModelFactory,
    cache: WeightsCache | None = None,
    observer: EngineObserver | None = None,
) -> Loader:
    """Returns the loader that makes models with this factory.

    Args:
        factory: Knows the backends.
        cache: Where weights from other machines are kept; None: they cannot be loaded.
        observer: Is told, in the thread of the load, where weights came from.
    """

    def load(resolved: ResolvedModel) -> LoadedModel:
        downloaded = False

        def progress(done: int, total: int | None) -> None:
            nonlocal downloaded
            downloaded = True

        # Until it is loaded: backends keep no file open.
        with localised(resolved.spec, cache, progress) as spec:
            if observer is not None and spec is not resolved.spec:
                tell(lambda: observer.weights(resolved.id, downloaded=downloaded))
            return _loaded(resolved, spec, factory)

    return load


def _loaded(
    resolved: ResolvedModel, spec: ModelSpec, factory: SimilarityModelFactory
) -> LoadedModel:
    identity = check_identity(resolved, factory)
    model = factory.create(spec, resolved.placement)
    started = time.perf_counter()
    try:
        model.load()
        check_identity(resolved, factory)  # again: no file was replaced while it was read
        model.warmup()
        load_seconds = time.perf_counter() - started
        info = _info(resolved, model, load_seconds)
        parity = check_parity(model, resolved.spec.parity, resolved.id)
        note = "; ".join(note for note in (parity, identity) if note is not None)
        return LoadedModel(model, info, note or None)
    except BaseException as error:
        # Half a model holds memory too, and nobody else knows of it.
        with suppress(Exception):  # the first error is the one to tell about
            model.unload()
        if isinstance(error, Exception):
            raise
        # A panic of a library in Rust, or an exit: no reason to end all other models too.
        raise ModelLoadError(f"{type(error).__name__}: {error}") from error


def _info(resolved: ResolvedModel, model: SimilarityModel, load_seconds: float) -> ModelInfo:
    spec = resolved.spec
    capabilities = model.capabilities
    if capabilities.primary not in capabilities.metrics:
        raise ModelLoadError(
            f"{resolved.id}: primary metric {capabilities.primary!r} is not one of the model's: "
            f"{', '.join(capabilities.metrics)}."
        )
    return ModelInfo(
        id=resolved.id,
        backend=spec.backend,
        architecture=spec.architecture or type(model).__name__,
        pretrained=spec.pretrained or "",
        placement=resolved.placement,
        capabilities=capabilities,
        preprocess=model.preprocess,
        parameters=model.parameters,
        bytes=spec.performance.bytes or model.bytes,
        load_seconds=load_seconds,
        expected_ms=spec.performance.expected_ms or _measure_ms(model),
        details=dict(model.details),
    )


def _measure_ms(model: SimilarityModel) -> float:
    """Milliseconds for one pair: the best of a few, because others may use the machine now."""
    height, width = model.preprocess.size
    pair = (np.full((height, width, 3), 127, dtype=np.uint8), "a measurement")
    best, spent = float("inf"), 0.0
    for _ in range(_MEASUREMENTS):
        started = time.perf_counter()
        model.compute_similarity([pair])
        took = time.perf_counter() - started
        best, spent = min(best, took), spent + took
        if spent > _MEASURE_AT_MOST_S:
            break
    return 1000 * best
