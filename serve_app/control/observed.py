"""What the planner sees of the members, at one moment; pure values."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field

from serve_app.control.members import MemberReport, Members, ModelReport
from serve_app.control.version import Version
from serve_app.models.snapshot import ResolvedModel

_ALL = float("inf")


@dataclass(frozen=True)
class Observed:
    """The live members.

    Attributes:
        now: Seconds, steady.
        wall: Seconds since 1970.
        pools: By pool, the report of each live replica by member id.
        pool_counter: By pool, the counter of the version that all live replicas have at least;
            a pool without any is not in it.
        ingress_counter: The same of the ingresses; infinite where there is none.
        fallen: By pool, the last report of each replica that is not heard of any more.
    """

    now: float = 0.0
    wall: float = 0.0
    pools: Mapping[str, Mapping[str, MemberReport]] = field(default_factory=dict)
    pool_counter: Mapping[str, float] = field(default_factory=dict)
    ingress_counter: float = _ALL
    fallen: Mapping[str, Mapping[str, MemberReport]] = field(default_factory=dict)

    def ready_on(self, model: ResolvedModel) -> tuple[int, int]:
        """How many replicas of the model's pool hold it, of how many."""
        replicas = self.pools.get(model.spec.pool, {}).values()
        ready = sum(_state(report, model.id) == "ready" for report in replicas)
        return ready, len(replicas)

    def everywhere(self, model: ResolvedModel) -> bool:
        """Whether every live replica of its pool holds it; there must be one."""
        ready, replicas = self.ready_on(model)
        return 0 < replicas == ready

    def known_since(self, pool: str, counter: int) -> bool:
        """Whether every live replica of a pool has what was published with this counter."""
        return self.pool_counter.get(pool, _ALL) >= counter

    def leases(self, model_id: str) -> int:
        """Requests that use a revision now."""
        return sum(
            report[model_id].leases
            for replicas in self.pools.values()
            for report in replicas.values()
            if model_id in report
        )

    def held(self, model_id: str) -> int:
        """How many replicas, of any pool, hold a revision."""
        return sum(
            _state(report, model_id) == "ready"
            for replicas in self.pools.values()
            for report in replicas.values()
        )

    def failure(self, model: ResolvedModel, attempt: int) -> str | None:
        """Why this attempt failed on a replica of the model's pool, if it did on any."""
        replicas = self.pools.get(model.spec.pool, {})
        failed = {
            member: report[model.id].reason or "it could not be loaded"
            for member, report in replicas.items()
            if _state(report, model.id) == "failed" and report[model.id].attempt == attempt
        }
        if not failed:
            return None
        reason = next(iter(failed.values()))
        return reason if len(replicas) == 1 else f"on {', '.join(failed)}: {reason}"

    def killed(self, model: ResolvedModel, attempt: int) -> str | None:
        """Which replica of the model's pool died in this attempt, if one did."""
        for member, report in self.fallen.get(model.spec.pool, {}).items():
            found = report.get(model.id)
            if found is not None and (found.state, found.attempt) == ("loading", attempt):
                return member
        return None

    def lives(self, member_id: str) -> bool:
        """Whether a replica is alive."""
        return any(member_id in replicas for replicas in self.pools.values())

    def tried(self, model: ResolvedModel) -> int:
        """The last attempt that ended on a replica of the model's pool; 0 where none did.

        A replica may remember it from a plane before this one.
        """
        fallen = self.fallen.get(model.spec.pool, {}).values()
        ended = (item.attempt for item in self._reports(model) if item.state != "loading")
        died = (report[model.id].attempt for report in fallen if model.id in report)
        return max((*ended, *died), default=0)

    def trying(self, model: ResolvedModel) -> int:
        """The attempt that a replica of the model's pool is in the middle of; 0 where none is."""
        going = (item.attempt for item in self._reports(model) if item.state == "loading")
        return max(going, default=0)

    def _reports(self, model: ResolvedModel) -> tuple[ModelReport, ...]:
        replicas = self.pools.get(model.spec.pool, {}).values()
        return tuple(report[model.id] for report in replicas if model.id in report)

    def troubles(self, model: ResolvedModel) -> tuple[str, ...]:
        """Replicas of its pool that could not load a revision, and why."""
        return tuple(
            f"cannot be loaded on {member}: {report[model.id].reason}"
            for member, report in self.pools.get(model.spec.pool, {}).items()
            if _state(report, model.id) == "failed"
        )

    def notes(self, model_id: str) -> tuple[str, ...]:
        """What replicas say about a revision, each once."""
        found = (
            report[model_id].note
            for replicas in self.pools.values()
            for report in replicas.values()
            if model_id in report
        )
        return tuple(dict.fromkeys(note for note in found if note))

    def tester(self, model: ResolvedModel, before: str | None) -> str | None:
        """The replica that tries a revision for all: the one from before, while it lives."""
        replicas = self.pools.get(model.spec.pool, {})
        if before in replicas:
            return before

        def preference(member: str) -> tuple[bool, int]:
            loads = _state(replicas[member], model.id) == "loading"
            # Not always the first: all trials would come to one replica.
            return loads, zlib.crc32(f"{model.id} {member}".encode())

        return max(replicas, key=preference, default=None)


def observe(members: Members, incarnation: str, now: float, wall: float) -> Observed:
    """Looks at the live members.

    Args:
        members: All of them.
        incarnation: Of this plane; versions of others count as nothing.
        now: Seconds, steady.
        wall: Seconds since 1970.
    """
    pools: dict[str, dict[str, MemberReport]] = {}
    pool_counter: dict[str, float] = {}
    ingress_counter = _ALL
    for member in members.live():
        counter = _counter(members.version_of(member.id), incarnation)
        if member.kind == "ingress" or member.pool is None:
            ingress_counter = min(ingress_counter, counter)
        else:
            pools.setdefault(member.pool, {})[member.id] = members.report_of(member.id)
            pool_counter[member.pool] = min(pool_counter.get(member.pool, _ALL), counter)
    fallen: dict[str, dict[str, MemberReport]] = {}
    for member in members.fallen():
        if member.pool is not None:
            fallen.setdefault(member.pool, {})[member.id] = members.report_of(member.id)
    return Observed(now, wall, pools, pool_counter, ingress_counter, fallen)


def _counter(version: Version | None, incarnation: str) -> float:
    return version[1] if version is not None and version[0] == incarnation else -_ALL


def _state(report: MemberReport, model_id: str) -> str | None:
    found = report.get(model_id)
    return found.state if found is not None else None
