"""What surrounds every HTTP request: its id, its key, its place, and what is told when it is over.

ASGI itself, and no `BaseHTTPMiddleware`, which begins tasks for every part of a body and leaves
cycles of references behind: some 20 KB a request until Python's collector comes by, and a sixth of
the speed.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
import uuid
from collections.abc import Sequence
from typing import TYPE_CHECKING

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import Response

from serve_app.engine.answered import OK
from serve_app.errors import ClientGoneError, ServeAppError, UnexpectedError
from serve_app.serving.finished import METHODS, UNKNOWN, FinishedRequest, OnFinished
from serve_app.serving.gate import ADMIN_PREFIX, Gate
from serve_app.serving.headers import ANSWER_HEADERS, DOCS_HEADERS
from serve_app.serving.load import Load
from serve_app.serving.problem import problem_from_error
from serve_app.types import EmbedResponse, ScoreResponse

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from serve_app.config.access import ApiKey

logger = logging.getLogger("serve_app.serving")

_REQUEST_ID = re.compile(r"^[\x21-\x7e]{1,128}$")


class RequestScope:
    """ASGI middleware.

    A route finds in `request.state` the `request_id`, the `key` that was shown, and the `load` it
    may hold; it leaves there the `code` of its error, and its `response`.

    Args:
        app: What answers.
        gate: Asks for keys.
        load: How much is taken on.
        answers_request_id: Whether to put `x-request-id` on answers.
        on_finished: Are told of each request when it is over; quick, and never raise.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        gate: Gate,
        load: Load,
        answers_request_id: bool,
        on_finished: Sequence[OnFinished],
    ) -> None:
        self._app = app
        self._gate = gate
        self._load = load
        self._answers_request_id = answers_request_id
        self._on_finished = on_finished

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Request(scope)
        given = request.headers.get("x-request-id", "")
        state = request.state
        state.request_id = given if _REQUEST_ID.match(given) else uuid.uuid4().hex
        state.code, state.key, state.response = OK, None, None
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        begun = time.perf_counter()
        status: int | None = None

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers.update(DOCS_HEADERS if path == "/docs" else ANSWER_HEADERS)
                if self._answers_request_id:
                    headers["x-request-id"] = state.request_id
            await send(message)

        try:
            problem = await self._admitted(request, path, receive, answer)
            if problem is not None:
                if status is not None:  # too late to say so
                    raise RuntimeError("an answer was broken off")
                await problem(scope, receive, answer)
        except asyncio.CancelledError:
            state.code, status = ClientGoneError.code, ClientGoneError.status_code
            raise
        finally:
            finished = _finished(request, status, time.perf_counter() - begun)
            for tell in self._on_finished:
                tell(finished)

    async def _admitted(
        self, request: Request, path: str, receive: Receive, answer: Send
    ) -> Response | None:
        """Lets the request in; returns what is wrong, if the application has not said so."""
        shown = request.headers.get("authorization", "")
        # Probes must be answered under load: an overloaded service is alive. Operators too: they
        # have perhaps come to end the overload.
        counted = path.startswith("/v1/") and not path.startswith(ADMIN_PREFIX)
        try:
            async with self._gate.admit(path, shown) as request.state.key:
                with self._load.taking(counted=counted) as request.state.load:
                    await self._app(request.scope, receive, answer)
            return None
        except ServeAppError as error:
            return problem_of(request, error)
        except Exception:
            request_id = request.state.request_id
            logger.exception("request %s failed unexpectedly", request_id)
            return problem_of(
                request,
                UnexpectedError(
                    f"The service failed unexpectedly; its log has the cause under {request_id}."
                ),
            )


def problem_of(request: Request, error: ServeAppError) -> Response:
    """The answer to a request that failed; its code is taken note of."""
    request.state.code = error.code
    return problem_from_error(error, request.state.request_id)


def _finished(request: Request, status: int | None, seconds: float) -> FinishedRequest:
    key: ApiKey | None = request.state.key
    response: ScoreResponse | EmbedResponse | None = request.state.response
    return FinishedRequest(
        id=request.state.request_id,
        method=request.method if request.method in METHODS else UNKNOWN,
        path=getattr(request.scope.get("route"), "path", UNKNOWN),
        status=UnexpectedError.status_code if status is None else status,
        code=request.state.code,
        seconds=seconds,
        key=None if key is None else key.name,
        model=None if response is None else response.model,
        experiment=None if response is None else response.experiment,
    )
