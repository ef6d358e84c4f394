"""The client for synchronous code; knows its transport only as a `Transport`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Self

from serve_app.client import requests
from serve_app.client.handle import HandleTransport
from serve_app.client.http import HttpTransport, with_key
from serve_app.client.images import ImageInput
from serve_app.client.results import only_score
from serve_app.client.retry import RetryPolicy
from serve_app.client.transport import Transport
from serve_app.errors import ModelError, ServiceError
from serve_app.types import EmbedResponse, OnTruncate, ScoreResponse


class SimilarityClient:
    """Asks a service how well images match texts, over HTTP or over a Serve handle.

    Whichever way, arguments, answers and errors are the same. An image is a path (a `str` is
    always a path, and read here), the bytes of an image file, an open binary file, a PIL image, or
    an array: uint8, shape (height, width, 3 or 4) or (height, width).

    Every method that asks the service raises `ServeAppError`s: `RequestError` when the request is
    wrong, `ModelError` when the model cannot, `ServiceError` when the service cannot be reached,
    is not ready, has too much to do or takes too long. One bad item of many is not an exception:
    its result has an `error`. Calls that cannot have been answered (no connection, `overloaded`,
    `not_ready`, a connection dropped before the answer began) are tried again.

    Use it as a context manager, or call `close`. It may be shared between threads.

    Example:
        >>> with SimilarityClient.from_url("http://127.0.0.1:8000") as client:
        ...     client.score_one("examples/red-circle-left-of-blue-square.jpg", "a red circle")
    """

    def __init__(self, transport: Transport) -> None:
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
        """A client over HTTP. Nothing is sent yet.

        Args:
            url: Address of the service, for example `http://127.0.0.1:8000`.
            timeout: Seconds for one call, retries and waits between them included.
            retries: Further tries of a call that failed in a way that may pass.
            api_key: Sent as `Authorization: Bearer`, where the service asks for a key.
            headers: Sent with every request.
            max_connections: Most connections at a time.

        Raises:
            ConfigError: `url` is not an http or https address.
        """
        policy = RetryPolicy(retries, timeout)
        return cls(HttpTransport(url, policy, with_key(headers, api_key), max_connections))

    @classmethod
    def from_app(
        cls, app_name: str = "serve_app", *, timeout: float = 60.0, retries: int = 2
    ) -> Self:
        """A client over the handle of a Serve application, for other jobs on its Ray cluster.

        No HTTP in between; the application plans and bounds the request all the same. Nothing is
        sent yet. Outside a Ray job, connects to the cluster that `RAY_ADDRESS` or this machine
        has.

        Args:
            app_name: Name of the Serve application (`serve-app serve` calls it `serve_app`).
            timeout: Seconds for one call, retries and waits between them included.
            retries: Further tries of a call that failed in a way that may pass.
        """
        return cls(HandleTransport(app_name, RetryPolicy(retries, timeout)))

    def score(
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
        """Scores every combination of images and texts, or the given pairs.

        Args:
            images: Images; results are row-major by image.
            texts: Texts.
            pairs: `(image, text)` tuples instead; both indices of a result are then the pair's.
            model: Name of a model, alias or experiment, or `name@revision`; None: the service's
                default.
            metrics: Names of metrics to return; None: the model's usual ones.
            routing_key: What experiments are sticky by.
            on_truncate: `error` makes a text longer than the model's context an error of its
                items; `warn` cuts it and says so in their warnings.

        Returns:
            One result per pair, in the order asked; a failed one has `error` instead of `score`.

        Raises:
            ServeAppError: The request failed as a whole; see the class.
            FileNotFoundError: There is no file at an image's path.
            TypeError: An image or text is of a wrong type.
        """
        request = requests.score_request(
            images,
            texts,
            pairs,
            model=model,
            metrics=metrics,
            routing_key=routing_key,
            on_truncate=on_truncate,
        )
        return self._transport.score(request)

    def score_one(
        self,
        image: ImageInput,
        text: str,
        *,
        model: str | None = None,
        on_truncate: OnTruncate = "warn",
    ) -> float:
        """The `score` of one image and one text.

        Raises:
            ServeAppError: As `score`, and also the error of the image or text itself.
        """
        response = self.score([image], [text], model=model, on_truncate=on_truncate)
        return only_score(response)

    def rank(
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
        """Ranks images for one text (`text`, `images`), or texts for one image (`image`, `texts`).

        Returns:
            Results best first, each with its `rank` (1 is best) and the index it was given at;
            failed ones last, without a rank.

        Raises:
            ServeAppError: As `score`.
        """
        request = requests.rank_request(
            text,
            images,
            image,
            texts,
            model=model,
            metrics=metrics,
            routing_key=routing_key,
            on_truncate=on_truncate,
        )
        return self._transport.rank(request)

    def embed(
        self,
        inputs: Iterable[str | ImageInput],
        *,
        model: str | None = None,
        routing_key: str | None = None,
        on_truncate: OnTruncate = "warn",
    ) -> EmbedResponse:
        """Embeds texts and images; `embeddings_array` makes a NumPy array of the answer.

        Args:
            inputs: A `str` is a text here; write an image's path as a `pathlib.Path`.
            model: As in `score`.
            routing_key: What experiments are sticky by.
            on_truncate: As in `score`.

        Returns:
            One result per input, in order: unit length, float32 as little-endian bytes.

        Raises:
            ServeAppError: As `score`; `UnsupportedOperationError`: the model does not embed.
        """
        request = requests.embed_request(
            inputs, model=model, routing_key=routing_key, on_truncate=on_truncate
        )
        return self._transport.embed(request)

    def models(self) -> list[dict[str, Any]]:
        """The declared models, each as `GET /v1/models/{name}` gives it."""
        models: list[dict[str, Any]] = self._transport.models()["data"]
        return models

    def ready(self) -> bool:
        """Whether the service answers and a real inference passes; asks once, never retries."""
        try:
            self._transport.ready()
        except (ServiceError, ModelError):
            return False
        return True

    def close(self) -> None:
        """Gives connections back; the client cannot be used afterwards."""
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
