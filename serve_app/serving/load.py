"""How much an ingress replica takes on: requests at a time, and bytes of their bodies."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from serve_app.engine.budget import ByteBudget
from serve_app.errors import OverloadedError


class Load:
    """All that is going on.

    Args:
        max_requests: Worked on at a time; further ones are turned away at once, so that those
            inside keep their latency.
        max_body_bytes: Held at a time: many slow or large bodies must not fill the memory.
    """

    def __init__(self, max_requests: int, max_body_bytes: int) -> None:
        self._max_requests = max_requests
        self._requests = 0
        self._bodies = ByteBudget(max_body_bytes)

    @property
    def requests(self) -> int:
        """Worked on now."""
        return self._requests

    @property
    def body_bytes(self) -> int:
        """Of bodies that are held now."""
        return self._bodies.used

    @contextmanager
    def taking(self, *, counted: bool) -> Iterator[RequestLoad]:
        """A request for the length of the block, of which nothing is known yet.

        Args:
            counted: Whether it is worth turning away.

        Raises:
            OverloadedError: There is no room for it.
        """
        request = RequestLoad(self, counted=counted)
        if counted:
            self._check()
        try:
            yield request
        finally:
            self._requests -= request.working
            self._bodies.release(request.body_bytes)

    def begin(self) -> None:
        """Counts one that is worked on."""
        self._check()
        self._requests += 1

    def hold(self, size: int) -> None:
        """Counts bytes of a body."""
        # Nobody waits: those who have the room do not end sooner for it.
        if not self._bodies.try_take(size):
            raise OverloadedError("The bodies of other requests take all the room; try again.")

    def _check(self) -> None:
        if self._requests >= self._max_requests:
            raise OverloadedError(
                f"{self._requests} requests are in progress, the most this ingress takes; try "
                "again."
            )


class RequestLoad:
    """What one request adds."""

    def __init__(self, load: Load, *, counted: bool) -> None:
        self._load = load
        self._counted = counted
        self.working = False
        self.body_bytes = 0

    def hold(self, size: int) -> None:
        """Holds more of the body; raises `OverloadedError` where there is no room."""
        self._load.hold(size)
        self.body_bytes += size

    def begin(self) -> None:
        """The body is here, and work begins; raises `OverloadedError` where there is no room.

        Not before: who sends slowly takes nobody's place.
        """
        if self._counted and not self.working:
            self._load.begin()
            self.working = True
