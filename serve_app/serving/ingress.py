"""The deployment class of the ingress: it decides and shapes, and never runs a model."""

from __future__ import annotations

import logging
from typing import Any

from fastapi import FastAPI
from ray import serve
from ray.serve.handle import DeploymentHandle

from serve_app.config.args import AppArgs
from serve_app.control.members import Member
from serve_app.control.snapshot import ServingSnapshot
from serve_app.engine.experiment_counts import ExperimentCounts
from serve_app.errors import NotReadyError
from serve_app.inputs.fetch import fetcher
from serve_app.models.snapshot import ResolvedModel
from serve_app.serving.access_log import AccessLog
from serve_app.serving.admin import add_admin
from serve_app.serving.api import create_api
from serve_app.serving.control_link import RayControlLink
from serve_app.serving.follower import Follower
from serve_app.serving.gate import Gate
from serve_app.serving.inventory import replicas_answer
from serve_app.serving.load import Load
from serve_app.serving.logs import log_to_serve
from serve_app.serving.metrics import IngressMetrics
from serve_app.serving.ray_executor import RayExecutor
from serve_app.serving.service import PipelineService

logger = logging.getLogger("serve_app.serving")

_COUNTS_WITHIN_S = 5.0


@serve.ingress()
class Ingress(PipelineService):
    """Front of the application, over HTTP and for handle calls from other Ray jobs.

    Both enter the same typed methods, so nothing bypasses planning and limits. What is served it
    hears from the control plane; while that is gone, it goes on with what it heard last.

    Args:
        args: The application's arguments.
        control: Handle of the control plane.
        pools: Pool name → handle of its deployment.
        operated: Whether there are admin routes.
        fetch_hosts: Hosts that images are fetched from, empty for any; None: none are fetched.
    """

    async def __init__(  # type: ignore[misc]  # Serve awaits constructors
        self,
        args: AppArgs,
        control: DeploymentHandle[Any],
        pools: dict[str, DeploymentHandle[Any]],
        operated: bool = False,
        fetch_hosts: tuple[str, ...] | None = None,
    ) -> None:
        log_to_serve(args.log_level)
        self._args = args
        self._operated = operated
        self._siblings: DeploymentHandle[Any] | None = None
        self._control = RayControlLink(control)
        me = serve.get_replica_context().replica_id.unique_id
        self._ray_executor: RayExecutor | None = None
        follower = Follower(self._control, Member(f"ingress-{me}", "ingress"), self._follow)
        snapshot = await follower.join()
        self._ray_executor = RayExecutor(snapshot, pools)
        self._http_metrics = metrics = IngressMetrics()
        self._gate = Gate(snapshot.access, snapshot.ingresses, metrics.refused)
        self._load = Load(args.ingress.max_ongoing_requests, args.limits.max_bodies_bytes)
        metrics.watch(self._load)
        super().__init__(
            snapshot,
            self._ray_executor,
            args.limits,
            args.ingress.decode_threads,
            metrics,
            fetch=None if fetch_hosts is None else fetcher(fetch_hosts, args.limits).fetch,
        )
        follower.start()

    def __serve_build_asgi_app__(self) -> FastAPI:
        api = create_api(
            self,
            self._args.limits,
            self._load,
            gate=self._gate,
            answers_request_id=False,
            on_finished=(self._http_metrics.finished, AccessLog(self._args.access_log).note),
        )
        if self._operated:
            add_admin(api, self._control)
        return api

    def _follow(self, snapshot: ServingSnapshot) -> None:
        if self._ray_executor is not None:  # else it is the first, with which all begins
            # The executor first: what a request may be routed to it must know.
            self._ray_executor.update(snapshot)
            self.update(snapshot)
            self._gate.update(snapshot.access, snapshot.ingresses)

    async def _replicas(self, model: ResolvedModel) -> list[dict[str, Any]] | None:
        try:
            return replicas_answer(model, await self._control.describe())
        except NotReadyError:
            return None

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
