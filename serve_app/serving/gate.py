"""Who gets in: keys, roles and what each key may ask for; knows no route's work.

Limits are counted in each ingress replica, for a share: what a key may ask for is divided by the
number of replicas, between which the proxy spreads requests evenly.
"""

from __future__ import annotations

import hmac
import math
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from limits import RateLimitItemPerMinute
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import MovingWindowRateLimiter

from serve_app.config.access import Access, ApiKey, key_digest
from serve_app.errors import ForbiddenError, RateLimitedError, ServeAppError, UnauthorizedError

HEALTH_PATHS = frozenset({"/healthz", "/readyz"})
"""What is answered without a key, always: probes have none."""

ADMIN_PREFIX = "/v1/admin/"
"""Where paths begin for which a key must be an operator's, always."""

_KEY_WANTED = (
    "Send `Authorization: Bearer KEY` with a key that is known here; serve-app's own commands take "
    "an operator's from SIMILARITY_ADMIN_TOKEN."
)


class Gate:
    """Lets requests in, or says why not. All methods belong to one event loop.

    Args:
        access: Who may use the service.
        ingresses: How many replicas share the limits of a key.
        on_refused: Is told the code of a refusal, and the key's name where it is known.
    """

    def __init__(
        self,
        access: Access,
        ingresses: int = 1,
        on_refused: Callable[[str, str], None] = lambda code, key: None,
    ) -> None:
        self._access = access
        self._ingresses = ingresses
        self._on_refused = on_refused
        self._limiter = MovingWindowRateLimiter(MemoryStorage())
        self._in_progress: Counter[str] = Counter()

    def update(self, access: Access, ingresses: int) -> None:
        """Takes other keys over; requests in progress end as they began."""
        self._access = access
        self._ingresses = max(1, ingresses)

    @asynccontextmanager
    async def admit(self, path: str, authorization: str) -> AsyncIterator[ApiKey | None]:
        """Lets a request in for the length of the block.

        Args:
            path: Of the request, below the application's prefix.
            authorization: The header of this name; empty where there is none.

        Yields:
            The key that was shown; None where none was asked for.

        Raises:
            UnauthorizedError: It shows no key that is known.
            ForbiddenError: Its key may not do this.
            RateLimitedError: Its key has used up what it may ask for.
        """
        operating = path.startswith(ADMIN_PREFIX)
        if path in HEALTH_PATHS or not (operating or self._access.required):
            yield None
            return
        key = self._find(authorization)
        try:
            if key is None:
                raise UnauthorizedError(_KEY_WANTED)
            if operating:  # who ends an overload must not be held up by limits
                _check_role(key)
            else:
                self._check_place(key)
                self._in_progress[key.name] += 1
        except ServeAppError as error:
            self._on_refused(error.code, "" if key is None else key.name)
            raise
        if operating:
            yield key
            return
        try:
            await self._spend(key)
            yield key
        finally:
            self._in_progress[key.name] -= 1

    def _find(self, authorization: str) -> ApiKey | None:
        """The key that is shown; does the same work whatever is shown.

        What is shown is hashed first, and its hash compared with all there are, each in constant
        time: how long it takes tells nothing about how near a guess is.
        """
        scheme, _, shown = authorization.partition(" ")
        digest = key_digest(shown.strip() if scheme.lower() == "bearer" else "")
        found = None
        for key in self._access.keys:
            if hmac.compare_digest(digest, key.sha256):
                found = key
        return found

    def _check_place(self, key: ApiKey) -> None:
        most = key.max_in_progress
        if most is not None and self._in_progress[key.name] >= self._share(most):
            raise RateLimitedError(
                f"The key {key.name} may have {most} requests in progress; wait for one to end."
            )

    async def _spend(self, key: ApiKey) -> None:
        if key.requests_per_minute is None:
            return
        item = RateLimitItemPerMinute(self._share(key.requests_per_minute))
        if not await self._limiter.hit(item, key.name):
            stats = await self._limiter.get_window_stats(item, key.name)
            error = RateLimitedError(
                f"The key {key.name} may send {key.requests_per_minute} requests a minute; try "
                "again after the seconds of Retry-After."
            )
            error.retry_after_s = max(1, math.ceil(stats.reset_time - time.time()))
            self._on_refused(error.code, key.name)
            raise error

    def _share(self, limit: int) -> int:
        return max(1, math.ceil(limit / self._ingresses))


def _check_role(key: ApiKey) -> None:
    if key.role != "admin":
        raise ForbiddenError(
            f"The key {key.name} has the role {key.role}; this route takes keys with the role "
            "admin."
        )
