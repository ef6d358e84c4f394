from __future__ import annotations

import asyncio

import pytest

from serve_app.control.members import (
    Acknowledgement,
    Member,
    Members,
    ModelReport,
    UnknownMemberError,
)
from tests.unit.control.fleet import Clock, settle

INGRESS, OTHER, REPLICA = (
    Member("i1", "ingress"),
    Member("i2", "ingress"),
    Member("r1", "pool", "default"),
)


def members(clock: Clock, *joined: Member) -> Members:
    made = Members(clock, expires_s=5, tick_s=0.002)
    for member in joined:
        made.join(member)
    return made


def test_who_is_silent_is_dead_and_who_speaks_again_lives() -> None:
    clock = Clock()
    made = members(clock, INGRESS, REPLICA)
    clock.advance(4.9)
    assert made.live() == (INGRESS, REPLICA)
    assert made.seen("i1") is False
    clock.advance(0.2)
    assert made.live() == (INGRESS,)
    assert made.live("pool", "default") == ()
    assert made.seen("r1") is True
    assert made.live("pool", "default") == (REPLICA,)
    assert made.live("pool", "other") == ()


def test_who_was_silent_for_long_is_forgotten() -> None:
    clock = Clock()
    made = members(clock, INGRESS)
    clock.advance(51)
    assert made.live() == ()
    with pytest.raises(UnknownMemberError):
        made.seen("i1")


def test_only_news_is_news() -> None:
    made = members(Clock(), REPLICA)
    report = {"m@1": ModelReport("ready")}
    assert made.seen("r1", ("a", 1), report)
    assert not made.seen("r1", ("a", 1), dict(report))
    assert not made.seen("r1")
    assert made.report_of("r1") == report
    assert made.seen("r1", ("a", 2))
    assert made.seen("r1", None, {"m@1": ModelReport("ready", leases=1)})


@pytest.mark.parametrize(
    ("has", "covers"),
    [(("a", 3), False), (("a", 4), True), (("a", 5), True), (("b", 9), False), (None, False)],
)
def test_a_later_version_of_the_same_plane_acknowledges_earlier_ones(
    has: tuple[str, int] | None, covers: bool
) -> None:
    made = members(Clock(), INGRESS)
    made.seen("i1", has)
    assert made.has("i1", ("a", 4)) is covers


async def test_an_acknowledgement_waits_for_all_of_the_kind() -> None:
    made = members(Clock(), INGRESS, OTHER, REPLICA)
    task = asyncio.create_task(made.acknowledged(("a", 1), ("ingress",), 100))
    made.seen("i1", ("a", 1))
    await settle()
    assert not task.done()
    made.seen("i2", ("a", 1))
    assert await task == Acknowledgement(("i1", "i2"))


async def test_who_leaves_or_dies_is_lost_and_who_is_late_is_missing() -> None:
    clock = Clock()
    made = members(clock, INGRESS, OTHER, Member("i3", "ingress"))
    made.seen("i1", ("a", 1))
    task = asyncio.create_task(made.acknowledged(("a", 1), ("ingress",), 6))
    await settle()
    made.leave("i3")
    clock.advance(4)
    made.seen("i1")
    made.seen("i2")
    clock.advance(2)
    assert await task == Acknowledgement(("i1",), ("i2",), ("i3",))

    task = asyncio.create_task(made.acknowledged(("a", 1), ("ingress",), 100))
    await settle()
    assert not task.done()
    clock.advance(3.5)  # nobody is told: the waiter has to look
    assert await task == Acknowledgement(("i1",), (), ("i2",))


async def test_who_joins_meanwhile_is_waited_for() -> None:
    made = members(Clock(), INGRESS)
    task = asyncio.create_task(made.acknowledged(("a", 1), ("ingress",), 100))
    await settle()
    made.join(OTHER)
    made.seen("i1", ("a", 1))
    await settle()
    assert not task.done()
    made.seen("i2", ("a", 2))
    assert await task == Acknowledgement(("i1", "i2"))


async def test_with_nobody_there_an_acknowledgement_is_immediate() -> None:
    assert await members(Clock(), REPLICA).acknowledged(("a", 1), ("ingress",), 100) == (
        Acknowledgement()
    )
