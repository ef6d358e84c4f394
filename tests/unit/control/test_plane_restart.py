from __future__ import annotations

from pathlib import Path

import pytest

from serve_app.control.members import Member, UnknownMemberError
from serve_app.control.operations import Clear, Promote, Rollback, SetWeights
from serve_app.control.sqlite_store import SqliteStateStore
from serve_app.control.store import StateStore
from tests.unit.control.fleet import (
    Fleet,
    Ingress,
    Replica,
    eventually,
    fleet,
    id_of,
    new_id,
    settle,
    spec,
)

TWO = {"fast": spec(1), "slow": spec(2)}
ROUTING = {"default": "fast", "experiments": {"e": {"arms": {"fast": 100, "slow": 0}}}}
WHO = {"who": "ada", "reason": "a test"}


async def started(made: Fleet) -> tuple[Replica, Ingress]:
    replica, ingress = Replica("r1"), Ingress("i1")
    await made.add(replica, ingress)
    await made.complete()
    return replica, ingress


def stored(folder: Path) -> StateStore:
    return SqliteStateStore(f"sqlite:///{folder / 'state.db'}")


async def test_overrides_outlive_the_plane_and_all_members(tmp_path: Path) -> None:
    store = stored(tmp_path)
    async with fleet(TWO, ROUTING, store=store) as made:
        await started(made)
        weights = SetWeights(experiment="e", arms={"fast": 30, "slow": 70}, **WHO)
        await made.plane.operate(weights)
        await made.plane.operate(Promote(target="slow", **WHO))
    store.close()

    store = stored(tmp_path)
    async with fleet(TWO, ROUTING, store=store) as again:
        replica, ingress = Replica("r9"), Ingress("i9")
        await again.add(replica, ingress)
        await again.complete()
        assert ingress.snapshot is not None
        assert ingress.answer() == id_of(again, "slow")
        assert dict(ingress.snapshot.routing.spec.experiments["e"].arms) == {"fast": 30, "slow": 70}
        assert ingress.snapshot.overrides.reason == "a test"
        assert set(replica.states) == set(ingress.snapshot.resident) and len(replica.states) == 2
        await again.plane.operate(Rollback(number=1, **WHO))
        assert ingress.answer() == id_of(again, "fast")
        whats = [entry.what for entry in await again.plane.audit(100)]
        assert "promote slow" in whats
    store.close()


async def test_a_change_while_the_plane_was_down_ends_overrides_and_is_rolled_out(
    tmp_path: Path,
) -> None:
    store = stored(tmp_path)
    async with fleet(TWO, ROUTING, store=store) as made:
        replica, ingress = await started(made)
        old, new = ingress.answer("fast"), new_id("fast", 7)
        await made.plane.operate(Promote(target="slow", **WHO))
        await made.kill_plane()
        store.close()
        made.source.models = {**TWO, "fast": spec(7)}
        replica.slow.add(new)
        store = stored(tmp_path)
        await made.restart_plane(store)
        await eventually(lambda: new in replica.states)
        await settle()
        # The default is the declared one again; it has the old revision until the new one is ready.
        assert (ingress.answer(), ingress.answer("fast")) == (old, old)
        assert ingress.snapshot is not None and not ingress.snapshot.overrides
        replica.finish(new)
        await made.complete()
        assert ingress.answer() == new
    store.close()


async def test_an_override_that_is_kept_outlives_a_change_while_the_plane_was_down(
    tmp_path: Path,
) -> None:
    store = stored(tmp_path)
    async with fleet(TWO, ROUTING, store=store) as made:
        _, ingress = await started(made)
        await made.plane.operate(Promote(target="slow", keep=True, **WHO))
        await made.kill_plane()
        store.close()
        made.source.models = {**TWO, "fast": spec(7)}
        store = stored(tmp_path)
        await made.restart_plane(store)
        await eventually(lambda: ingress.answer("fast") == new_id("fast", 7))
        assert ingress.answer() == id_of(made, "slow")
    store.close()


async def test_a_stored_plane_starts_though_the_document_is_broken(tmp_path: Path) -> None:
    store = stored(tmp_path)
    async with fleet(TWO, ROUTING, store=store) as made:
        _, ingress = await started(made)
        await made.declare({**TWO, "fast": spec(7)})
        await made.complete()
        await made.kill_plane()
        store.close()
        made.source.broken = "vanished"
        store = stored(tmp_path)
        await made.restart_plane(store)
        await eventually(lambda: bool(ingress.snapshot and ingress.snapshot.faults))
        assert ingress.answer() == new_id("fast", 7)
        assert (await made.plane.operate(Rollback(**WHO))).outcome == "in_effect"
        assert ingress.answer() == new_id("fast", 1)
    store.close()


async def test_a_restart_without_a_store_switches_nothing_by_itself() -> None:
    async with fleet(TWO, ROUTING) as made:
        replica, ingress = await started(made)
        await made.declare({**TWO, "fast": spec(7)})
        await made.complete()
        old, new = new_id("fast", 1), new_id("fast", 7)
        await made.plane.operate(Rollback(**WHO))
        assert ingress.answer() == old
        loads, seen = len(replica.loads), len(ingress.seen)

        await made.restart_plane()
        incarnation = made.plane._publisher.incarnation
        await eventually(
            lambda: ingress.snapshot is not None and ingress.snapshot.version[0] == incarnation
        )
        await made.complete()
        assert ingress.answer() == old
        assert all(item.active["fast"] == old for item in ingress.seen[seen:])
        assert len(replica.loads) == loads
        assert ingress.snapshot is not None
        assert ingress.snapshot.overrides.who == "ada"
        await made.plane.operate(Clear(**WHO))
        assert ingress.answer() == new


async def test_without_a_store_a_broken_change_is_not_switched_to_by_a_restart() -> None:
    async with fleet(TWO, ROUTING) as made:
        replica, ingress = await started(made)
        old, broken = ingress.answer(), new_id("fast", 7)
        replica.broken[broken] = "broken"
        await made.declare({**TWO, "fast": spec(7)})
        await eventually(lambda: broken in made.plane._publisher.progress.failures)
        seen = len(ingress.seen)
        await made.restart_plane()
        # A new replica is first; what it is given has to give way to what the others serve.
        await eventually(
            lambda: (
                ingress.snapshot is not None
                and ingress.snapshot.version[0] == made.plane._publisher.incarnation
            )
        )
        await eventually(lambda: broken in made.plane._publisher.progress.failures)
        await settle()
        assert ingress.answer() == old
        assert all(item.active["fast"] == old for item in ingress.seen[seen:])


async def test_who_is_new_may_come_before_those_who_know() -> None:
    async with fleet(TWO, ROUTING) as made:
        _, ingress = await started(made)
        old = ingress.answer()
        await made.kill_plane()
        made.source.models = {**TWO, "fast": spec(7)}
        knowing = made.followers
        made.followers = []
        await made.restart_plane()
        newcomer = Ingress("i2")
        await made.add(newcomer)
        assert newcomer.answer() == new_id("fast", 7)
        assert ingress.snapshot is not None
        await made.plane.join(Member("i1", "ingress"), ingress.snapshot)
        await eventually(lambda: newcomer.answer() == old)
        made.followers += knowing


async def test_adoption_ends_when_something_else_was_published() -> None:
    async with fleet(TWO, ROUTING) as made:
        _, ingress = await started(made)
        held = ingress.snapshot
        assert held is not None
        await made.kill_plane()
        made.followers = []
        made.source.models = {"fast": spec(7), "slow": spec(2)}
        await made.restart_plane()
        replica, newcomer = Replica("r2"), Ingress("i2")
        await made.add(replica, newcomer)
        await made.plane.operate(Promote(target="slow", **WHO))
        await made.plane.join(Member("i1", "ingress"), held)
        await settle()
        assert newcomer.answer() == id_of(made, "slow")
        assert newcomer.answer("fast") == new_id("fast", 7)
        # But what it may have sent is known.
        assert newcomer.answer(held.active["fast"]) == held.active["fast"]


async def test_adoption_ends_with_its_time() -> None:
    async with fleet(TWO, ROUTING) as made:
        _, ingress = await started(made)
        held = ingress.snapshot
        await made.kill_plane()
        made.followers = []
        made.source.models = {**TWO, "fast": spec(7)}
        await made.restart_plane()
        newcomer = Ingress("i2")
        await made.add(newcomer)
        made.clock.advance(61)
        await made.plane.join(Member("i1", "ingress"), held)
        await settle()
        assert newcomer.answer() == new_id("fast", 7)


async def test_who_is_not_known_must_join() -> None:
    async with fleet(TWO, ROUTING) as made:
        with pytest.raises(UnknownMemberError):
            await made.plane.follow("nobody", None)
        with pytest.raises(UnknownMemberError):
            made.plane.report("nobody", {})


async def test_without_a_store_and_with_faults_at_the_start_members_go_on() -> None:
    async with fleet(TWO, ROUTING) as made:
        replica, ingress = await started(made)
        old, loads = ingress.answer(), list(replica.loads)
        made.source.broken = "vanished"
        await made.restart_plane()
        await eventually(lambda: bool(ingress.snapshot and ingress.snapshot.faults))
        assert (ingress.answer(), replica.loads) == (old, loads)
        newcomer = Ingress("i2")
        await made.add(newcomer)
        assert newcomer.answer() == old
        made.source.broken = None
        await made.declare({**TWO, "fast": spec(7)})
        await made.complete()
        assert newcomer.answer() == new_id("fast", 7)


async def test_kept_overrides_that_no_longer_fit_do_not_keep_members_from_being_adopted() -> None:
    async with fleet(TWO, ROUTING) as made:
        _, ingress = await started(made)
        await made.plane.operate(Promote(target="slow", keep=True, **WHO))
        made.source.models, made.source.routing = {"fast": spec(1)}, {"default": "fast"}
        await made.restart_plane()
        await eventually(lambda: bool(ingress.snapshot and ingress.snapshot.faults))
        assert ingress.answer() == new_id("slow", 2)
