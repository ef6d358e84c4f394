"""Follows the control plane on behalf of a process; knows neither models nor Ray.

The control plane may die and come back at any time: then the process goes on with what it has,
and joins again when there is somebody to join.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import random
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from serve_app.control.members import Member, MemberReport, UnknownMemberError
from serve_app.control.snapshot import ServingSnapshot
from serve_app.control.version import Version
from serve_app.errors import ServeAppError

logger = logging.getLogger("serve_app.serving")

_POLL_S = 2.0
_FIRST_RETRY_S = 0.1
_LAST_RETRY_S = 2.0


class ControlLink(Protocol):
    """What a member needs of the control plane; a `ControlPlane` in this process is one."""

    async def current(self) -> ServingSnapshot:
        """See `ControlPlane.current`."""

    async def join(
        self,
        member: Member,
        holding: ServingSnapshot | None = None,
        report: MemberReport | None = None,
    ) -> ServingSnapshot:
        """See `ControlPlane.join`."""

    async def follow(
        self,
        member_id: str,
        version: Version | None,
        report: MemberReport | None = None,
        timeout_s: float = 30.0,
    ) -> ServingSnapshot | None:
        """See `ControlPlane.follow`."""


class Follower:
    """Follows; all methods belong to one event loop.

    Args:
        link: To the control plane.
        member: This process.
        apply: Takes another snapshot over, at once.
        report: What a replica holds; None for who holds nothing.
    """

    def __init__(
        self,
        link: ControlLink,
        member: Member,
        apply: Callable[[ServingSnapshot], None],
        report: Callable[[], MemberReport] | None = None,
    ) -> None:
        self._link = link
        self._member = member
        self._apply = apply
        self._report = report or (lambda: {})
        self._held: ServingSnapshot | None = None
        self._task: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()

    @property
    def snapshot(self) -> ServingSnapshot | None:
        """What was taken over last."""
        return self._held

    async def current(self) -> ServingSnapshot:
        """Waits for what is served now, and takes it over without being a member yet."""
        return await self._persistently(self._take_current)

    async def join(self) -> ServingSnapshot:
        """Waits until this process is a member, and takes over what is served."""
        return await self._persistently(self._join)

    def start(self) -> None:
        """Follows from now on."""
        # In a context of its own: it belongs to no request.
        self._task = asyncio.get_running_loop().create_task(
            self._follow(), context=contextvars.Context()
        )

    def report_soon(self) -> None:
        """What there is to report has changed."""
        self._changed.set()

    async def report_now(self) -> None:
        """Reports, and returns when that was heard; or when there is nobody who could."""
        held = self._held
        version = held.version if held is not None else None
        try:
            await self._link.follow(self._member.id, version, self._report(), 0.0)
        except (ServeAppError, UnknownMemberError) as error:
            logger.debug("a report was not heard: %s", error)

    def close(self) -> None:
        """Follows no longer."""
        if self._task is not None:
            self._task.cancel()

    async def _follow(self) -> None:
        retry_s = _FIRST_RETRY_S
        while True:
            try:
                await self._follow_once()
                retry_s = _FIRST_RETRY_S
            except UnknownMemberError:
                await self.join()
            except Exception as error:
                if not isinstance(error, ServeAppError):
                    logger.exception("following the control plane failed; trying again")
                else:
                    logger.debug("following the control plane: %s", error)
                await asyncio.sleep(retry_s * random.uniform(0.5, 1.0))
                retry_s = min(2 * retry_s, _LAST_RETRY_S)

    async def _follow_once(self) -> None:
        """Asks once, and again at once when there is something to report."""
        held = self._held
        version = held.version if held is not None else None
        self._changed.clear()
        poll = asyncio.ensure_future(
            self._link.follow(self._member.id, version, self._report(), _POLL_S)
        )
        try:
            while await self._changed_before(poll):
                # The poll goes on; a call without a wait brings the news there meanwhile.
                await self._link.follow(self._member.id, version, self._report(), 0.0)
            snapshot = await poll
        finally:
            poll.cancel()
        if snapshot is not None:
            self._take(snapshot)

    async def _changed_before(self, poll: asyncio.Future[ServingSnapshot | None]) -> bool:
        """Whether there is something to report before the poll is over."""
        changed = asyncio.ensure_future(self._changed.wait())
        try:
            waited: set[asyncio.Future[Any]] = {poll, changed}
            await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
        finally:
            changed.cancel()
        self._changed.clear()
        return not poll.done()

    async def _take_current(self) -> ServingSnapshot:
        return self._take(await self._link.current())

    async def _join(self) -> ServingSnapshot:
        return self._take(await self._link.join(self._member, self._held, self._report()))

    def _take(self, snapshot: ServingSnapshot) -> ServingSnapshot:
        if self._held is None or snapshot.version != self._held.version:
            self._apply(snapshot)
            self._held = snapshot
        return snapshot

    async def _persistently(self, act: Callable[[], Awaitable[ServingSnapshot]]) -> ServingSnapshot:
        retry_s, told = _FIRST_RETRY_S, False
        while True:
            try:
                return await act()
            except ServeAppError as error:
                if not told:
                    logger.warning("waiting for the control plane: %s", error)
                    told = True
            await asyncio.sleep(retry_s * random.uniform(0.5, 1.0))
            retry_s = min(2 * retry_s, _LAST_RETRY_S)
