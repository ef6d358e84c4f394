"""The way to a service over HTTP, sync and async; what is sent and understood is `http_codec`'s."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import httpx

from serve_app import __version__
from serve_app.client import http_codec as codec
from serve_app.client.http_codec import HttpCall, HttpReply
from serve_app.client.retry import (
    RetryPolicy,
    TransientFailure,
    call_with_retries,
    call_with_retries_async,
    no_answer,
)
from serve_app.config.exposure import is_loopback
from serve_app.errors import ConfigError, Fault
from serve_app.types import EmbedRequest, EmbedResponse, ScoreRequest, ScoreResponse

# Shorter than servers keep idle connections (uvicorn: 5 s), so that a request seldom meets one
# that is being closed.
_KEEP_ALIVE_S = 4.0


class HttpTransport:
    """`Transport` over HTTP with a pool of kept-alive connections; safe to use from many threads.

    Args:
        url: Address of the service, with a path prefix where it has one.
        policy: Retries and timeout.
        headers: Sent with every request, for example for a gateway that wants a token.
        max_connections: Most connections at a time; further requests wait.

    Raises:
        ConfigError: `url` is not an `http://` or `https://` address.
    """

    def __init__(
        self,
        url: str,
        policy: RetryPolicy | None = None,
        headers: Mapping[str, str] | None = None,
        max_connections: int = 100,
    ) -> None:
        self._url = _base_url(url)
        self._policy = policy or RetryPolicy()
        self._client = httpx.Client(**_options(self._url, headers, max_connections))

    def score(self, request: ScoreRequest) -> ScoreResponse:
        """See `Transport.score`."""
        return codec.score_response(self.exchange(codec.score_call("/v1/score", request)))

    def rank(self, request: ScoreRequest) -> ScoreResponse:
        """See `Transport.rank`."""
        return codec.score_response(self.exchange(codec.score_call("/v1/rank", request)))

    def embed(self, request: EmbedRequest) -> EmbedResponse:
        """See `Transport.embed`."""
        return codec.embed_response(self.exchange(codec.embed_call(request)))

    def models(self) -> dict[str, Any]:
        """See `Transport.models`."""
        return codec.models_response(self.exchange(HttpCall("GET", "/v1/models")))

    def ready(self) -> None:
        """See `Transport.ready`; asks once, for who asks this decides when to ask again."""
        once = replace(self._policy, retries=0)
        codec.check_ready(self.exchange(HttpCall("GET", "/readyz"), once))

    def close(self) -> None:
        """Closes the connections."""
        self._client.close()

    def exchange(self, call: HttpCall, policy: RetryPolicy | None = None) -> HttpReply:
        """Sends any call, with the retries of this transport or of another policy."""
        policy = policy or self._policy

        def send(timeout_s: float) -> HttpReply:
            deadline = time.monotonic() + timeout_s
            request = _request(self._client, self._url, call, timeout_s)
            try:
                response = self._client.send(request, stream=True)
            except httpx.TransportError as error:
                raise _before_answer(error, self._url, policy) from error
            try:
                chunks = []
                for chunk in response.iter_bytes():
                    chunks.append(chunk)
                    if time.monotonic() > deadline:
                        raise no_answer(policy.timeout_s)
            except httpx.TransportError as error:
                raise codec.connection_failure(error, self._url, policy.timeout_s) from error
            finally:
                response.close()
            return _checked(_reply(response, b"".join(chunks)))

        return call_with_retries(policy, send)


class AsyncHttpTransport:
    """`AsyncTransport` over HTTP; arguments as for `HttpTransport`."""

    def __init__(
        self,
        url: str,
        policy: RetryPolicy | None = None,
        headers: Mapping[str, str] | None = None,
        max_connections: int = 100,
    ) -> None:
        self._url = _base_url(url)
        self._policy = policy or RetryPolicy()
        self._client = httpx.AsyncClient(**_options(self._url, headers, max_connections))

    async def score(self, request: ScoreRequest) -> ScoreResponse:
        """See `Transport.score`."""
        return codec.score_response(await self._exchange(codec.score_call("/v1/score", request)))

    async def rank(self, request: ScoreRequest) -> ScoreResponse:
        """See `Transport.rank`."""
        return codec.score_response(await self._exchange(codec.score_call("/v1/rank", request)))

    async def embed(self, request: EmbedRequest) -> EmbedResponse:
        """See `Transport.embed`."""
        return codec.embed_response(await self._exchange(codec.embed_call(request)))

    async def models(self) -> dict[str, Any]:
        """See `Transport.models`."""
        return codec.models_response(await self._exchange(HttpCall("GET", "/v1/models")))

    async def ready(self) -> None:
        """See `HttpTransport.ready`."""
        once = replace(self._policy, retries=0)
        codec.check_ready(await self._exchange(HttpCall("GET", "/readyz"), once))

    async def close(self) -> None:
        """Closes the connections."""
        await self._client.aclose()

    async def _exchange(self, call: HttpCall, policy: RetryPolicy | None = None) -> HttpReply:
        policy = policy or self._policy

        async def send(timeout_s: float) -> HttpReply:
            request = _request(self._client, self._url, call, timeout_s)
            try:
                response = await self._client.send(request, stream=True)
            except httpx.TransportError as error:
                raise _before_answer(error, self._url, policy) from error
            try:
                content = await response.aread()
            except httpx.TransportError as error:
                raise codec.connection_failure(error, self._url, policy.timeout_s) from error
            finally:
                await response.aclose()
            return _checked(_reply(response, content))

        return await call_with_retries_async(policy, send)


def with_key(headers: Mapping[str, str] | None, api_key: str | None) -> dict[str, str]:
    """Headers that show a key besides."""
    shown = {} if api_key is None else {"Authorization": f"Bearer {api_key}"}
    return {**(headers or {}), **shown}


def _before_answer(error: httpx.TransportError, url: str, policy: RetryPolicy) -> Exception:
    """The failure of a request whose answer had not begun."""
    failure = codec.connection_failure(error, url, policy.timeout_s)
    failure.__cause__ = error
    return TransientFailure(failure) if codec.is_passing(error) else failure


def _checked(reply: HttpReply) -> HttpReply:
    codec.raise_if_passing(reply)
    return reply


def _reply(response: httpx.Response, content: bytes) -> HttpReply:
    return HttpReply(str(response.url), response.status_code, response.headers, content)


def _request(
    client: httpx.Client | httpx.AsyncClient, url: str, call: HttpCall, timeout_s: float
) -> httpx.Request:
    return client.build_request(
        call.method,
        url + call.path,
        content=call.content if call.method == "POST" else None,
        headers=dict(call.headers),
        timeout=timeout_s,
    )


def _base_url(url: str) -> str:
    try:
        parsed = httpx.URL(url)
    except (httpx.InvalidURL, TypeError):
        parsed = httpx.URL("")
    if parsed.scheme not in ("http", "https") or not parsed.host:
        fault = Fault("url", f"{url!r} is not an address like http://127.0.0.1:8000")
        raise ConfigError((fault,))
    return str(parsed).rstrip("/")


def _options(url: str, headers: Mapping[str, str] | None, max_connections: int) -> dict[str, Any]:
    return {
        "headers": {"user-agent": f"serve-app/{__version__}", **(headers or {})},
        "limits": httpx.Limits(
            max_connections=max_connections,
            max_keepalive_connections=max_connections,
            keepalive_expiry=_KEEP_ALIVE_S,
        ),
        # A proxy that the environment names is never meant for this machine.
        "trust_env": not is_loopback(httpx.URL(url).host),
    }
