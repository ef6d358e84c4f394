"""Who follows the control plane, what each has taken over, and what replicas report."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Literal

from serve_app.control.signal import Signal
from serve_app.control.version import Version

MemberKind = Literal["ingress", "pool"]
LoadState = Literal["loading", "ready", "failed"]

_FORGOTTEN_AFTER = 10
"""A member that was not heard of for so many times `expires_s` must join anew."""


class UnknownMemberError(LookupError):
    """This plane does not know the member: it, or the member's entry, is new. The member joins.

    Not of the tree in `errors.py`: it never leaves the service.
    """


@dataclass(frozen=True, slots=True)
class Member:
    """A process that follows.

    Attributes:
        id: Of this process alone; a restarted one has another.
        kind: An ingress, or a replica of a pool.
        pool: A replica's pool.
    """

    id: str
    kind: MemberKind
    pool: str | None = None


@dataclass(frozen=True, slots=True)
class ModelReport:
    """How a revision is, on one replica.

    Attributes:
        state: Whether it loads, is loaded, or could not be loaded.
        attempt: The attempt of the candidate; 0 for what was loaded otherwise.
        reason: Why it could not be loaded.
        note: What else is worth knowing, for example that nothing checked its scores.
        leases: Requests that use it now.
    """

    state: LoadState
    attempt: int = 0
    reason: str | None = None
    note: str | None = None
    leases: int = 0


MemberReport = Mapping[str, ModelReport]
"""By model id, all that a replica holds, loads, or could not load."""


@dataclass(frozen=True, slots=True)
class Acknowledgement:
    """Who has taken a version over.

    Attributes:
        confirmed: Members that have.
        missing: Live members that have not, until the time was over.
        lost: Members that were live at first and then not heard of; what they have is not known.
    """

    confirmed: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()


@dataclass
class _Entry:
    member: Member
    seen_at: float
    version: Version | None = None
    report: MemberReport = field(default_factory=dict)


class Members:
    """Those who follow.

    Args:
        clock: Seconds, steady.
        expires_s: Who was not seen for so long counts as dead.
        tick_s: How often, in real seconds, a waiter looks for members that have died.
    """

    def __init__(
        self, clock: Callable[[], float], expires_s: float = 5.0, tick_s: float = 0.25
    ) -> None:
        self.expires_s = expires_s
        self._clock = clock
        self._tick_s = tick_s
        self._entries: dict[str, _Entry] = {}
        self._signal = Signal()

    def join(self, member: Member, report: MemberReport | None = None) -> None:
        """Takes a member in. It has acknowledged nothing: that takes a `seen` with a version."""
        self._entries[member.id] = _Entry(member, self._clock(), report=dict(report or {}))
        self._signal.send()

    def seen(
        self, member_id: str, version: Version | None = None, report: MemberReport | None = None
    ) -> bool:
        """Notes a sign of life.

        Args:
            member_id: Who.
            version: What it serves; None leaves what is known.
            report: All that it holds; None leaves what is known.

        Returns:
            Whether anything is news.

        Raises:
            UnknownMemberError: It must join first.
        """
        entry = self._entries.get(member_id)
        if entry is None:
            raise UnknownMemberError(member_id)
        was_dead = not self._alive(entry)
        entry.seen_at = self._clock()
        news = was_dead
        if version is not None and version != entry.version:
            entry.version, news = version, True
        if report is not None and dict(report) != entry.report:
            entry.report, news = dict(report), True
        if news:
            self._signal.send()
        return news

    def leave(self, member_id: str) -> None:
        """Takes a member out."""
        if self._entries.pop(member_id, None) is not None:
            self._signal.send()

    def live(self, kind: MemberKind | None = None, pool: str | None = None) -> tuple[Member, ...]:
        """Members that are alive, in the order in which they joined."""
        self._forget()
        return tuple(
            entry.member
            for entry in self._entries.values()
            if self._alive(entry)
            and kind in (None, entry.member.kind)
            and pool in (None, entry.member.pool)
        )

    def fallen(self) -> tuple[Member, ...]:
        """Members that were not heard of any more, as long as they are remembered."""
        self._forget()
        return tuple(entry.member for entry in self._entries.values() if not self._alive(entry))

    def report_of(self, member_id: str) -> MemberReport:
        """The last report of a member; empty where there is none."""
        entry = self._entries.get(member_id)
        return entry.report if entry is not None else {}

    def version_of(self, member_id: str) -> Version | None:
        """What a member has acknowledged."""
        entry = self._entries.get(member_id)
        return entry.version if entry is not None else None

    def age_of(self, member_id: str) -> float:
        """Seconds since a member was seen; infinite for one that is not known."""
        entry = self._entries.get(member_id)
        return self._clock() - entry.seen_at if entry is not None else math.inf

    def has(self, member_id: str, version: Version) -> bool:
        """Whether a member has acknowledged this version, or a later one of its incarnation."""
        return _covers(self.version_of(member_id), version)

    async def acknowledged(
        self, version: Version, kinds: Collection[MemberKind], timeout_s: float
    ) -> Acknowledgement:
        """Waits until every live member of these kinds has a version, or has died meanwhile.

        Who joins meanwhile is waited for as well: it may serve what it had before.

        Args:
            version: The version, or a later one of its incarnation.
            kinds: Of the members to wait for.
            timeout_s: By this object's clock.
        """
        until = self._clock() + timeout_s
        expected: dict[str, None] = {}
        while True:
            live = [member.id for member in self.live() if member.kind in kinds]
            expected.update(dict.fromkeys(live))
            missing = tuple(member for member in live if not self.has(member, version))
            if not missing or self._clock() >= until:
                break
            await self._signal.wait(self._tick_s)
        confirmed = tuple(member for member in expected if self.has(member, version))
        lost = tuple(item for item in expected if item not in (*confirmed, *missing))
        return Acknowledgement(confirmed, missing, lost)

    def _alive(self, entry: _Entry) -> bool:
        return self._clock() - entry.seen_at < self.expires_s

    def _forget(self) -> None:
        limit = self._clock() - _FORGOTTEN_AFTER * self.expires_s
        self._entries = {key: item for key, item in self._entries.items() if item.seen_at > limit}


def _covers(has: Version | None, wanted: Version) -> bool:
    return has is not None and has[0] == wanted[0] and has[1] >= wanted[1]
