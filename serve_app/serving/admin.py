"""The admin routes: what operators see and change; the gate lets nobody else through to them."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Annotated, Any, Protocol

from fastapi import FastAPI, Query, Request
from fastapi.responses import Response
from pydantic_core import to_json

from serve_app.config.access import ADMIN_TOKEN_NAME, ApiKey
from serve_app.control.description import Description
from serve_app.control.operations import Operation, OperationResult
from serve_app.control.store import AuditEntry
from serve_app.errors import (
    ConfigError,
    NotReadyError,
    OperationFailedError,
)
from serve_app.serving import admin_schemas as schemas
from serve_app.serving.bodies import parse_json, read_body
from serve_app.serving.inventory import (
    faults_answer,
    overrides_answer,
    status_answer,
    version_answer,
)
from serve_app.serving.problem import problem, problem_responses

_MOST_BODY_BYTES = 64 * 1024
_BODY_WITHIN_S = 10.0
_BODIES: dict[str, tuple[type[schemas.OperationBody], str]] = {
    "promote": (schemas.PromoteBody, "Make a model, alias or experiment the default"),
    "rollback": (schemas.RollbackBody, "Go back to an earlier configuration snapshot"),
    "pin": (schemas.PinBody, "Keep a model loaded on every replica of its pool"),
    "unpin": (schemas.UnpinBody, "End a pin"),
    "weights": (schemas.WeightsBody, "Split an experiment in another way"),
    "clear": (schemas.ClearBody, "End all overrides"),
}


class AdminService(Protocol):
    """What the routes need; a `ControlPlane` is one, and so is a link to it."""

    async def operate(self, operation: Operation, timeout_s: float) -> OperationResult:
        """Does what an operator asks for."""

    async def describe(self) -> Description:
        """What there is to see."""

    async def audit(self, limit: int) -> tuple[AuditEntry, ...]:
        """The last entries of the audit trail, newest first."""


def add_admin(api: FastAPI, admin: AdminService) -> None:
    """Adds the routes.

    Args:
        api: With the handlers of our errors, and a gate: it is what keeps others out.
        admin: Does the work.
    """

    @api.get(
        "/v1/admin/status",
        summary="What is in effect, what is wanted, and who follows",
        response_model=schemas.StatusReport,
        responses=problem_responses(401, 403, 503),
    )
    async def status() -> Response:
        return _json(_status(await admin.describe()))

    @api.get(
        "/v1/admin/audit",
        summary="Who changed what, when and why",
        response_model=schemas.AuditAnswer,
        responses=problem_responses(401, 403, 503),
    )
    async def audit(limit: Annotated[int, Query(ge=1, le=1000)] = 100) -> Response:
        entries = await admin.audit(limit)
        return _json({"object": "list", "data": [asdict(entry) for entry in entries]})

    def add_operation(name: str, schema: type[schemas.OperationBody], summary: str) -> None:
        @api.post(
            f"/v1/admin/{name}",
            summary=summary,
            name=f"admin_{name}",
            response_model=schemas.OperationAnswer,
            responses=problem_responses(400, 401, 403, 404, 408, 409, 413, 422, 503)
            | {202: {"description": "Not in effect yet", "model": schemas.OperationAnswer}},
            openapi_extra={
                "requestBody": {
                    "required": True,
                    "content": {"application/json": {"schema": schema.model_json_schema()}},
                }
            },
        )
        async def operate(request: Request) -> Response:
            body = parse_json(await read_body(request, _MOST_BODY_BYTES, _BODY_WITHIN_S), schema)
            try:
                result = await admin.operate(_signed(request, body.operation()), body.timeout_s)
            except ConfigError as error:
                faults = "; ".join(map(str, error.faults))
                raise NotReadyError(f"Nothing was changed: {faults}") from error
            return _operated(result, str(request.state.request_id))

    for name, (schema, summary) in _BODIES.items():
        add_operation(name, schema, summary)


def _signed(request: Request, operation: Operation) -> Operation:
    """The operation with the key that was shown, beside what its bearer says of themselves."""
    key: ApiKey | None = request.state.key
    if key is None or key.name == ADMIN_TOKEN_NAME:
        return operation
    return replace(operation, who=f"{operation.who} (key {key.name})")


def _operated(result: OperationResult, request_id: str) -> Response:
    answer = {
        "outcome": result.outcome,
        "snapshot": result.number,
        "version": version_answer(result.version),
        "detail": result.detail,
        "withdrawn": result.withdrawn,
        "confirmed": list(result.confirmed),
        "missing": list(result.missing),
        "lost": list(result.lost),
    }
    if result.outcome in ("failed", "superseded"):
        taken_back = " It was taken back: nothing has changed." if result.withdrawn else ""
        error = OperationFailedError(f"{result.detail}.{taken_back}")
        del answer["detail"]
        return problem(
            status=error.status_code,
            code=error.code,
            title=error.title,
            detail=error.detail,
            request_id=request_id,
            extra=answer,
        )
    return _json(answer, 202 if result.outcome == "pending" else 200)


def _status(told: Description) -> dict[str, Any]:
    overrides = overrides_answer(told.overrides)
    if overrides is not None:
        overrides |= {"who": told.overrides.who, "reason": told.overrides.reason}
    return {
        "version": version_answer(told.version),
        "snapshot": told.number,
        "target": told.target,
        "complete": told.complete,
        "waiting": dict(told.waiting),
        "retry_in_s": dict(told.retry_in_s),
        "revisions": [
            {"id": model_id, **status_answer(status)} for model_id, status in told.statuses.items()
        ],
        "overrides": overrides,
        "faults": faults_answer(told.faults),
        "notices": faults_answer(told.notices),
        "members": [
            {
                "id": member.id,
                "kind": member.kind,
                "pool": member.pool,
                "seen_s": round(member.seen_s, 3),
                "current": member.current,
                "models": {key: asdict(report) for key, report in member.report.items()},
            }
            for member in told.members
        ],
        "snapshots": list(told.snapshots),
    }


def _json(content: Any, status: int = 200) -> Response:
    return Response(to_json(content), status_code=status, media_type="application/json")
