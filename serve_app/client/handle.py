"""The way to a service inside the same Ray cluster, over its Serve handle; sync and async.

Ray is imported only when the first call is made.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

from serve_app.client.retry import (
    RetryPolicy,
    TransientFailure,
    call_with_retries,
    call_with_retries_async,
    no_answer,
)
from serve_app.errors import (
    NotReadyError,
    OverloadedError,
    ServeAppError,
    UnexpectedError,
)
from serve_app.types import EmbedRequest, EmbedResponse, ScoreRequest, ScoreResponse


class HandleTransport:
    """`Transport` over the handle of a Serve application's ingress.

    Args:
        app_name: Name of the Serve application.
        policy: Retries and timeout.
    """

    def __init__(self, app_name: str, policy: RetryPolicy | None = None) -> None:
        self._methods = _Methods(app_name)
        self._policy = policy or RetryPolicy()

    def score(self, request: ScoreRequest) -> ScoreResponse:
        """See `Transport.score`."""
        response: ScoreResponse = self._call("score", request)
        return response

    def rank(self, request: ScoreRequest) -> ScoreResponse:
        """See `Transport.rank`."""
        response: ScoreResponse = self._call("rank", request)
        return response

    def embed(self, request: EmbedRequest) -> EmbedResponse:
        """See `Transport.embed`."""
        response: EmbedResponse = self._call("embed", request)
        return response

    def models(self) -> dict[str, Any]:
        """See `Transport.models`."""
        answer: dict[str, Any] = self._call("models")
        return answer

    def ready(self) -> None:
        """See `Transport.ready`; asks once."""
        with _ReadyErrors():
            self._call("ready", policy=replace(self._policy, retries=0))

    def close(self) -> None:
        """Forgets the handle."""
        self._methods.clear()

    def _call(self, method: str, *arguments: Any, policy: RetryPolicy | None = None) -> Any:
        policy = policy or self._policy
        _refuse_event_loop()

        def send(timeout_s: float) -> Any:
            handle = self._methods.get(method)
            with _Errors(policy):
                response = handle.remote(*arguments)
                try:
                    return response.result(timeout_s=timeout_s)
                except TimeoutError:
                    response.cancel()  # nobody waits for it any more
                    raise

        return call_with_retries(policy, send)


class AsyncHandleTransport:
    """`AsyncTransport` over a handle; arguments as for `HandleTransport`."""

    def __init__(self, app_name: str, policy: RetryPolicy | None = None) -> None:
        self._methods = _Methods(app_name)
        self._policy = policy or RetryPolicy()

    async def score(self, request: ScoreRequest) -> ScoreResponse:
        """See `Transport.score`."""
        response: ScoreResponse = await self._call("score", request)
        return response

    async def rank(self, request: ScoreRequest) -> ScoreResponse:
        """See `Transport.rank`."""
        response: ScoreResponse = await self._call("rank", request)
        return response

    async def embed(self, request: EmbedRequest) -> EmbedResponse:
        """See `Transport.embed`."""
        response: EmbedResponse = await self._call("embed", request)
        return response

    async def models(self) -> dict[str, Any]:
        """See `Transport.models`."""
        answer: dict[str, Any] = await self._call("models")
        return answer

    async def ready(self) -> None:
        """See `HandleTransport.ready`."""
        with _ReadyErrors():
            await self._call("ready", policy=replace(self._policy, retries=0))

    async def close(self) -> None:
        """Forgets the handle."""
        self._methods.clear()

    async def _call(self, method: str, *arguments: Any, policy: RetryPolicy | None = None) -> Any:
        policy = policy or self._policy

        async def send(timeout_s: float) -> Any:
            handle = self._methods.known(method)
            if handle is None:
                # Asks Serve's controller and waits for it, which an event loop must not.
                handle = await asyncio.to_thread(self._methods.get, method)
            with _Errors(policy):
                return await handle.remote(*arguments)

        return await call_with_retries_async(policy, send)


class _Methods:
    """The application's handle, configured per method: `.options()` is too dear to do per call."""

    def __init__(self, app_name: str) -> None:
        self._app_name = app_name
        self._configured: dict[str, Any] = {}

    def known(self, method: str) -> Any:
        return self._configured.get(method)

    def get(self, method: str) -> Any:
        handle = self._configured.get(method)
        if handle is None:
            handle = _connect(self._app_name).options(method_name=method)
            self._configured[method] = handle
        return handle

    def clear(self) -> None:
        self._configured.clear()


def _connect(app_name: str) -> Any:
    """The handle of an application on the running cluster; never starts a cluster of its own."""
    import ray
    from ray import serve
    from ray.serve.exceptions import RayServeException

    if not ray.is_initialized():
        try:
            ray.init(address="auto", logging_level="ERROR", log_to_driver=False)
        except ConnectionError as error:
            raise NotReadyError(
                "Cannot reach a Ray cluster; is one running? From elsewhere, call "
                "ray.init(address=...) first, or use from_url()."
            ) from error
    try:
        return serve.get_app_handle(app_name)
    except RayServeException as error:
        raise NotReadyError(
            f"No Serve application named {app_name!r} is running ({error}); see `serve status`."
        ) from error


def _refuse_event_loop() -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    # Waiting here would block the loop that delivers the answer.
    raise RuntimeError("SimilarityClient.from_app() waits; in async code use AsyncSimilarityClient")


class _Errors:
    """Turns what Ray raises into what HTTP would have answered.

    A context manager rather than a decorator, so that sync and async calls share it.
    """

    def __init__(self, policy: RetryPolicy) -> None:
        self._policy = policy

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, Exception):
            translated = _translate(error, self._policy)
            if translated is not None:
                raise translated from translated.__cause__


class _ReadyErrors:
    """The ingress says why it is not ready; over HTTP the route says `not_ready` around that."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, ServeAppError) and not isinstance(error, NotReadyError):
            raise NotReadyError(f"The default model cannot score: {error.detail}") from error


def _translate(error: Exception, policy: RetryPolicy) -> Exception | None:
    from ray.exceptions import ActorDiedError, ActorUnavailableError, RayTaskError
    from ray.serve.exceptions import (
        BackPressureError,
        DeploymentUnavailableError,
        ReplicaUnavailableError,
    )

    if isinstance(error, RayTaskError):
        cause = error.cause
        if isinstance(cause, (OverloadedError, NotReadyError)):
            return TransientFailure(cause)
        if isinstance(cause, ServeAppError):
            return cause
        return _caused(UnexpectedError(f"The service failed ({type(cause).__name__})."), error)
    transient: ServeAppError
    if isinstance(error, BackPressureError):
        transient = OverloadedError("More requests are waiting than the service queues.")
    elif isinstance(
        error,
        (
            ActorDiedError,
            ActorUnavailableError,
            DeploymentUnavailableError,
            ReplicaUnavailableError,
        ),
    ):
        transient = NotReadyError("No replica of the service is available; try again.")
    elif isinstance(error, TimeoutError):
        return _caused(no_answer(policy.timeout_s), error)
    else:
        return None
    return TransientFailure(_caused(transient, error))


def _caused(error: ServeAppError, cause: Exception) -> ServeAppError:
    error.__cause__ = cause
    return error
