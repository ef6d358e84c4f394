"""Errors as `application/problem+json` (RFC 9457); knows no route."""

from __future__ import annotations

from typing import Any

from fastapi.responses import Response
from pydantic_core import to_json

from serve_app.errors import (
    BodyTimeoutError,
    OverloadedError,
    RateLimitedError,
    ServeAppError,
    UnauthorizedError,
)

MEDIA_TYPE = "application/problem+json"


def problem(
    *,
    status: int,
    code: str,
    title: str,
    detail: str,
    request_id: str,
    extra: dict[str, Any] | None = None,
    headers: dict[str, str] | None = None,
) -> Response:
    """A problem document as a response."""
    body: dict[str, Any] = {
        "type": f"urn:serve-app:error:{code}",
        "title": title,
        "status": status,
        "detail": detail,
        "code": code,
        "request_id": request_id,
    }
    body.update(extra or {})
    return Response(
        to_json(body), status_code=status, media_type=MEDIA_TYPE, headers=dict(headers or {})
    )


def problem_from_error(error: ServeAppError, request_id: str) -> Response:
    """The problem document of one of our own errors."""
    headers = None
    if isinstance(error, RateLimitedError):
        headers = {"Retry-After": str(error.retry_after_s)}
    elif isinstance(error, OverloadedError):
        headers = {"Retry-After": "1"}
    elif isinstance(error, BodyTimeoutError):
        headers = {"Connection": "close"}  # the rest of the body is not read
    elif isinstance(error, UnauthorizedError):
        headers = {"WWW-Authenticate": "Bearer"}
    return problem(
        status=error.status_code,
        code=error.code,
        title=error.title,
        detail=error.detail,
        request_id=request_id,
        headers=headers,
    )


def problem_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """What the OpenAPI document says of a route's problems, by status."""
    reference = {"$ref": "#/components/schemas/ProblemAnswer"}
    return {
        status: {"description": "Problem", "content": {MEDIA_TYPE: {"schema": reference}}}
        for status in statuses
    }
