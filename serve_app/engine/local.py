"""The `Executor` that computes in this process; knows no transport and no encoded image."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np

from serve_app.engine.batcher import BatchOutcome, MicroBatcher
from serve_app.engine.lanes import IMAGE, PAIR, TEXT, EncodedText, ScoredPair, lanes_of
from serve_app.engine.loading import LoadedModel, Loader, model_loader
from serve_app.engine.observer import BatchRun, EngineObserver, Unobserved
from serve_app.engine.pair_scores import asked_scores, pair_scores
from serve_app.engine.permit import DevicePermit
from serve_app.engine.pool import Listener, ModelPool, ModelState, PoolListeners
from serve_app.engine.work import EmbedOutcome, EmbedWork, ScoreOutcome, ScoreWork
from serve_app.errors import (
    ModelUnavailableError,
    OverloadedError,
    UnknownMetricError,
    UnsupportedOperationError,
)
from serve_app.models.base import DualEncoder, Embeddings, ModelInfo
from serve_app.models.factory import SimilarityModelFactory
from serve_app.models.snapshot import ResolvedModel, Snapshot
from serve_app.observability.telling import tell
from serve_app.observability.tracing import note, span
from serve_app.scoring.metrics import METRICS
from serve_app.types import ItemFault
from serve_app.weights.cache import WeightsCache


class LocalExecutor:
    """Runs work on models that are loaded in this process.

    Args:
        snapshot: The models; those it preloads stay resident once they are loaded. None: `update`
            says it before the first work.
        pool: Holds the models.
        permit: The device.
        max_waiting: Most images and texts that wait for one model.
        observer: Is told of batches and waits.
    """

    def __init__(
        self,
        snapshot: Snapshot | None,
        pool: ModelPool,
        permit: DevicePermit,
        max_waiting: int = 1024,
        observer: EngineObserver | None = None,
    ) -> None:
        self._observer = observer or Unobserved()
        self._pool = pool
        self._permit = permit
        self._max_waiting = max_waiting
        self._batchers: dict[str, tuple[LoadedModel, MicroBatcher]] = {}
        self._snapshot: Snapshot
        if snapshot is not None:
            self.update(snapshot)

    @property
    def pool(self) -> ModelPool:
        """Holds the models."""
        return self._pool

    def update(self, snapshot: Snapshot, candidates: Iterable[ResolvedModel] = ()) -> None:
        """Swaps the models. Work in progress keeps what it has.

        Args:
            snapshot: What may be asked for; what it preloads stays resident once it is loaded.
            candidates: Models that stay resident besides.
        """
        self._snapshot = snapshot
        self._pool.set_pinned(model.id for model in (*snapshot.preloaded(), *candidates))
        self._pool.keep_only(model.id for model in snapshot.addressable())

    @property
    def waiting(self) -> int:
        """Images, texts and pairs that wait for the device."""
        return sum(batcher.waiting for _, batcher in self._batchers.values())

    async def describe(self, model_id: str) -> ModelInfo:
        """See `Executor.describe`."""
        async with self._pool.lease(self._snapshot.by_id(model_id)) as loaded:
            return loaded.info

    async def score(self, work: ScoreWork) -> ScoreOutcome:
        """See `Executor.score`."""
        self._give_way(work)
        async with self._pool.lease(self._snapshot.by_id(work.model_id)) as loaded:
            _check_metrics(loaded.info, work.metrics)
            if isinstance(loaded.model, DualEncoder):
                return await self._score_embedded(loaded, loaded.model, work)
            return await self._score_pairs(loaded, work)

    async def embed(self, work: EmbedWork) -> EmbedOutcome:
        """See `Executor.embed`."""
        self._give_way(work)
        async with self._pool.lease(self._snapshot.by_id(work.model_id)) as loaded:
            dimension = loaded.info.capabilities.embedding_dim
            if not isinstance(loaded.model, DualEncoder) or dimension is None:
                raise UnsupportedOperationError(
                    f"{work.model_id} scores pairs and has no embeddings; choose a dual encoder."
                )
            batch = await self._submit(loaded, {IMAGE: work.images, TEXT: work.texts})
        images, texts = batch.results[IMAGE], batch.results[TEXT]
        _check_available((*images, *texts))
        return EmbedOutcome(
            images=_rows(images, dimension),
            texts=_rows([t if isinstance(t, ItemFault) else t.embedding for t in texts], dimension),
            image_faults=_faults(images),
            text_faults=_faults(texts),
            tokens=tuple(map(_tokens, texts)),
            queue_ms=batch.queue_ms,
            model_ms=batch.model_ms,
        )

    def states(self) -> dict[str, ModelState]:
        """State of every model that was asked for, by id."""
        return self._pool.states()

    def statistics(self) -> dict[str, Any]:
        """What was run: `models` (resident), `loads` (by id), `batches` (see `BatchStatistics`)."""
        return {
            "models": [info.id for info in self._pool.resident()],
            "loads": self._pool.load_counts(),
            "batches": {
                model_id: asdict(batcher.statistics)
                for model_id, (_, batcher) in self._batchers.items()
            },
        }

    async def close(self) -> None:
        """Unloads all models."""
        await self._pool.close()
        self._permit.close()

    def _give_way(self, work: ScoreWork | EmbedWork) -> None:
        """Refuses a shadow's work while anything waits for the device, which all models share."""
        waiting = self.waiting
        if work.shadow and waiting:
            raise OverloadedError(
                f"{waiting} images and texts are waiting for the device; shadows come after them."
            )

    def _batcher(self, loaded: LoadedModel) -> MicroBatcher:
        known = self._batchers.get(loaded.info.id)
        if known is not None and known[0] is loaded:
            return known[1]
        lanes = lanes_of(loaded.model, loaded.info.capabilities.max_batch)
        batcher = MicroBatcher(
            lanes,
            self._permit,
            self._max_waiting,
            on_batch=partial(self._note_batch, loaded.info.id),
        )
        self._batchers[loaded.info.id] = loaded, batcher
        return batcher

    async def _submit(
        self, loaded: LoadedModel, items: Mapping[str, Sequence[Any]]
    ) -> BatchOutcome:
        with span("batch", **{"similarity.model": loaded.info.id}):
            batch = await self._batcher(loaded).submit(items)
            note(queue_ms=batch.queue_ms, model_ms=batch.model_ms)
        tell(lambda: self._observer.waited(loaded.info.id, batch.queue_ms))
        return batch

    def _note_batch(self, model_id: str, run: BatchRun) -> None:
        tell(lambda: self._observer.batch(model_id, run))

    def forget(self, model_id: str) -> None:
        """Drops the batcher of a model that was unloaded; nothing waits in it without a lease."""
        self._batchers.pop(model_id, None)

    async def _score_embedded(
        self, loaded: LoadedModel, model: DualEncoder, work: ScoreWork
    ) -> ScoreOutcome:
        # A metric with a prefix needs other text embeddings; metrics without share theirs.
        prefixes = list(dict.fromkeys(METRICS[name].text_prefix for name in work.metrics))
        variants = list(dict.fromkeys(prefix + text for prefix in prefixes for text in work.texts))
        batch = await self._submit(loaded, {IMAGE: work.images, TEXT: variants})
        images: list[Any] = batch.results[IMAGE]
        _check_available((*images, *batch.results[TEXT]))
        texts: dict[str, Any] = dict(zip(variants, batch.results[TEXT], strict=True))
        scores = tuple(
            pair_scores(model, images[image], work.texts[text], texts, work.metrics)
            for image, text in work.pairs
        )
        tokens = tuple(
            max((_tokens(texts[prefix + text]) for prefix in prefixes), default=0)
            for text in work.texts
        )
        return ScoreOutcome(scores, tokens, batch.queue_ms, batch.model_ms)

    async def _score_pairs(self, loaded: LoadedModel, work: ScoreWork) -> ScoreOutcome:
        pairs = [(work.images[image], work.texts[text]) for image, text in work.pairs]
        batch = await self._submit(loaded, {PAIR: pairs})
        found: list[ScoredPair | ItemFault] = batch.results[PAIR]
        _check_available(found)
        tokens = [0] * len(work.texts)
        for (_, text), pair in zip(work.pairs, found, strict=True):
            if isinstance(pair, ScoredPair):
                tokens[text] = pair.tokens
        scores = tuple(
            pair if isinstance(pair, ItemFault) else asked_scores(pair.scores, work.metrics)
            for pair in found
        )
        return ScoreOutcome(scores, tuple(tokens), batch.queue_ms, batch.model_ms)


def build_local_executor(
    snapshot: Snapshot | None,
    memory_bytes: int | None = None,
    *,
    on_loading: Listener | None = None,
    on_loaded: Listener | None = None,
    on_unloaded: Listener | None = None,
    load_timeout_s: float = 600.0,
    idle_ttl_s: float | None = None,
    max_waiting: int = 1024,
    load: Loader | None = None,
    cache: WeightsCache | None = None,
    observer: EngineObserver | None = None,
) -> LocalExecutor:
    """Wires an executor: model pool, factory and device. Needs no running event loop.

    Args:
        snapshot: See `LocalExecutor`.
        memory_bytes: Byte budget for loaded models; None: no bound.
        on_loading: Is told the id when a load begins.
        on_loaded: Is told the id when a model is resident.
        on_unloaded: Is told the id when a model was evicted, or its load failed.
        load_timeout_s: Seconds until a load counts as failed, where the spec does not say.
        idle_ttl_s: Seconds after which `pool.unload_idle` unloads what nobody used; None: never.
        max_waiting: Most images and texts that wait for one model.
        load: Loads a model; default: the built-in and installed backends.
        cache: Where these keep weights from other machines.
        observer: Is told of loads, batches and waits.
    """
    permit = DevicePermit()

    def unloaded(model_id: str) -> None:
        executor.forget(model_id)
        if on_unloaded is not None:
            on_unloaded(model_id)

    pool = ModelPool(
        load or model_loader(SimilarityModelFactory(), cache, observer),
        memory_bytes,
        unload_in=permit.threads,
        load_timeout_s=load_timeout_s,
        idle_ttl_s=idle_ttl_s,
        listeners=PoolListeners(on_loading, on_loaded, unloaded),
        observer=observer,
    )
    executor = LocalExecutor(snapshot, pool, permit, max_waiting, observer)
    return executor


def _check_metrics(info: ModelInfo, metrics: Sequence[str]) -> None:
    known = info.capabilities.metrics
    unknown = [name for name in metrics if name not in known]
    if unknown:
        raise UnknownMetricError(
            f"{info.id} has no metric {', '.join(map(repr, unknown))}; it has {', '.join(known)}."
        )


def _check_available(results: Sequence[Any]) -> None:
    """Raises `ModelUnavailableError` where no item has a result because of that."""
    codes = {item.code if isinstance(item, ItemFault) else None for item in results}
    if codes == {ModelUnavailableError.code}:
        raise ModelUnavailableError(results[0].detail)


def _tokens(text: EncodedText | ItemFault) -> int:
    return 0 if isinstance(text, ItemFault) else text.tokens


def _rows(found: Sequence[Any], dimension: int) -> Embeddings:
    """One row per item; that of a fault is zero and means nothing."""
    rows = np.zeros((len(found), dimension), dtype=np.float32)
    for index, row in enumerate(found):
        if not isinstance(row, ItemFault):
            rows[index] = row
    return rows


def _faults(found: Sequence[Any]) -> dict[int, ItemFault]:
    return {index: row for index, row in enumerate(found) if isinstance(row, ItemFault)}
