"""The deployment class of a replica pool: a shim that puts the engine behind a Serve handle."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from dataclasses import asdict
from typing import Any

from ray import serve
from ray.serve.handle import DeploymentHandle

from serve_app.config.args import PoolArgs
from serve_app.config.declaration import CacheSettings
from serve_app.control.members import Member, MemberReport, ModelReport
from serve_app.control.snapshot import ServingSnapshot
from serve_app.engine.local import LocalExecutor, build_local_executor
from serve_app.engine.residents import Residents
from serve_app.engine.work import EmbedOutcome, EmbedWork, ScoreOutcome, ScoreWork
from serve_app.models.base import ModelInfo
from serve_app.models.snapshot import ResolvedModel
from serve_app.serving.control_link import RayControlLink
from serve_app.serving.follower import Follower
from serve_app.serving.logs import log_to_serve
from serve_app.serving.replica_metrics import ReplicaMetrics
from serve_app.weights.cache import cache_of

logger = logging.getLogger("serve_app.serving")

_LOOKS_FOR_IDLE_S = 10.0


class PoolReplica:
    """One replica of a pool; several models are resident in it at once.

    Serve's multiplexing is used for the one thing it is good at: telling the router which replica
    holds which model. Loading, evicting and remembering failures is the engine's `ModelPool`; what
    is to be held says the control plane.

    Args:
        pool: The pool.
        control: Handle of the control plane.
        max_waiting: Most images and texts that wait for one model.
        log_level: Level of the application's log.
        cache: Where weights from other machines are kept on this node.
        gpu: Whether the pool computes on one.
    """

    async def __init__(  # type: ignore[misc]  # Serve awaits constructors
        self,
        pool: PoolArgs,
        control: DeploymentHandle[Any],
        max_waiting: int,
        log_level: str,
        cache: CacheSettings,
        *,
        gpu: bool = False,
    ) -> None:
        log_to_serve(log_level)
        self._pool = pool.name
        self._id = serve.get_replica_context().replica_id.unique_id
        self._announcements: set[asyncio.Task[None]] = set()
        metrics = ReplicaMetrics(pool.name, gpu=gpu)
        self._executor: LocalExecutor = build_local_executor(
            None,
            memory_bytes=pool.memory_bytes,
            idle_ttl_s=pool.idle_ttl_s,
            max_waiting=max_waiting,
            cache=cache_of(cache),
            on_loading=self._announce,
            on_unloaded=self._retract,
            observer=metrics,
        )
        metrics.watch(self._executor)
        self._residents = Residents(self._executor.pool, self._changed, self._announce_report)
        self._member = Member(f"{pool.name}-{self._id}", "pool", pool.name)
        self._follower = Follower(RayControlLink(control), self._member, self._update, self._report)
        await self._hold(await self._follower.current())
        # Not a member until everything is there: a rollback must not wait for a start. From now on
        # nothing is switched to before this replica holds it.
        await self._hold(await self._follower.join())
        self._follower.start()
        if pool.idle_ttl_s is not None:
            self._idle = asyncio.get_running_loop().create_task(
                self._unload_idle(), context=contextvars.Context()
            )

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
        return {"replica": self._id, **self._executor.statistics()}

    async def _hold(self, snapshot: ServingSnapshot) -> None:
        """Loads what every replica of this pool is to hold before it is ready.

        If the default model fails, this raises: Serve then keeps the replicas it has, and the
        deployment's status says why. Another model's failure is remembered and reported.
        """
        await self._residents.load(
            self._resident(snapshot), needed=snapshot.models[snapshot.default].id
        )

    def _update(self, snapshot: ServingSnapshot) -> None:
        candidates = {
            candidate.model: candidate.attempt
            for candidate in snapshot.candidates_for(self._pool, self._member.id)
        }
        self._executor.update(snapshot, candidates)
        self._residents.want(self._resident(snapshot), candidates)

    def _resident(self, snapshot: ServingSnapshot) -> list[ResolvedModel]:
        return [model for model in snapshot.preloaded() if model.spec.pool == self._pool]

    def _report(self) -> MemberReport:
        snapshot = self._follower.snapshot
        known = [] if snapshot is None else [model.id for model in snapshot.addressable()]
        held = self._residents.states(known)
        return {model_id: ModelReport(**asdict(state)) for model_id, state in held.items()}

    def _changed(self) -> None:
        self._follower.report_soon()

    async def _announce_report(self) -> None:
        await self._follower.report_now()

    async def _unload_idle(self) -> None:
        while True:
            await asyncio.sleep(_LOOKS_FOR_IDLE_S)
            self._executor.pool.unload_idle()

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
