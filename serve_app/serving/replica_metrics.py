"""What Ray exports for Prometheus about a replica's models; knows nothing of requests."""

from __future__ import annotations

import asyncio

from serve_app.engine.local import LocalExecutor
from serve_app.engine.observer import BatchRun
from serve_app.serving.instruments import Instruments


class ReplicaMetrics:
    """The metrics of one replica; an `EngineObserver`. docs/http-api.md lists them.

    Args:
        pool: Name of its pool.
        gpu: Whether it computes on one.
    """

    def __init__(self, pool: str, *, gpu: bool) -> None:
        self._instruments = Instruments(pool=pool)
        self._gpu = gpu
        self._loop = asyncio.get_running_loop()

    def watch(self, executor: LocalExecutor) -> None:
        """Shows what it holds, and what waits, from now on."""

        def look() -> None:
            self._instruments.show("similarity_waiting", executor.waiting)
            self._instruments.hide("similarity_resident_bytes")
            for info in executor.pool.resident():
                self._instruments.show("similarity_resident_bytes", info.bytes, **_model(info.id))
            if self._gpu:
                self._show_gpu()

        self._instruments.keep_up(look)

    def batch(self, model_id: str, run: BatchRun) -> None:
        """Counts a batch."""
        model = _model(model_id)
        self._instruments.observe("similarity_model_ms", 1000 * run.seconds, **model)
        for lane, size in run.computed.items():
            self._instruments.observe("similarity_batch_size", size, lane=lane, **model)
        computed = sum(run.computed.values())
        if computed:
            self._instruments.add("similarity_cache_misses", computed, cache="batch", **model)
        if run.shared:
            self._instruments.add("similarity_cache_hits", run.shared, cache="batch", **model)

    def waited(self, model_id: str, queue_ms: float) -> None:
        """Counts a request that has its results."""
        self._instruments.observe("similarity_queue_ms", queue_ms, **_model(model_id))

    def loaded(self, model_id: str, seconds: float) -> None:
        """Counts a load that went well."""
        model = _model(model_id)
        self._instruments.count("similarity_loads", code="ok", **model)
        self._instruments.observe("similarity_load_seconds", seconds, **model)

    def load_failed(self, model_id: str, code: str) -> None:
        """Counts a load that did not."""
        self._instruments.count("similarity_loads", code=code, **_model(model_id))

    def weights(self, model_id: str, *, downloaded: bool) -> None:
        """Counts weights from another machine; comes from the thread of a load."""
        name = "similarity_cache_misses" if downloaded else "similarity_cache_hits"
        self._loop.call_soon_threadsafe(
            lambda: self._instruments.count(name, cache="weights", **_model(model_id))
        )

    def _show_gpu(self) -> None:
        from serve_app.models.torch_runtime import gpu_memory

        for kind, size in gpu_memory().items():
            self._instruments.show("similarity_gpu_memory_bytes", size, kind=kind)


def _model(model_id: str) -> dict[str, str]:
    name, _, revision = model_id.partition("@")
    return {"model": name, "revision": revision}
