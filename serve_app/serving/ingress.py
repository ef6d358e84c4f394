"""The deployment class of the ingress: it decides and shapes, and never runs a model."""

from __future__ import annotations

import logging
from typing import Any

from fastapi import FastAPI
from ray import serve
from ray.serve.handle import DeploymentHandle

from serve_app.config.args import AppArgs
from serve_app.engine.experiment_counts import ExperimentCounts
from serve_app.models.registry import RegistrySnapshot
from serve_app.serving.api import create_api
from serve_app.serving.logs import log_to_serve
from serve_app.serving.metrics import RayMetrics
from serve_app.serving.ray_executor import RayExecutor
from serve_app.serving.service import PipelineService

logger = logging.getLogger("serve_app.serving")

_COUNTS_WITHIN_S = 5.0


@serve.ingress()
class Ingress(PipelineService):
    """Front of the application, over HTTP and for handle calls from other Ray jobs.

    Both enter the same typed methods, so nothing bypasses planning and limits.

    Args:
        args: The application's arguments.
        snapshot: The models and their routing, frozen when the application was built.
        pools: Pool name → handle of its deployment.
    """

    def __init__(
        self, args: AppArgs, snapshot: RegistrySnapshot, pools: dict[str, DeploymentHandle[Any]]
    ) -> None:
        log_to_serve(args.log_level)
        executor = RayExecutor(snapshot, pools)
        super().__init__(snapshot, executor, args.limits, args.ingress.decode_threads, RayMetrics())
        self._args = args
        self._siblings: DeploymentHandle[Any] | None = None

    def __serve_build_asgi_app__(self) -> FastAPI:
        bound = self._args.ingress.max_ongoing_requests
        return create_api(self, self._args.limits, bound, answers_request_id=False)

    async def _everyones_counts(self) -> list[ExperimentCounts]:
        # One that is just starting or ending has little to tell: it is left out, and the answer
        # says of how many replicas it is.
        if self._siblings is None:
            me = serve.get_replica_context()
            self._siblings = serve.get_deployment_handle(me.deployment, app_name=me.app_name)
        try:
            answers = await self._siblings.broadcast("experiment_counts").results_async(
                timeout_s=_COUNTS_WITHIN_S, return_exceptions=True
            )
        except Exception:
            logger.warning("the other ingress replicas cannot be asked", exc_info=True)
            answers = []
        found = [answer for answer in answers if isinstance(answer, ExperimentCounts)]
        return found or await super()._everyones_counts()
