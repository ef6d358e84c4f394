"""The `Executor` over Ray Serve handles: one hop to the pool that holds a model."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

import grpc
from ray.exceptions import ActorDiedError, ActorUnavailableError, RayTaskError
from ray.serve.exceptions import (
    BackPressureError,
    DeploymentUnavailableError,
    ReplicaUnavailableError,
)
from ray.serve.handle import DeploymentHandle

from serve_app.engine.work import EmbedOutcome, EmbedWork, ScoreOutcome, ScoreWork
from serve_app.errors import NotReadyError, OverloadedError, ServeAppError, UnexpectedError
from serve_app.models.base import ModelInfo
from serve_app.models.snapshot import Snapshot

logger = logging.getLogger("serve_app.serving")

_LOST_REPLICA = (ActorDiedError, ActorUnavailableError, ReplicaUnavailableError, grpc.RpcError)

_MOST_BY_VALUE_BYTES = 2 << 20
"""Half of what a replica takes in one gRPC message; what is larger goes through Ray's objects."""
_MOST_EMBEDDING_BYTES = 4 * 8192


class RayExecutor:
    """Sends work to the pool of its model.

    Args:
        snapshot: Says which pool holds which model.
        handles: Pool name → handle of its deployment.
    """

    def __init__(self, snapshot: Snapshot, handles: Mapping[str, DeploymentHandle[Any]]) -> None:
        self._snapshot = snapshot
        self._handles = handles
        # `.options()` builds a new router client each time, too dear to do per request.
        self._configured: dict[tuple[str, str, bool], DeploymentHandle[Any]] = {}

    def update(self, snapshot: Snapshot) -> None:
        """Swaps the models; requests in progress keep the handles that they have."""
        before, self._snapshot = self._snapshot, snapshot
        pools = {model.id: model.spec.pool for model in snapshot.addressable()}
        moved = {m.id for m in before.addressable() if pools.get(m.id) != m.spec.pool}
        for key in tuple(self._configured):
            if key[0] in moved or key[0] not in pools:
                del self._configured[key]

    async def describe(self, model_id: str) -> ModelInfo:
        """See `Executor.describe`."""
        info: ModelInfo = await self._call(model_id, "describe", model_id)
        return info

    async def score(self, work: ScoreWork) -> ScoreOutcome:
        """See `Executor.score`."""
        large = _size(work) > _MOST_BY_VALUE_BYTES
        outcome: ScoreOutcome = await self._call(
            work.model_id, "score", work, shadow=work.shadow, large=large
        )
        return outcome

    async def embed(self, work: EmbedWork) -> EmbedOutcome:
        """See `Executor.embed`."""
        answer = _MOST_EMBEDDING_BYTES * (len(work.images) + len(work.texts))
        large = max(_size(work), answer) > _MOST_BY_VALUE_BYTES
        outcome: EmbedOutcome = await self._call(
            work.model_id, "embed", work, shadow=work.shadow, large=large
        )
        return outcome

    def _handle(self, model_id: str, method: str, large: bool) -> DeploymentHandle[Any]:
        handle = self._configured.get((model_id, method, large))
        if handle is None:
            pool = self._snapshot.by_id(model_id).spec.pool
            # By value (gRPC straight to the replica) is faster; and with Ray's objects a replica
            # stands still, after a node has died, until Ray knows that those who asked are gone.
            handle = self._handles[pool].options(
                method_name=method, multiplexed_model_id=model_id, _by_reference=large
            )
            self._configured[model_id, method, large] = handle
        return handle

    async def _call(
        self,
        model_id: str,
        method: str,
        argument: Any,
        *,
        shadow: bool = False,
        large: bool = False,
    ) -> Any:
        handle = self._handle(model_id, method, large)
        try:
            try:
                return await _answer(handle, argument)
            except _LOST_REPLICA as lost:
                if shadow:
                    raise
                # Scoring changes nothing, so it is safe to do again; once, on another replica. What
                # was too large for a message goes the other way.
                again = self._handle(model_id, method, large or _too_large(lost))
                logger.warning(
                    "replica lost (%s); trying %s once more", type(lost).__name__, method
                )
                return await _answer(again, argument)
        except RayTaskError as error:
            cause = error.cause
            if isinstance(cause, ServeAppError):
                raise cause from None
            if not shadow:  # whoever sent it counts its failures
                logger.exception("%s failed in a replica", method)
            raise UnexpectedError(
                f"A replica failed in an unexpected way ({type(cause).__name__}); see the log."
            ) from error
        except BackPressureError as error:
            raise OverloadedError("All replicas have full queues; try again.") from error
        except (DeploymentUnavailableError, *_LOST_REPLICA) as error:
            raise NotReadyError(
                "No replica of the model's pool is available; try again."
            ) from error


def _size(work: ScoreWork | EmbedWork) -> int:
    """About how many bytes cross."""
    return sum(image.nbytes for image in work.images) + sum(map(len, work.texts))


def _too_large(error: BaseException) -> bool:
    return isinstance(error, grpc.aio.AioRpcError) and (
        error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    )


async def _answer(handle: DeploymentHandle[Any], argument: Any) -> Any:
    response = handle.remote(argument)
    try:
        return await response
    except asyncio.CancelledError:
        response.cancel()  # nobody waits for it any more; else it would hold its place and compute
        raise
