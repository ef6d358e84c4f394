"""The seam between the client and the way to the service; each way is a module of its own."""

from __future__ import annotations

from typing import Any, Protocol

from serve_app.types import EmbedRequest, EmbedResponse, ScoreRequest, ScoreResponse


class Transport(Protocol):
    """Carries requests to a service and waits for the answers.

    All methods raise `ServeAppError`s only, and the same ones whichever way the request goes. One
    bad item is an error of that item; a response whose items all failed is a response too.
    """

    def score(self, request: ScoreRequest) -> ScoreResponse:
        """Scores pairs."""

    def rank(self, request: ScoreRequest) -> ScoreResponse:
        """Ranks one text's images, or one image's texts."""

    def embed(self, request: EmbedRequest) -> EmbedResponse:
        """Embeds images and texts."""

    def models(self) -> dict[str, Any]:
        """The declared models, as `GET /v1/models` answers."""

    def ready(self) -> None:
        """Returns when the service can score; raises `ServiceError` when it cannot, or not yet."""

    def close(self) -> None:
        """Gives connections back."""


class AsyncTransport(Protocol):
    """`Transport` for event loops."""

    async def score(self, request: ScoreRequest) -> ScoreResponse:
        """See `Transport.score`."""

    async def rank(self, request: ScoreRequest) -> ScoreResponse:
        """See `Transport.rank`."""

    async def embed(self, request: EmbedRequest) -> EmbedResponse:
        """See `Transport.embed`."""

    async def models(self) -> dict[str, Any]:
        """See `Transport.models`."""

    async def ready(self) -> None:
        """See `Transport.ready`."""

    async def close(self) -> None:
        """See `Transport.close`."""
