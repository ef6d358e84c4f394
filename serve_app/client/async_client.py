"""The client for event loops: `SimilarityClient`, with `await`."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any, Self

from serve_app.client import requests
from serve_app.client.handle import AsyncHandleTransport
from serve_app.client.http import AsyncHttpTransport, with_key
from serve_app.client.images import ImageInput
from serve_app.client.results import only_score
from serve_app.client.retry import RetryPolicy
from serve_app.client.transport import AsyncTransport
from serve_app.errors import ModelError, ServiceError
from serve_app.types import EmbedResponse, OnTruncate, ScoreResponse


class AsyncSimilarityClient:
    """`SimilarityClient` for asynchronous code: the same methods, arguments, answers and errors.

    Files are read and pixels encoded in a thread, so that nothing blocks the event loop. Use it
    with `async with`, or call `close`; one client belongs to one event loop.

    Example:
        >>> async with AsyncSimilarityClient.from_url("http://127.0.0.1:8000") as client:
        ...     await client.score_one("examples/red-circle-left-of-blue-square.jpg", "a circle")
    """

    def __init__(self, transport: AsyncTransport) -> None:
        self._transport = transport

    @classmethod
    def from_url(
        cls,
        url: str,
        *,
        timeout: float = 60.0,
        retries: int = 2,
        api_key: str | None = None,
        headers: Mapping[str, str] | None = None,
        max_connections: int = 100,
    ) -> Self:
        """See `SimilarityClient.from_url`."""
        policy = RetryPolicy(retries, timeout)
        return cls(AsyncHttpTransport(url, policy, with_key(headers, api_key), max_connections))

    @classmethod
    def from_app(
        cls, app_name: str = "serve_app", *, timeout: float = 60.0, retries: int = 2
    ) -> Self:
        """See `SimilarityClient.from_app`."""
        return cls(AsyncHandleTransport(app_name, RetryPolicy(retries, timeout)))

    async def score(
        self,
        images: Iterable[ImageInput] | None = None,
        texts: Iterable[str] | None = None,
        *,
        pairs: Iterable[tuple[ImageInput, str]] | None = None,
        model: str | None = None,
        metrics: Iterable[str] | None = None,
        routing_key: str | None = None,
        on_truncate: OnTruncate = "warn",
    ) -> ScoreResponse:
        """See `SimilarityClient.score`."""
        request = await asyncio.to_thread(
            requests.score_request,
            images,
            texts,
            pairs,
            model=model,
            metrics=metrics,
            routing_key=routing_key,
            on_truncate=on_truncate,
        )
        return await self._transport.score(request)

    async def score_one(
        self,
        image: ImageInput,
        text: str,
        *,
        model: str | None = None,
        on_truncate: OnTruncate = "warn",
    ) -> float:
        """See `SimilarityClient.score_one`."""
        response = await self.score([image], [text], model=model, on_truncate=on_truncate)
        return only_score(response)

    async def rank(
        self,
        *,
        text: str | None = None,
        images: Iterable[ImageInput] | None = None,
        image: ImageInput | None = None,
        texts: Iterable[str] | None = None,
        model: str | None = None,
        metrics: Iterable[str] | None = None,
        routing_key: str | None = None,
        on_truncate: OnTruncate = "warn",
    ) -> ScoreResponse:
        """See `SimilarityClient.rank`."""
        request = await asyncio.to_thread(
            requests.rank_request,
            text,
            images,
            image,
            texts,
            model=model,
            metrics=metrics,
            routing_key=routing_key,
            on_truncate=on_truncate,
        )
        return await self._transport.rank(request)

    async def embed(
        self,
        inputs: Iterable[str | ImageInput],
        *,
        model: str | None = None,
        routing_key: str | None = None,
        on_truncate: OnTruncate = "warn",
    ) -> EmbedResponse:
        """See `SimilarityClient.embed`."""
        request = await asyncio.to_thread(
            requests.embed_request,
            inputs,
            model=model,
            routing_key=routing_key,
            on_truncate=on_truncate,
        )
        return await self._transport.embed(request)

    async def models(self) -> list[dict[str, Any]]:
        """See `SimilarityClient.models`."""
        models: list[dict[str, Any]] = (await self._transport.models())["data"]
        return models

    async def ready(self) -> bool:
        """See `SimilarityClient.ready`."""
        try:
            await self._transport.ready()
        except (ServiceError, ModelError):
            return False
        return True

    async def close(self) -> None:
        """Gives connections back; the client cannot be used afterwards."""
        await self._transport.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()
