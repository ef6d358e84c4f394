"""The `Executor` over Ray Serve handles: one hop to the pool that holds a model."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

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
from serve_app.models.registry import RegistrySnapshot

logger = logging.getLogger("serve_app.serving")

_LOST_REPLICA = (ActorDiedError, ActorUnavailableError, ReplicaUnavailableError)


class RayExecutor:
    """Sends work to the pool of its model.

    Args:
        snapshot: Says which pool holds which model.
        handles: Pool name → handle of its deployment.
    """

    def __init__(
        self, snapshot: RegistrySnapshot, handles: Mapping[str, DeploymentHandle[Any]]
    ) -> None:
        self._snapshot = snapshot
        self._handles = handles
        # `.options()` builds a new router client each time, too dear to do per request.
        self._configured: dict[tuple[str, str], DeploymentHandle[Any]] = {}

    async def describe(self, model_id: str) -> ModelInfo:
        """See `Executor.describe`."""
        info: ModelInfo = await self._call(model_id, "describe", model_id)
        return info

    async def score(self, work: ScoreWork) -> ScoreOutcome:
        """See `Executor.score`."""
        outcome: ScoreOutcome = await self._call(work.model_id, "score", work, work.shadow)
        return outcome

    async def embed(self, work: EmbedWork) -> EmbedOutcome:
        """See `Executor.embed`."""
        outcome: EmbedOutcome = await self._call(work.model_id, "embed", work, work.shadow)
        return outcome

    def _handle(self, model_id: str, method: str) -> DeploymentHandle[Any]:
        handle = self._configured.get((model_id, method))
        if handle is None:
            pool = self._snapshot.by_id(model_id).spec.pool
            handle = self._handles[pool].options(method_name=method, multiplexed_model_id=model_id)
            self._configured[model_id, method] = handle
        return handle

    async def _call(self, model_id: str, method: str, argument: Any, shadow: bool = False) -> Any:
        handle = self._handle(model_id, method)
        try:
            try:
                return await _answer(handle, argument)
            except _LOST_REPLICA as lost:
                if shadow:
                    raise
                # Scoring changes nothing, so it is safe to do again; once, on another replica.
                logger.warning(
                    "replica lost (%s); trying %s once more", type(lost).__name__, method
                )
                return await _answer(handle, argument)
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


async def _answer(handle: DeploymentHandle[Any], argument: Any) -> Any:
    response = handle.remote(argument)
    try:
        return await response
    except asyncio.CancelledError:
        response.cancel()  # nobody waits for it any more; else it would hold its place and compute
        raise
