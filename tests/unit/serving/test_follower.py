"""A follower of a real control plane, over a link that can be cut."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from serve_app.control.members import Member, MemberReport, ModelReport
from serve_app.control.plane import ControlPlane
from serve_app.control.snapshot import ServingSnapshot
from serve_app.control.version import Version
from serve_app.errors import NotReadyError
from serve_app.models.registry import DynamicModelRegistry
from serve_app.serving.follower import Follower
from tests.unit.control.fleet import POOLS, Source, spec

_Answer = TypeVar("_Answer")


class Link:
    """To a control plane that may be cut off, or be exchanged for another."""

    def __init__(self, plane: ControlPlane) -> None:
        self.plane = plane
        self.cut = False
        self.joins = 0
        self.reports: list[MemberReport] = []

    async def current(self) -> ServingSnapshot:
        return await self._over(self.plane.current)

    async def join(
        self,
        member: Member,
        holding: ServingSnapshot | None = None,
        report: MemberReport | None = None,
    ) -> ServingSnapshot:
        self.joins += 1
        return await self._over(lambda: self.plane.join(member, holding, report))

    async def follow(
        self,
        member_id: str,
        version: Version | None,
        report: MemberReport | None = None,
        timeout_s: float = 30.0,
    ) -> ServingSnapshot | None:
        self.reports.append(dict(report or {}))
        return await self._over(
            lambda: self.plane.follow(member_id, version, report, min(timeout_s, 0.2))
        )

    async def _over(self, call: Callable[[], Awaitable[_Answer]]) -> _Answer:
        if self.cut:
            raise NotReadyError("The control plane cannot be reached.")
        return await call()


async def _plane(source: Source) -> ControlPlane:
    plane = ControlPlane(DynamicModelRegistry(POOLS), source)
    await plane.start()
    return plane


async def _until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not true():
            await asyncio.sleep(0.005)


async def test_it_takes_over_what_is_published_and_acknowledges_it() -> None:
    source = Source({"a": spec(), "b": spec(1)})
    plane = await _plane(source)
    seen: list[ServingSnapshot] = []
    follower = Follower(Link(plane), Member("i", "ingress"), seen.append)
    first = await follower.join()
    follower.start()
    source.models = {"a": spec(), "b": spec(1), "c": spec(2)}
    await plane.poll()  # says that there will be a new model
    await plane.poll()  # it may answer
    await _until(lambda: "c" in seen[-1].models)
    assert seen[0] is first
    description = await plane.describe()
    assert description.version == seen[-1].version
    await _until_current(plane)
    follower.close()


async def _until_current(plane: ControlPlane) -> None:
    async with asyncio.timeout(10):
        while not all(member.current for member in (await plane.describe()).members):
            await asyncio.sleep(0.01)


async def test_current_makes_no_member() -> None:
    plane = await _plane(Source({"a": spec()}))
    seen: list[ServingSnapshot] = []
    follower = Follower(Link(plane), Member("r", "pool", "default"), seen.append)
    current = await follower.current()
    assert follower.snapshot is current
    assert (await plane.describe()).members == ()
    await follower.join()
    assert [member.id for member in (await plane.describe()).members] == ["r"]
    assert len(seen) == 1, "the same version is taken over once"


async def test_it_goes_on_while_the_control_plane_is_gone_and_joins_its_successor() -> None:
    source = Source({"a": spec()})
    link = Link(await _plane(source))
    seen: list[ServingSnapshot] = []
    follower = Follower(link, Member("i", "ingress"), seen.append)
    await follower.join()
    follower.start()
    link.cut = True
    await asyncio.sleep(0.3)
    assert len(seen) == 1
    link.plane = await _plane(source)
    link.cut = False
    await _until(lambda: seen[-1].version[0] != seen[0].version[0])
    assert link.joins == 2
    assert dict(seen[-1].active) == dict(seen[0].active)
    follower.close()


async def test_a_report_does_not_wait_for_the_end_of_a_poll() -> None:
    plane = await _plane(Source({"a": spec()}))
    link = Link(plane)
    report: dict[str, ModelReport] = {}
    follower = Follower(link, Member("r", "pool", "default"), lambda _: None, lambda: report)
    await follower.join()
    follower.start()
    await _until(lambda: bool(link.reports))
    report["a@1"] = ModelReport("ready")
    follower.report_soon()
    await asyncio.sleep(0.02)
    assert link.reports[-1] == {"a@1": ModelReport("ready")}
    report["a@1"] = ModelReport("failed", 1, "why")
    follower.report_soon()
    await asyncio.sleep(0.02)
    assert link.reports[-1] == {"a@1": ModelReport("failed", 1, "why")}
    follower.close()


async def test_a_snapshot_that_cannot_be_taken_over_is_not_acknowledged() -> None:
    source = Source({"a": spec()})
    plane = await _plane(source)
    broken = False

    def apply(snapshot: ServingSnapshot) -> None:
        if broken:
            raise RuntimeError("no")

    follower = Follower(Link(plane), Member("i", "ingress"), apply)
    held = await follower.join()
    follower.start()
    broken = True
    source.models = {"a": spec(), "b": spec(1)}
    await plane.poll()
    await plane.poll()
    await asyncio.sleep(0.3)
    assert follower.snapshot is held
    assert not (await plane.describe()).members[0].current
    broken = False
    await _until(lambda: follower.snapshot is not held)
    follower.close()


async def test_it_waits_for_a_control_plane_that_starts() -> None:
    link = Link(await _plane(Source({"a": spec()})))
    link.cut = True
    follower = Follower(link, Member("i", "ingress"), lambda _: None)
    joining = asyncio.ensure_future(follower.join())
    await asyncio.sleep(0.3)
    assert not joining.done()
    link.cut = False
    assert (await joining).default == "a"
