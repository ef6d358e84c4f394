"""Images that requests name by URL, to bytes or faults; knows no decoding and no rule of URLs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace
from typing import TypeVar

from serve_app.config.args import Limits
from serve_app.engine.planning import check_count
from serve_app.errors import ImageTooLargeError, ImageUrlDisabledError, ItemError, UnexpectedError
from serve_app.types import EmbedRequest, ImageUrl, ItemFault, ScoreRequest

logger = logging.getLogger("serve_app.engine")

Fetch = Callable[[str], Awaitable[bytes]]
"""From a URL to bytes; raises `ItemError`."""

Request = TypeVar("Request", ScoreRequest, EmbedRequest)

_DISABLED = ItemFault(
    ImageUrlDisabledError.code,
    "The image is a URL, and this service does not fetch URLs; send the image's bytes as a data "
    "URI, base64 or multipart.",
)


class UrlImages:
    """Fetches what requests name by URL, each URL of a request once.

    Args:
        fetch: Fetches one; None: nothing is fetched.
        limits: Bounds on one request. What is fetched for it counts as its body does.
    """

    def __init__(self, fetch: Fetch | None, limits: Limits) -> None:
        self._fetch = fetch
        self._limits = limits

    async def fetched(self, request: Request) -> Request:
        """The request with bytes or faults in place of URLs.

        Raises:
            TooManyPairsError: It has more URLs than it may have pairs.
        """
        items = request.inputs if isinstance(request, EmbedRequest) else request.images
        urls = list(dict.fromkeys(item for item in items if isinstance(item, ImageUrl)))
        if not urls:
            return request
        check_count(len(urls), "URLs", self._limits)
        found = await self._all(urls)
        if isinstance(request, EmbedRequest):
            inputs = tuple(found[i] if isinstance(i, ImageUrl) else i for i in request.inputs)
            return replace(request, inputs=inputs)
        images = tuple(found[i] if isinstance(i, ImageUrl) else i for i in request.images)
        return replace(request, images=images)

    async def _all(self, urls: Iterable[ImageUrl]) -> dict[ImageUrl, bytes | ItemFault]:
        room = self._limits.max_body_bytes

        async def one(url: ImageUrl) -> bytes | ItemFault:
            nonlocal room
            if self._fetch is None:
                return _DISABLED
            try:
                content = await self._fetch(url.url)
                room -= len(content)
                if room < 0:
                    most = f"{self._limits.max_body_bytes:,}"
                    raise ImageTooLargeError(f"The request's images have more than {most} bytes.")
                return content
            except ItemError as error:
                return ItemFault(error.code, error.detail)
            except Exception:
                logger.exception("an image could not be fetched")
                return ItemFault(UnexpectedError.code, "The image could not be fetched.")

        wanted = list(urls)
        contents = await asyncio.gather(*map(one, wanted))
        return dict(zip(wanted, contents, strict=True))


def encoded(image: bytes | ImageUrl | ItemFault) -> bytes | ItemFault:
    """An image of a request whose URLs were fetched."""
    return _DISABLED if isinstance(image, ImageUrl) else image
