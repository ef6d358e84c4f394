"""The HTTP routes: they read a body, call the service and shape the answer; no scoring here."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Protocol

from fastapi import FastAPI, Request
from fastapi.openapi.utils import get_openapi
from fastapi.responses import Response
from pydantic_core import to_json
from starlette.exceptions import HTTPException

from serve_app.config.access import Access
from serve_app.config.args import Limits
from serve_app.errors import NotReadyError, OverloadedError, ServeAppError
from serve_app.serving import schemas
from serve_app.serving.answers import (
    embeddings_answer,
    experiment_arm_answer,
    result_answer,
    score_answer,
)
from serve_app.serving.bodies import embed_request, score_request
from serve_app.serving.finished import OnFinished
from serve_app.serving.gate import ADMIN_PREFIX, HEALTH_PATHS, Gate
from serve_app.serving.load import Load
from serve_app.serving.problem import problem, problem_responses
from serve_app.serving.request_scope import RequestScope, problem_of
from serve_app.types import EmbedRequest, EmbedResponse, ScoreRequest, ScoreResponse
from serve_app.version import __version__

logger = logging.getLogger("serve_app.serving")

_DESCRIPTION = "How well does this image match this text?"


class ScoringService(Protocol):
    """What the routes need; the ingress is one."""

    async def score(self, request: ScoreRequest) -> ScoreResponse:
        """Scores pairs."""

    async def rank(self, request: ScoreRequest) -> ScoreResponse:
        """Ranks one text's images, or one image's texts."""

    async def embed(self, request: EmbedRequest) -> EmbedResponse:
        """Embeds images and texts."""

    async def ready(self) -> None:
        """Returns when an inference has passed; raises a `ServeAppError` when it has not."""

    def models(self) -> dict[str, Any]:
        """`ModelsAnswer`."""

    async def model(self, name: str) -> dict[str, Any]:
        """`ModelAnswer`; raises `UnknownModelError`."""

    async def experiments(self) -> dict[str, Any]:
        """`ExperimentsAnswer`."""

    async def experiment(self, name: str) -> dict[str, Any]:
        """`ExperimentAnswer`; raises `UnknownExperimentError`."""


def create_api(
    service: ScoringService,
    limits: Limits,
    load: Load,
    *,
    gate: Gate | None = None,
    answers_request_id: bool = True,
    on_finished: Sequence[OnFinished] = (),
) -> FastAPI:
    """The FastAPI application over a service.

    Args:
        service: What scores.
        limits: Bounds on bodies.
        load: How much is taken on; what is beyond that is turned away with `overloaded`.
        gate: Asks for keys; None: everybody scores, and nobody operates.
        answers_request_id: Whether to put `x-request-id` on answers; false under Ray Serve, which
            puts it there itself.
        on_finished: Are told of each request when it is over; quick, and never raise.
    """
    api = FastAPI(
        title="serve_app",
        version=__version__,
        description=_DESCRIPTION,
        openapi_url="/openapi.json",
        docs_url="/docs",
        redoc_url=None,
    )
    _add_errors(api)
    api.add_middleware(
        RequestScope,
        gate=gate or Gate(Access()),
        load=load,
        answers_request_id=answers_request_id,
        on_finished=on_finished,
    )
    _add_scoring(api, service, limits)
    _add_inventory(api, service)
    api.openapi = lambda: openapi_document(api)  # type: ignore[method-assign]
    return api


def openapi_document(api: FastAPI) -> dict[str, Any]:
    """The OpenAPI document: request bodies are parsed by hand, so their schemas are added here."""
    if api.openapi_schema:
        return api.openapi_schema
    document = get_openapi(
        title=api.title, version=api.version, description=api.description, routes=api.routes
    )
    components = document.setdefault("components", {}).setdefault("schemas", {})
    for body in (
        schemas.ScoreBody,
        schemas.RankBody,
        schemas.EmbeddingsBody,
        schemas.ProblemAnswer,
    ):
        schema = body.model_json_schema(ref_template="#/components/schemas/{model}")
        components.update(schema.pop("$defs", {}))
        components[body.__name__] = schema
    components_all = document["components"]
    components_all["securitySchemes"] = {
        "key": {
            "type": "http",
            "scheme": "bearer",
            "description": "An API key; asked for where keys are configured.",
        }
    }
    for path, operations in document["paths"].items():
        for operation in operations.values():
            _add_security(path, operation)
    api.openapi_schema = document
    return document


def _add_security(path: str, operation: dict[str, Any]) -> None:
    if path in HEALTH_PATHS:
        return
    optional: list[dict[str, Any]] = [] if path.startswith(ADMIN_PREFIX) else [{}]
    operation["security"] = [{"key": []}, *optional]
    for status, answer in problem_responses(401, 429).items():
        operation["responses"].setdefault(str(status), answer)


def _json(content: Any) -> Response:
    return Response(to_json(content), media_type="application/json")


def _request_id(request: Request) -> str:
    return str(request.state.request_id)


def _body(name: str, *, multipart: bool) -> dict[str, Any]:
    content: dict[str, Any] = {
        "application/json": {"schema": {"$ref": f"#/components/schemas/{name}"}}
    }
    if multipart:
        strings = {"type": "array", "items": {"type": "string"}}
        files = {"type": "array", "items": {"type": "string", "format": "binary"}}
        content["multipart/form-data"] = {
            "schema": {
                "type": "object",
                "required": ["image", "text"],
                "additionalProperties": False,
                "properties": {
                    "image": files,
                    "text": strings,
                    "metrics": strings,
                    "model": {"type": "string"},
                    "routing_key": {"type": "string"},
                    "on_truncate": {"type": "string", "enum": ["warn", "error"]},
                },
            }
        }
    return {"requestBody": {"required": True, "content": content}}


_ALL_FAILED = "all_items_failed"
_REQUEST_PROBLEMS = (400, 404, 408, 413, 415, 422, 500, 503, 504)


def _add_scoring(api: FastAPI, service: ScoringService, limits: Limits) -> None:
    def scored(request: Request, response: ScoreResponse) -> Response:
        request.state.response = response
        failed = [result for result in response.results if result.error is not None]
        if response.results and len(failed) == len(response.results):
            return _all_failed(request, response)
        return _json(score_answer(response))

    @api.post(
        "/v1/score",
        summary="Score image-text pairs",
        response_model=schemas.ScoreAnswer,
        responses=problem_responses(*_REQUEST_PROBLEMS),
        openapi_extra=_body("ScoreBody", multipart=True),
    )
    async def score(request: Request) -> Response:
        asked = await score_request(request, limits, _request_id(request), schemas.ScoreBody)
        return scored(request, await service.score(asked))

    @api.post(
        "/v1/rank",
        summary="Rank images for a text, or texts for an image",
        response_model=schemas.ScoreAnswer,
        responses=problem_responses(*_REQUEST_PROBLEMS),
        openapi_extra=_body("RankBody", multipart=True),
    )
    async def rank(request: Request) -> Response:
        asked = await score_request(request, limits, _request_id(request), schemas.RankBody)
        return scored(request, await service.rank(asked))

    @api.post(
        "/v1/embeddings",
        summary="Embed texts and images",
        response_model=schemas.EmbeddingsAnswer,
        responses=problem_responses(*_REQUEST_PROBLEMS),
        openapi_extra=_body("EmbeddingsBody", multipart=False),
    )
    async def embeddings(request: Request) -> Response:
        asked, encoding_format = await embed_request(request, limits, _request_id(request))
        request.state.response = response = await service.embed(asked)
        failed = [result for result in response.results if result.error is not None]
        if response.results and len(failed) == len(response.results):
            first = failed[0]
            detail = first.error.detail if first.error else ""
            request.state.code = _ALL_FAILED
            return problem(
                status=422,
                code=_ALL_FAILED,
                title="Every item failed",
                detail=f"No input could be embedded; the first: {detail}",
                request_id=response.id,
                extra={
                    name: value
                    for name, value in embeddings_answer(response, encoding_format).items()
                    if name in ("model", "experiment", "data", "timing_ms")
                },
            )
        return _json(embeddings_answer(response, encoding_format))


def _all_failed(request: Request, response: ScoreResponse) -> Response:
    first = response.results[0].error
    detail = f"No pair could be scored; the first: {first.detail if first else ''}"
    request.state.code = _ALL_FAILED
    return problem(
        status=422,
        code=_ALL_FAILED,
        title="Every item failed",
        detail=detail,
        request_id=response.id,
        extra={
            "model": response.model,
            "experiment": experiment_arm_answer(response.experiment),
            "results": [result_answer(result) for result in response.results],
            "timing_ms": dict(response.timing_ms),
        },
    )


def _add_inventory(api: FastAPI, service: ScoringService) -> None:
    @api.get("/v1/models", summary="Declared models", response_model=schemas.ModelsAnswer)
    async def models() -> Response:
        return _json(service.models())

    @api.get(
        "/v1/models/{name}",
        summary="One declared model",
        response_model=schemas.ModelAnswer,
        responses=problem_responses(404),
    )
    async def model(name: str) -> Response:
        return _json(await service.model(name))

    @api.get(
        "/v1/experiments",
        summary="Declared experiments, and how they go",
        response_model=schemas.ExperimentsAnswer,
    )
    async def experiments() -> Response:
        return _json(await service.experiments())

    @api.get(
        "/v1/experiments/{name}",
        summary="One experiment",
        response_model=schemas.ExperimentAnswer,
        responses=problem_responses(404),
    )
    async def experiment(name: str) -> Response:
        return _json(await service.experiment(name))

    @api.get("/healthz", summary="Alive", response_model=schemas.StateAnswer)
    async def healthz() -> Response:
        return _json({"status": "ok"})

    @api.get(
        "/readyz",
        summary="Ready: a real inference passes",
        response_model=schemas.StateAnswer,
        responses=problem_responses(503),
    )
    async def readyz() -> Response:
        try:
            await service.ready()
        except ServeAppError as error:
            raise NotReadyError(f"The default model cannot score: {error.detail}") from error
        return _json({"status": "ok"})


def _add_errors(api: FastAPI) -> None:
    @api.exception_handler(ServeAppError)
    async def ours(request: Request, error: ServeAppError) -> Response:
        if error.status_code >= 500 and not isinstance(error, OverloadedError):
            logger.warning("request %s: %s: %s", _request_id(request), error.code, error.detail)
        return problem_of(request, error)

    @api.exception_handler(HTTPException)
    async def framework(request: Request, error: HTTPException) -> Response:
        codes = {404: "not_found", 405: "method_not_allowed"}
        details = {
            404: f"There is nothing at {request.url.path}; see /docs.",
            405: f"{request.method} is not allowed at {request.url.path}; see /docs.",
        }
        request.state.code = code = codes.get(error.status_code, "http_error")
        return problem(
            status=error.status_code,
            code=code,
            title=str(error.detail),
            detail=details.get(error.status_code, str(error.detail)),
            request_id=_request_id(request),
            headers=dict(error.headers or {}),
        )
