"""The deployment class of a replica pool: a shim that puts the engine behind a Serve handle."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from ray import serve

from serve_app.engine.local import LocalExecutor, build_local_executor
from serve_app.engine.work import EmbedOutcome, EmbedWork, ScoreOutcome, ScoreWork
from serve_app.errors import ModelError
from serve_app.models.base import ModelInfo
from serve_app.models.registry import RegistrySnapshot
from serve_app.serving.logs import log_to_serve

logger = logging.getLogger("serve_app.serving")


class PoolReplica:
    """One replica of a pool; several models are resident in it at once.

    Serve's multiplexing is used for the one thing it is good at: telling the router which replica
    holds which model. Loading, evicting and remembering failures is the engine's `ModelPool`.

    Args:
        pool: Name of the pool.
        snapshot: The models and their routing, frozen when the application was built.
        memory_bytes: Byte budget for loaded models; None: no budget.
        max_waiting: Most images and texts that wait for one model.
        log_level: Level of the application's log.
    """

    async def __init__(  # type: ignore[misc]  # Serve awaits constructors
        self,
        pool: str,
        snapshot: RegistrySnapshot,
        memory_bytes: int | None,
        max_waiting: int,
        log_level: str,
    ) -> None:
        log_to_serve(log_level)
        self._announcements: set[asyncio.Task[None]] = set()
        self._executor: LocalExecutor = build_local_executor(
            snapshot,
            memory_bytes=memory_bytes,
            max_waiting=max_waiting,
            on_loading=self._announce,
            on_unloaded=self._retract,
        )
        # What is routed here is resident before the replica is ready. If the default model fails,
        # this raises: Serve then keeps the replicas it has, and the deployment's status says why.
        # Another model's failure is remembered, and costs the default one nothing.
        for model in snapshot.preloaded():
            if model.spec.pool == pool:
                try:
                    await self._executor.describe(model.id)
                except ModelError:
                    if model.name == snapshot.default:
                        raise
                    logger.exception("%s could not be preloaded", model.id)

    async def describe(self, model_id: str) -> ModelInfo:
        """See `Executor.describe`."""
        return await self._executor.describe(model_id)

    async def score(self, work: ScoreWork) -> ScoreOutcome:
        """See `Executor.score`."""
        return await self._executor.score(work)

    async def embed(self, work: EmbedWork) -> EmbedOutcome:
        """See `Executor.embed`."""
        return await self._executor.embed(work)

    async def statistics(self) -> dict[str, Any]:
        """What this replica has done: its id, the models it holds and the batches it ran."""
        context = serve.get_replica_context()
        return {"replica": context.replica_id.unique_id, **self._executor.statistics()}

    def _announce(self, model_id: str) -> None:
        # Announced when a load begins, so that further requests for a cold id come here too
        # instead of making every replica load it.
        task = asyncio.ensure_future(self._multiplexed(model_id))
        self._announcements.add(task)
        task.add_done_callback(self._announcements.discard)

    def _retract(self, model_id: str) -> None:
        # Serve has no call for it: with no limit of its own it never forgets an id, and would
        # go on sending requests here for a model that is gone.
        wrapper = getattr(self, "__serve_multiplex_wrapper", None)
        if wrapper is not None:
            wrapper.models.pop(model_id, None)
            wrapper._push_multiplexed_replica_info = True

    @serve.multiplexed(max_num_models_per_replica=-1)  # type: ignore[untyped-decorator]
    async def _multiplexed(self, model_id: str) -> None:
        """Makes Serve announce the id; holds no model, so nothing can go wrong in it."""
