"""What a replica has loaded; knows neither requests nor batches nor backends.

Models are loaded before others are evicted for them, so a model that cannot be loaded costs no
good one its place. The byte budget must therefore leave the device room for one model more while
it loads; for two while a candidate of a rollout loads too. Where a load is known to take more than
the process can still have, it is refused: the kernel would end the process, and all models with it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable
from concurrent.futures import Executor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Literal

from serve_app.config.checkpoints import weights_file
from serve_app.engine.failures import LoadFailure, LoadFailures, as_load_error
from serve_app.engine.loading import LoadedModel, Loader
from serve_app.engine.memory import available_memory
from serve_app.engine.observer import EngineObserver, Unobserved
from serve_app.engine.threads import run_within
from serve_app.engine.vacancies import Vacancies
from serve_app.errors import (
    ModelTooLargeError,
    NotReadyError,
)
from serve_app.models.base import ModelInfo
from serve_app.models.registry import ResolvedModel
from serve_app.observability.telling import tell

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
    used_at: float
    leases: int = 0
    loaded: LoadedModel | None = None
    unwanted: bool = False
    queued_behind_candidates: bool = False
    freed: asyncio.Event = field(default_factory=asyncio.Event, repr=False)
    loading: asyncio.Task[LoadFailure | None] | None = field(default=None, repr=False)


class ModelPool:
    """Loaded models of one replica; all methods belong to one event loop.

    Args:
        load: Loads a model, in a thread.
        memory_bytes: Byte budget for resident models; None: no bound.
        unload_in: Runs `unload`, so that it comes after the batches that still use the model;
            None: the event loop's default threads.
        load_timeout_s: Seconds until a load counts as failed, where the spec does not say.
        idle_ttl_s: Seconds after which `unload_idle` unloads what nobody used; None: never.
        listeners: Who is told what is loaded.
        observer: Is told how loads went.
        clock: Steady seconds; decides when a failed load may be tried again, and what is idle.
        available_bytes: What the process can still take, for models on a CPU.
    """

    def __init__(
        self,
        load: Loader,
        memory_bytes: int | None = None,
        *,
        unload_in: Executor | None = None,
        load_timeout_s: float = 600.0,
        idle_ttl_s: float | None = None,
        listeners: PoolListeners | None = None,
        observer: EngineObserver | None = None,
        clock: Callable[[], float] = time.monotonic,
        available_bytes: Callable[[], int] = available_memory,
    ) -> None:
        self._load = load
        self._budget = memory_bytes
        self._unload_in = unload_in
        self._load_timeout_s = load_timeout_s
        self._idle_ttl_s = idle_ttl_s
        self._clock = clock
        self._available_bytes = available_bytes
        self._listeners = listeners or PoolListeners()
        self._observer = observer or Unobserved()
        self._entries: dict[str, _Entry] = {}  # least recently used first
        self._failures = LoadFailures(clock)
        self._measured: dict[str, int] = {}  # bytes of every model that was ever loaded
        self._pinned: frozenset[str] = frozenset()
        # Two loads at once need twice the headroom. Candidates have a lock of their own: one that
        # hangs until its deadline must not keep a model from being loaded that somebody waits for.
        self._one_load = asyncio.Lock()
        self._one_background_load = asyncio.Lock()
        self._vacancies = Vacancies()
        self._loads: Counter[str] = Counter()
        self._unloading: set[asyncio.Future[None]] = set()
        self._closed = False

    @asynccontextmanager
    async def lease(
        self, model: ResolvedModel, *, background: bool = False
    ) -> AsyncIterator[LoadedModel]:
        """Gives the model, loaded; it stays so while the context is open.

        However many ask for a model that is not resident, it is loaded once; one of them being
        cancelled changes nothing for the others.

        Args:
            model: Which.
            background: Whether nobody waits for an answer: its load then holds up no other's.

        Raises:
            ModelLoadError: It could not be loaded, now or a short while ago.
            ModelTooLargeError: It does not fit into the byte budget.
            ModelReplacedError: It has made room for its successor meanwhile.
            NotReadyError: The pool is closed.
        """
        await self._vacancies.over(model.id)
        entry = self._entry(model, background)
        entry.leases += 1
        try:
            while entry.loading is not None:
                await self._wait(entry.loading)
            if entry.loaded is None:
                raise NotReadyError("The replica shuts down.")
            yield entry.loaded
        finally:
            entry.leases -= 1
            entry.used_at = self._clock()
            if not entry.leases:
                entry.freed.set()
                if entry.unwanted and entry.loaded:  # else its load says so when it ends
                    self._drop(entry)
            self._evict()

    async def vacate(self, model_id: str) -> None:
        """Unloads a model to make room for its successor, once nobody uses it any longer.

        From now until `reopen`, whoever asks for it waits.
        """
        self._vacancies.begin(model_id)
        entry = self._entries.get(model_id)
        if entry is not None:
            await _until_free(entry)
            self._drop(entry)
        if self._unloading:
            await asyncio.wait(self._unloading, timeout=_UNLOAD_WITHIN_S)

    def reopen(self, model_id: str, *, superseded: bool) -> None:
        """Ends a vacancy.

        Args:
            model_id: Which.
            superseded: Whether the successor answers now: those who wait are told so. Else the
                model may be loaded again.
        """
        self._vacancies.end(model_id, superseded=superseded)

    def retry(self, model_id: str) -> None:
        """Forgets why a model could not be loaded: the next lease tries at once."""
        self._failures.forget(model_id)

    def keep_only(self, model_ids: Iterable[str]) -> None:
        """Unloads all models that nobody can ask for any longer, now or when their leases end."""
        known = set(model_ids)
        for entry in list(self._entries.values()):
            entry.unwanted = entry.model.id not in known
            if entry.unwanted and not entry.leases and entry.loaded:
                self._drop(entry)
        for model_id in self._failures.reasons():
            if model_id not in known:
                self._failures.forget(model_id)
        self._measured = {key: size for key, size in self._measured.items() if key in known}

    def unload_idle(self) -> None:
        """Unloads what nobody used for `idle_ttl_s`; what is pinned or in use stays."""
        if self._idle_ttl_s is None:
            return
        limit = self._clock() - self._idle_ttl_s
        for entry in list(self._entries.values()):
            free = entry.loaded and not entry.leases and entry.model.id not in self._pinned
            if free and entry.used_at < limit:
                logger.info("%s was not used for %g s", entry.model.id, self._idle_ttl_s)
                self._drop(entry)

    def leases(self) -> dict[str, int]:
        """How many use each model that is loaded or being loaded, by id."""
        return {model_id: entry.leases for model_id, entry in self._entries.items()}

    def notes(self) -> dict[str, str]:
        """What is worth knowing about loaded models, by id."""
        loaded = ((key, entry.loaded) for key, entry in self._entries.items())
        return {key: item.note for key, item in loaded if item is not None and item.note}

    def load_counts(self) -> dict[str, int]:
        """How often each model was loaded, by id."""
        return dict(self._loads)

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
        self._vacancies.end_all()
        for entry in list(self._entries.values()):
            if entry.loading is not None:
                entry.loading.cancel()
                entry.loading = None
            entry.freed.set()
            self._drop(entry)
        if self._unloading:
            await asyncio.wait(self._unloading, timeout=_UNLOAD_WITHIN_S)

    def _entry(self, model: ResolvedModel, background: bool) -> _Entry:
        if self._closed:
            raise NotReadyError("The replica shuts down.")
        entry = self._entries.pop(model.id, None)
        if entry is None:
            if failure := self._failures.blocking(model.id):
                raise self._failures.error_of(failure)
            entry = _Entry(model, self._clock())
            # Told first: a load that fails at once must be told after it.
            self._tell(self._listeners.on_loading, model.id)
            entry.queued_behind_candidates = background
            lock = self._one_background_load if background else self._one_load
            entry.loading = asyncio.create_task(self._bring_in(entry, lock))
        elif entry.queued_behind_candidates and entry.loading is not None and not background:
            # Now somebody waits for it, and the candidate that is loaded before it may hang.
            entry.queued_behind_candidates = False
            entry.loading.cancel()
            entry.loading = asyncio.create_task(self._bring_in(entry, self._one_load))
        self._entries[model.id] = entry  # last: used most recently
        return entry

    async def _wait(self, loading: asyncio.Task[LoadFailure | None]) -> None:
        # Not `await loading`: who is cancelled here must not cancel the load for the others.
        await asyncio.wait({loading})
        failure = None if loading.cancelled() else loading.result()
        if failure is not None:
            raise self._failures.error_of(failure)

    async def _bring_in(self, entry: _Entry, lock: asyncio.Lock) -> LoadFailure | None:
        """Loads. Returns the failure, as perhaps nobody waits any longer who could catch it."""
        model_id = entry.model.id
        try:
            with self._vacancies.passing() as keep_out:
                async with lock:
                    entry.queued_behind_candidates = False
                    await self._make_room(entry.model, keep_out)
                    loaded = await self._loaded(entry.model)
                self._failures.forget(model_id)
                entry.loaded, entry.loading = loaded, None
                self._tell(self._listeners.on_loaded, model_id)
                tell(lambda: self._observer.loaded(model_id, loaded.info.load_seconds))
                if entry.unwanted and not entry.leases:
                    self._drop(entry)
                self._evict()
            return None
        except Exception as error:
            logger.warning("model %s could not be loaded", model_id, exc_info=error)
            cause = as_load_error(model_id, error)
            tell(lambda: self._observer.load_failed(model_id, cause.code))
            failure = self._failures.add(model_id, cause)
            if entry.unwanted:
                self._failures.forget(model_id)
            entry.loading = None
            self._drop(entry)
            return failure
        finally:
            entry.freed.set()

    async def _make_room(self, model: ResolvedModel, keep_out: Listener) -> None:
        """Waits until what is in use leaves room for this model.

        A model under steady use is never free by itself: who asks for it newly waits until this
        one is loaded. It is evicted then, and not before: this one may fail.

        Args:
            model: What is to be loaded.
            keep_out: Is told which models are asked for in vain meanwhile.
        """
        if self._unloading:
            await asyncio.wait(set(self._unloading), timeout=_UNLOAD_WITHIN_S)
        size = self._known_bytes(model)
        self._check_fits(model.id, size)  # else others would make room in vain
        while (other := self._in_the_way(size)) is not None:
            keep_out(other.model.id)
            await _until_free(other)

    def _in_the_way(self, size: int) -> _Entry | None:
        """The least recently used model of those in use, where these leave no room."""
        held = [entry for entry in self._entries.values() if entry.loaded]
        stay = [entry for entry in held if entry.leases or entry.model.id in self._pinned]
        used = sum(entry.loaded.info.bytes for entry in stay if entry.loaded)
        if self._budget is None or used + size <= self._budget:
            return None
        taken = (self._pinned, self._vacancies)
        movable = (e for e in stay if not any(e.model.id in ids for ids in taken))
        return next(movable, None)

    async def _loaded(self, model: ResolvedModel) -> LoadedModel:
        self._check_fits(model.id, known := self._known_bytes(model))
        self._loads[model.id] += 1
        loaded = await run_within(
            model.spec.load_timeout_s or self._load_timeout_s,
            lambda: self._load_if_there_is_memory(model, known),
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

    def _known_bytes(self, model: ResolvedModel) -> int:
        """What a model will take; 0 where nothing is known."""
        return model.spec.performance.bytes or self._measured.get(model.id, 0)

    def _load_if_there_is_memory(self, model: ResolvedModel, known: int) -> LoadedModel:
        if model.placement.device == "cpu":
            size = known or _checkpoint_bytes(model)
            available = self._available_bytes() if size else 0
            if size > available:
                raise ModelTooLargeError(
                    f"{model.id} takes {size} bytes or more, but this process can have only "
                    f"{available} more: loading it would end the process and all its models. Give "
                    "the replica more memory, or a lower `memory_bytes`, or choose a smaller "
                    "model; where it takes less than its file, say so as `performance.bytes`."
                )
        return self._load(model)

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


def _checkpoint_bytes(model: ResolvedModel) -> int:
    """The least that a model takes whose weights are a file here; 0 where nothing is known."""
    path = weights_file(model.spec.pretrained) if model.spec.pretrained else None
    size = path.stat().st_size if path is not None else 0
    return size if model.placement.precision == "fp32" else size // 2  # the file may be fp32


async def _until_free(entry: _Entry) -> None:
    while entry.leases or entry.loading is not None:
        entry.freed.clear()
        await entry.freed.wait()


def _unload_safely(loaded: LoadedModel) -> None:
    try:
        loaded.unload()
    except Exception:
        logger.exception("unloading %s failed", loaded.info.id)
