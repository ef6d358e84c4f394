"""Fetches an image that a caller names by URL, and lets the caller reach nothing else.

Every connection goes through one place, which resolves the name once, looks at all addresses, and
connects to the one that it has looked at: a name cannot mean another address a moment later. That
holds for redirects too, each of which is checked anew. Knows no image format.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any
from urllib.parse import urljoin

import httpcore

from serve_app.config.args import Limits
from serve_app.errors import (
    ImageEmptyError,
    ImageTooLargeError,
    ImageUrlRefusedError,
    ImageUrlUnreachableError,
)
from serve_app.inputs.addresses import why_refused
from serve_app.inputs.urls import CheckedUrl, FetchRules, check_url
from serve_app.version import __version__

Resolver = Callable[[str, int], Awaitable[Sequence[str]]]
"""Name and port to addresses, as text."""

_REDIRECTS = (301, 302, 303, 307, 308)
_TYPES = ("image/", "application/octet-stream", "binary/octet-stream")
_HEADERS = (
    (b"Accept", b"image/*"),
    # Nothing is unpacked here, so nothing small can become large.
    (b"Accept-Encoding", b"identity"),
    (b"User-Agent", f"serve-app/{__version__}".encode()),
    (b"Connection", b"close"),
)


class ImageFetcher:
    """Fetches images by URL.

    Args:
        rules: What may be fetched.
        at_a_time: Fetches that run side by side; others wait.
        resolve: Instead of the system's resolver.
        tls: Instead of the system's trust.
    """

    def __init__(
        self,
        rules: FetchRules,
        at_a_time: int = 16,
        *,
        resolve: Resolver | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._rules = rules
        self._turns = asyncio.Semaphore(at_a_time)
        self._resolve = resolve or _resolve
        self._tls = tls or ssl.create_default_context()

    async def fetch(self, url: str) -> bytes:
        """The bytes behind a URL, at least one.

        Raises:
            ImageUrlRefusedError: It may not be fetched, or leads to what may not.
            ImageUrlUnreachableError: The other side does not answer with an image.
            ImageTooLargeError: It has more bytes than allowed.
            ImageEmptyError: It has none.
        """
        checked = check_url(url, self._rules)
        async with self._turns:
            try:
                async with asyncio.timeout(self._rules.timeout_s):
                    return await self._fetch(checked)
            except TimeoutError as error:
                raise _unreachable(
                    checked, f"no image within {self._rules.timeout_s:g} s"
                ) from error

    async def _fetch(self, url: CheckedUrl) -> bytes:
        backend = _GuardedBackend(self._rules, self._resolve)
        async with httpcore.AsyncConnectionPool(
            ssl_context=self._tls, network_backend=backend, http2=False
        ) as pool:
            for _ in range(self._rules.max_redirects + 1):
                found = await self._ask(pool, url)
                if isinstance(found, bytes):
                    return found
                url = found
        raise _unreachable(url, f"more than {self._rules.max_redirects} redirects")

    async def _ask(self, pool: httpcore.AsyncConnectionPool, url: CheckedUrl) -> bytes | CheckedUrl:
        """The bytes, or where they are instead."""
        host = url.origin.partition("://")[2].encode()
        try:
            async with pool.stream(
                "GET", url.text.encode(), headers=[(b"Host", host), *_HEADERS]
            ) as answer:
                if answer.status in _REDIRECTS:
                    return self._redirected(url, _header(answer, b"location"))
                if answer.status != 200:
                    raise _unreachable(url, f"status {answer.status}")
                return await self._body(url, answer)
        except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException) as error:
            # What exactly went wrong would tell a caller which hosts and ports there are.
            raise _unreachable(url, "no connection, or no proper answer") from error

    def _redirected(self, url: CheckedUrl, location: str | None) -> CheckedUrl:
        if location is None:
            raise _unreachable(url, "a redirect to nowhere")
        target = check_url(urljoin(url.text, location), self._rules)
        if url.scheme == "https" and target.scheme != "https":
            raise ImageUrlRefusedError(
                "The image's URL is not fetched: it leads from https to http."
            )
        return target

    async def _body(self, url: CheckedUrl, answer: httpcore.Response) -> bytes:
        kind = (_header(answer, b"content-type") or "").lower()
        if not kind.startswith(_TYPES):
            raise _unreachable(url, f"no image but {kind.partition(';')[0][:60] or 'no type'}")
        if (_header(answer, b"content-encoding") or "identity").lower() != "identity":
            raise _unreachable(url, "a packed answer, which was not asked for")
        most = self._rules.max_bytes
        length = _header(answer, b"content-length")
        if length is not None and length.isdigit() and int(length) > most:
            raise _too_large(most)
        found = bytearray()
        async for part in answer.aiter_stream():
            if len(found) + len(part) > most:
                raise _too_large(most)
            found += part
        if not found:
            raise ImageEmptyError("The image's URL gives no bytes.")
        return bytes(found)


def fetcher(hosts: tuple[str, ...], limits: Limits) -> ImageFetcher:
    """The fetcher of a service.

    Args:
        hosts: The only ones that it asks, `*.example.com` for all below one; empty: any.
        limits: Bounds on one request.
    """
    return ImageFetcher(FetchRules(hosts, max_bytes=limits.max_image_bytes))


class _GuardedBackend(httpcore.AsyncNetworkBackend):
    """Connects to checked addresses only; a name is resolved once."""

    def __init__(self, rules: FetchRules, resolve: Resolver) -> None:
        self._rules = rules
        self._resolve = resolve
        self._pinned: dict[tuple[str, int], str] = {}
        self._inner = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - the base's
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """As the base, to the address that a name was found to have."""
        address = self._pinned.get((host, port)) or await self._look_up(host, port)
        self._pinned[(host, port)] = address
        return await self._inner.connect_tcp(address, port, timeout, local_address, socket_options)

    async def connect_unix_socket(self, *_: Any, **__: Any) -> httpcore.AsyncNetworkStream:
        """There is no way to it."""
        raise ImageUrlRefusedError("The image's URL is not fetched: it is a socket.")

    async def _look_up(self, host: str, port: int) -> str:
        try:
            addresses = [str(ipaddress.ip_address(host))]
        except ValueError:
            try:
                addresses = list(await self._resolve(host, port))
            except OSError as error:
                raise httpcore.ConnectError(f"{host} has no address") from error
        if not addresses:
            raise httpcore.ConnectError(f"{host} has no address")
        for address in addresses:
            # One that is not public is enough: whoever answers so for a name wants to be let in.
            why = why_refused(ipaddress.ip_address(address), self._rules.networks)
            if why is not None:
                raise ImageUrlRefusedError(f"The image's URL is not fetched: {why}.")
        return addresses[0]


async def _resolve(host: str, port: int) -> Sequence[str]:
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(address[0]).partition("%")[0] for *_, address in found]


def _header(answer: httpcore.Response, name: bytes) -> str | None:
    for key, value in answer.headers:
        if key.lower() == name:
            return value.decode("latin-1").strip()
    return None


def _unreachable(url: CheckedUrl, why: str) -> ImageUrlUnreachableError:
    return ImageUrlUnreachableError(f"The image could not be fetched from {url.origin}: {why}.")


def _too_large(most: int) -> ImageTooLargeError:
    return ImageTooLargeError(f"The image has more than {most:,} bytes, which is the limit.")
