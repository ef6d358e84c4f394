"""The deployment class of the ingress: it decides and shapes, and never runs a model."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from ray import serve
from ray.serve.handle import DeploymentHandle

from serve_app.config.args import AppArgs
from serve_app.models.registry import RegistrySnapshot
from serve_app.serving.api import create_api
from serve_app.serving.logs import log_to_serve
from serve_app.serving.ray_executor import RayExecutor
from serve_app.serving.service import PipelineService


@serve.ingress()
class Ingress(PipelineService):
    """Front of the application, over HTTP and for handle calls from other Ray jobs.

    Both enter the same typed methods, so nothing bypasses planning and limits.

    Args:
        args: The application's arguments.
        snapshot: The models, frozen when the application was built.
        pools: Pool name → handle of its deployment.
    """

    def __init__(
        self, args: AppArgs, snapshot: RegistrySnapshot, pools: dict[str, DeploymentHandle[Any]]
    ) -> None:
        log_to_serve(args.log_level)
        executor = RayExecutor(snapshot, pools)
        super().__init__(snapshot, executor, args.limits, args.ingress.decode_threads)
        self._args = args

    def __serve_build_asgi_app__(self) -> FastAPI:
        bound = self._args.ingress.max_ongoing_requests
        return create_api(self, self._args.limits, bound, answers_request_id=False)
