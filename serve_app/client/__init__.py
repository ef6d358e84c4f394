"""The Python interface to a running service, over HTTP or a Serve handle, sync and async."""

from __future__ import annotations

from serve_app.client.async_client import AsyncSimilarityClient
from serve_app.client.handle import AsyncHandleTransport, HandleTransport
from serve_app.client.http import AsyncHttpTransport, HttpTransport
from serve_app.client.images import ImageInput
from serve_app.client.results import embeddings_array
from serve_app.client.retry import RetryPolicy
from serve_app.client.sync_client import SimilarityClient
from serve_app.client.transport import AsyncTransport, Transport

__all__ = [
    "AsyncHandleTransport",
    "AsyncHttpTransport",
    "AsyncSimilarityClient",
    "AsyncTransport",
    "HandleTransport",
    "HttpTransport",
    "ImageInput",
    "RetryPolicy",
    "SimilarityClient",
    "Transport",
    "embeddings_array",
]
