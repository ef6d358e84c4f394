"""What a replica has loaded; knows neither requests nor batches nor backends.

Models are loaded before others are evicted for them, so a model that cannot be loaded costs no
good one its place. The byte budget must therefore leave the device room for one model more while
it loads.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterable
from concurrent.futures import Executor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Literal

from serve_app.engine.failures import LoadFailure, LoadFailures
from serve_app.engine.loading import LoadedModel, Loader
from serve_app.engine.threads import run_within
from serve_app.errors import (
    DeadlineExceededError,
    ModelLoadError,
    ModelTooLargeError,
    NotReadyError,
)
from serve_app.models.base import ModelInfo
from serve_app.models.registry import ResolvedModel

logger = logging.getLogger("serve_app.engine")

_UNLOAD_WITHIN_S = 10.0  # at the end: a batch that hangs must not keep the process


@dataclass(frozen=True, slots=True)
class ModelState:
    """Where one model stands in this replica; `reason` says why a load failed."""

    state: Literal["loading", "resident", "failed"]
    reason: str | None = None
    info: ModelInfo | None = None


Listener = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class PoolListeners:
    """Who is told what the pool holds.

    Attributes:
        on_loading: A load begins.
        on_loaded: The model is resident.
        on_unloaded: The model is not here: it was evicted, or its load failed.
    """

    on_loading: Listener | None = None
    on_loaded: Listener | None = None
    on_unloaded: Listener | None = None


@dataclass(slots=True, eq=False)
class _Entry:
    """A model that is resident or being loaded. Those who wait for the load hold leases too."""

    model: ResolvedModel
    leases: int = 0
    loaded: LoadedModel | None = None
    loading: asyncio.Task[LoadFailure | None] | None = field(default=None, repr=False)


class ModelPool:
    """Loaded models of one replica; all methods belong to one event loop.

    Args:
        load: Loads a model, in a thread.
        memory_bytes: Byte budget for resident models; None: no bound.
        unload_in: Runs `unload`, so that it comes after the batches that still use the model;
            None: the event loop's default threads.
        load_timeout_s: Seconds until a load counts as failed.
        listeners: Who is told what is loaded.
        clock: Steady seconds; decides when a failed load may be tried again.
    """

    def __init__(
        self,
        load: Loader,
        memory_bytes: int | None = None,
        *,
        unload_in: Executor | None = None,
        load_timeout_s: float = 600.0,
        listeners: PoolListeners | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._load = load
        self._budget = memory_bytes
        self._unload_in = unload_in
        self._load_timeout_s = load_timeout_s
        self._listeners = listeners or PoolListeners()
        self._entries: dict[str, _Entry] = {}  # least recently used first
        self._failures = LoadFailures(clock)
        self._measured: dict[str, int] = {}  # bytes of every model that was ever loaded
        self._pinned: frozenset[str] = frozenset()
        self._one_load = asyncio.Lock()  # two loads at once need twice the headroom
        self._unloading: set[asyncio.Future[None]] = set()
        self._closed = False

    @asynccontextmanager
    async def lease(self, model: ResolvedModel) -> AsyncIterator[LoadedModel]:
        """Gives the model, loaded; it stays so while the context is open.

        However many ask for a model that is not resident, it is loaded once; one of them being
        cancelled changes nothing for the others.

        Raises:
            ModelLoadError: It could not be loaded, now or a short while ago.
            ModelTooLargeError: It does not fit into the byte budget.
            NotReadyError: The pool is closed.
        """
        entry = self._entry(model)
        entry.leases += 1
        try:
            if entry.loading is not None:
                await self._wait(entry.loading)
            if entry.loaded is None:
                raise NotReadyError("The replica shuts down.")
            yield entry.loaded
        finally:
            entry.leases -= 1
            self._evict()

    def pin(self, model_id: str) -> None:
        """Keeps a model resident once it is loaded."""
        self._pinned |= {model_id}

    def unpin(self, model_id: str) -> None:
        """Lets a model be evicted again."""
        self._pinned -= {model_id}
        self._evict()

    def set_pinned(self, model_ids: Iterable[str]) -> None:
        """Pins these models and no others."""
        self._pinned = frozenset(model_ids)
        self._evict()

    def resident(self) -> tuple[ModelInfo, ...]:
        """Loaded models, least recently used first."""
        return tuple(entry.loaded.info for entry in self._entries.values() if entry.loaded)

    def states(self) -> dict[str, ModelState]:
        """State of every model that was asked for, by id; evicted ones are not listed."""
        states = {
            model_id: ModelState("failed", reason)
            for model_id, reason in self._failures.reasons().items()
        }
        for model_id, entry in self._entries.items():
            states[model_id] = (
                ModelState("resident", info=entry.loaded.info)
                if entry.loaded
                else ModelState("loading")
            )
        return states

    async def close(self) -> None:
        """Unloads everything and gives up loads; what is leased is unloaded all the same."""
        self._closed = True
        for entry in list(self._entries.values()):
            if entry.loading is not None:
                entry.loading.cancel()
            self._drop(entry)
        if self._unloading:
            await asyncio.wait(self._unloading, timeout=_UNLOAD_WITHIN_S)

    def _entry(self, model: ResolvedModel) -> _Entry:
        if self._closed:
            raise NotReadyError("The replica shuts down.")
        entry = self._entries.pop(model.id, None)
        if entry is None:
            if failure := self._failures.blocking(model.id):
                raise self._failures.error_of(failure)
            entry = _Entry(model)
            # Told first: a load that fails at once must be told after it.
            self._tell(self._listeners.on_loading, model.id)
            entry.loading = asyncio.create_task(self._bring_in(entry))
        self._entries[model.id] = entry  # last: used most recently
        return entry

    async def _wait(self, loading: asyncio.Task[LoadFailure | None]) -> None:
        # Not `await loading`: who is cancelled here must not cancel the load for the others.
        await asyncio.wait({loading})
        failure = None if loading.cancelled() else loading.result()
        if failure is not None:
            raise self._failures.error_of(failure)

    async def _bring_in(self, entry: _Entry) -> LoadFailure | None:
        """Loads. Returns the failure, as perhaps nobody waits any longer who could catch it."""
        model_id = entry.model.id
        try:
            loaded = await self._loaded(entry.model)
        except Exception as error:
            logger.warning("model %s could not be loaded", model_id, exc_info=error)
            failure = self._failures.add(model_id, _as_load_error(model_id, error))
            self._drop(entry)
            return failure
        self._failures.forget(model_id)
        entry.loaded, entry.loading = loaded, None
        self._tell(self._listeners.on_loaded, model_id)
        self._evict()
        return None

    async def _loaded(self, model: ResolvedModel) -> LoadedModel:
        async with self._one_load:
            estimate = model.spec.performance.bytes or self._measured.get(model.id)
            if estimate is not None:
                self._check_fits(model.id, estimate)
            loaded = await run_within(
                self._load_timeout_s,
                lambda: self._load(model),
                LoadedModel.unload,
                f"loading {model.id}",
            )
            self._measured[model.id] = loaded.info.bytes
            try:
                self._check_fits(model.id, loaded.info.bytes)
            except ModelTooLargeError:
                self._unload(loaded)
                raise
            return loaded

    def _check_fits(self, model_id: str, size: int) -> None:
        if self._budget is None:
            return
        pinned = sum(
            entry.loaded.info.bytes
            for entry in self._entries.values()
            if entry.loaded and entry.model.id in self._pinned and entry.model.id != model_id
        )
        if size > self._budget - pinned:
            kept = f", of which pinned models take {pinned}" if pinned else ""
            raise ModelTooLargeError(
                f"{model_id} takes {size} bytes, but the pool's budget (`memory_bytes`) is "
                f"{self._budget}{kept}. Raise the budget, or choose a smaller model or precision."
            )

    def _evict(self) -> None:
        """Unloads least recently used models until the budget holds.

        Leased models stay, and the budget is passed until their leases end.
        """
        if self._budget is None:
            return
        used = sum(info.bytes for info in self.resident())
        for entry in list(self._entries.values()):
            if used <= self._budget:
                return
            if entry.loaded and not entry.leases and entry.model.id not in self._pinned:
                used -= entry.loaded.info.bytes
                self._drop(entry)

    def _drop(self, entry: _Entry) -> None:
        if self._entries.get(entry.model.id) is not entry:
            return
        del self._entries[entry.model.id]
        self._tell(self._listeners.on_unloaded, entry.model.id)
        if entry.loaded is not None:
            loaded, entry.loaded = entry.loaded, None
            self._unload(loaded)

    def _unload(self, loaded: LoadedModel) -> None:
        future = asyncio.get_running_loop().run_in_executor(self._unload_in, _unload_safely, loaded)
        self._unloading.add(future)
        future.add_done_callback(self._unloading.discard)

    def _tell(self, listener: Listener | None, model_id: str) -> None:
        if listener is None:
            return
        try:
            listener(model_id)
        except Exception:  # a listener's fault is no reason to lose a model
            logger.exception("a listener of the model pool failed for %s", model_id)


def _unload_safely(loaded: LoadedModel) -> None:
    try:
        loaded.unload()
    except Exception:
        logger.exception("unloading %s failed", loaded.info.id)


def _as_load_error(model_id: str, error: Exception) -> ModelLoadError:
    if isinstance(error, ModelLoadError):
        return error
    if isinstance(error, DeadlineExceededError):
        said = error.detail
    else:
        said = f"{type(error).__name__}: {error}"
    wrapped = ModelLoadError(f"{model_id} could not be loaded: {said}.")
    wrapped.__cause__ = error
    return wrapped
