from __future__ import annotations

import pytest

from serve_app.control.members import Member, ModelReport
from serve_app.control.plane import ControlPlane
from serve_app.control.snapshot import ModelState, ServingSnapshot
from serve_app.errors import Fault, NotReadyError, UnknownModelError
from serve_app.models.registry import DynamicModelRegistry
from tests.unit.control.fleet import (
    EXPIRES_S,
    POOLS,
    Ingress,
    Replica,
    Source,
    eventually,
    eventually_async,
    fleet,
    id_of,
    new_id,
    settle,
    spec,
)

TWO = {"fast": spec(1), "slow": spec(2)}
DEFAULT = {"default": "fast"}


async def test_a_fresh_plane_serves_what_is_declared() -> None:
    async with fleet(TWO, DEFAULT) as made:
        replica, ingress = Replica("r1"), Ingress("i1")
        await made.add(replica, ingress)
        await made.complete()
        assert ingress.answer() == id_of(made, "fast")
        assert ingress.answer("slow") == id_of(made, "slow")
        assert replica.loads == [(id_of(made, "fast"), 0)]  # the other one loads on demand
        assert (await made.status(id_of(made, "fast"))).state == "active"


async def test_a_changed_model_is_loaded_everywhere_before_it_answers() -> None:
    async with fleet(TWO, DEFAULT) as made:
        one, two, ingress = Replica("r1"), Replica("r2"), Ingress("i1")
        await made.add(one, two, ingress)
        await made.complete()
        old = ingress.answer()
        new = new_id("fast", 7)
        two.slow.add(new)
        await made.declare({**TWO, "fast": spec(7)})
        assert id_of(made, "fast") == new
        await eventually(lambda: two.states.get(new) is not None)
        await eventually(lambda: one.states[new].state == "ready")
        await settle()
        assert ingress.answer() == old
        status = await made.status(new)
        assert (status.state, status.note) == ("loading", "ready on 1 of 2 replicas")
        two.finish(new)
        await made.complete()
        assert ingress.answer() == new
        assert one.loads[-1] == two.loads[-1] == (new, 1)
        # Who knows the switch knew the catalog with both before.
        switch = next(item for item in ingress.seen if item.active["fast"] == new)
        assert old in switch.catalog and new in switch.resident
        assert (await made.status(old)).state == "draining"


async def test_a_broken_model_never_takes_the_place_of_a_good_one() -> None:
    async with fleet(TWO, {"default": "fast", "aliases": {"other": "slow"}}) as made:
        one, two, ingress = Replica("r1"), Replica("r2"), Ingress("i1")
        await made.add(one, two, ingress)
        await made.complete()
        old, broken = ingress.answer(), new_id("fast", 7)
        better = new_id("slow", 8)
        two.broken[broken] = "the checkpoint is no checkpoint"
        await made.declare({"fast": spec(7), "slow": spec(8)})
        await eventually(lambda: ingress.answer("slow") == better)  # that one is untouched
        await eventually(lambda: broken in made.plane._publisher.progress.failures)
        assert ingress.answer() == old

        told = await made.plane.describe()
        status = told.statuses[broken]
        assert status.state == "failed"
        assert status.reason == "on r2: the checkpoint is no checkpoint"
        assert "the checkpoint is no checkpoint" in told.waiting["fast"]
        assert (told.complete, told.number, told.target) == (False, 1, 2)
        with pytest.raises(UnknownModelError, match="no revision"):
            ingress.answer("fast@00000000")

        assert [attempt for key, attempt in two.loads if key == broken] == [1]
        for attempt, wait in ((2, 5.0), (3, 10.0), (4, 20.0)):
            made.clock.advance(wait - 0.1)
            await settle()
            assert len([1 for key, _ in two.loads if key == broken]) == attempt - 1
            made.clock.advance(0.2)
            await eventually(lambda n=attempt: two.loads[-1] == (broken, n))  # type: ignore[misc]
            await eventually(
                lambda n=attempt: made.plane._publisher.progress.failures[broken].attempt == n  # type: ignore[misc]
            )
        assert ingress.answer() == old

        two.broken.clear()
        made.clock.advance(41)
        await made.complete()
        assert ingress.answer() == broken
        assert (await made.status(broken)).reason is None


async def test_a_member_that_dies_holds_nothing_up() -> None:
    async with fleet(TWO, DEFAULT) as made:
        one, two, ingress = Replica("r1"), Replica("r2"), Ingress("i1")
        await made.add(one, two, ingress)
        await made.complete()
        new = new_id("fast", 7)
        two.slow.add(new)
        await made.declare({**TWO, "fast": spec(7)})
        await eventually(lambda: new in two.states)
        await settle()
        assert ingress.answer() != new
        await two.stop()
        made.clock.advance(EXPIRES_S - 1)
        await settle()
        assert ingress.answer() != new
        made.clock.advance(2)
        await made.complete()
        assert ingress.answer() == new


async def test_a_member_that_leaves_in_order_is_not_waited_for() -> None:
    async with fleet(TWO, DEFAULT) as made:
        one, two, ingress = Replica("r1"), Replica("r2"), Ingress("i1")
        await made.add(one, two, ingress)
        new = new_id("fast", 7)
        two.slow.add(new)
        await made.declare({**TWO, "fast": spec(7)})
        await eventually(lambda: new in two.states)
        await two.stop()
        made.plane.leave("r2")
        await made.complete()
        assert ingress.answer() == new


async def test_who_joins_in_between_must_hold_the_candidate_too() -> None:
    async with fleet(TWO, DEFAULT) as made:
        one, two, ingress = Replica("r1"), Replica("r2"), Ingress("i1")
        await made.add(one, ingress)
        await made.complete()
        old, new = ingress.answer(), new_id("fast", 7)
        one.slow.add(new)
        two.slow.add(new)
        await made.declare({**TWO, "fast": spec(7)})
        await eventually(lambda: new in one.states)
        await made.add(two)
        await settle()
        assert two.loads == [(old, 0)], "the first has not said yet that it can be loaded"
        one.finish(new)
        await eventually(lambda: new in two.states)
        assert two.loads == [(old, 0), (new, 1)]
        await settle()
        assert ingress.answer() == old
        two.finish(new)
        await made.complete()
        assert ingress.answer() == new


async def test_one_replica_tries_before_all_load() -> None:
    async with fleet(TWO, DEFAULT) as made:
        replicas, ingress = [Replica(f"r{number}") for number in range(3)], Ingress("i1")
        await made.add(*replicas, ingress)
        await made.complete()
        broken = new_id("fast", 7)
        for replica in replicas:
            replica.broken[broken] = "no"
        await made.declare({**TWO, "fast": spec(7)})
        await eventually(lambda: broken in made.plane._publisher.progress.failures)
        await settle()
        assert sum((broken, 1) in replica.loads for replica in replicas) == 1
        for replica in replicas:
            replica.broken.clear()
        made.clock.advance(6)
        await made.complete()
        assert ingress.answer() == broken
        assert all((broken, 2) in replica.loads for replica in replicas)


async def test_a_candidate_that_kills_a_replica_costs_one_and_is_not_tried_again_at_once() -> None:
    async with fleet(TWO, DEFAULT) as made:
        one, two, ingress = Replica("r1"), Replica("r2"), Ingress("i1")
        await made.add(one, two, ingress)
        await made.complete()
        old, deadly = ingress.answer(), new_id("fast", 7)
        for replica in (one, two):
            replica.slow.add(deadly)
        await made.declare({**TWO, "fast": spec(7)})
        await eventually(lambda: deadly in one.states or deadly in two.states)
        victim, other = (one, two) if deadly in one.states else (two, one)
        await victim.stop()
        again = Replica("r3")  # what comes in its place must not be killed too
        again.slow.add(deadly)
        await made.add(again)
        await settle()
        made.clock.advance(EXPIRES_S + 1)
        await eventually(lambda: deadly in made.plane._publisher.progress.failures)
        reason = (await made.status(deadly)).reason
        assert reason is not None and f"{victim.member.id} died while it loaded it" in reason
        for _ in range(4):
            made.clock.advance(70)
            await settle()
        assert all(key != deadly for follower in (other, again) for key, _ in follower.loads)
        assert ingress.answer() == old
        made.clock.advance(30)
        await eventually(lambda: any(key == deadly for key, _ in (*other.loads, *again.loads)))


async def test_what_killed_the_only_replica_does_not_kill_the_one_that_comes_in_its_place() -> None:
    async with fleet(TWO, DEFAULT) as made:
        only, ingress = Replica("r1"), Ingress("i1")
        await made.add(only, ingress)
        await made.complete()
        old, deadly = ingress.answer(), new_id("fast", 7)
        only.slow.add(deadly)
        await made.declare({**TWO, "fast": spec(7)})
        await eventually(lambda: deadly in only.states)
        await settle()
        await only.stop()
        again = Replica("r2")
        await made.add(again)
        await settle()
        made.clock.advance(EXPIRES_S + 1)
        await eventually(lambda: deadly in made.plane._publisher.progress.failures)
        made.clock.advance(299)
        await settle()
        assert again.loads == [(old, 0)]
        status = await made.status(deadly)
        assert (status.state, status.reason) == (
            "failed",
            "the replica r1 died while it loaded it, perhaps for want of memory",
        )
        assert (await made.plane.describe()).retry_in_s[deadly] == pytest.approx(1)
        made.clock.advance(2)  # whoever comes may be larger, or the file another one
        await made.complete()
        assert again.loads == [(old, 0), (deadly, 2)]


async def test_a_plane_that_starts_while_a_replica_tries_counts_its_death() -> None:
    async with fleet(TWO, DEFAULT) as made:
        replicas, ingress = [Replica("r1"), Replica("r2"), Replica("r3")], Ingress("i1")
        await made.add(*replicas, ingress)
        await made.complete()
        deadly = new_id("fast", 7)
        for replica in replicas:
            replica.slow.add(deadly)
        await made.declare({**TWO, "fast": spec(7)})
        await eventually(lambda: any(deadly in replica.states for replica in replicas))
        victim = next(replica for replica in replicas if deadly in replica.states)
        await settle()
        await made.restart_plane()
        await settle()
        assert victim.loads[-1] == (deadly, 1), "it goes on"
        await victim.stop()
        made.clock.advance(EXPIRES_S + 1)
        await eventually(lambda: deadly in made.plane._publisher.progress.failures)
        await settle()
        assert sum(deadly == key for replica in replicas for key, _ in replica.loads) == 1


async def test_a_starting_replica_is_not_waited_for_until_it_joins_with_what_it_holds() -> None:
    async with fleet(TWO, DEFAULT) as made:
        one, ingress = Replica("r1"), Ingress("i1")
        await made.add(one, ingress)
        await made.complete()
        current = await made.plane.current()
        assert current is made.plane._publisher.current
        new = new_id("fast", 7)
        await made.declare({**TWO, "fast": spec(7)})
        await made.complete()
        assert ingress.answer() == new
        report = {model_id: ModelReport("ready") for model_id in current.resident}
        joined = await made.plane.join(Member("r2", "pool", "default"), None, report)
        assert new in joined.resident
        told = {member.id: member for member in (await made.plane.describe()).members}
        assert dict(told["r2"].report) == report


async def test_an_observer_is_told_and_its_errors_hurt_nobody() -> None:
    states: list[tuple[str, str]] = []

    class Observer:
        def state(self, model_id: str, state: ModelState, reason: str | None) -> None:
            states.append((model_id, state))
            raise RuntimeError("the observer is broken")

        def refused(self, faults: tuple[Fault, ...]) -> None:
            states.append(("faults", str(len(faults))))

        def published(self, snapshot: ServingSnapshot) -> None:
            raise RuntimeError("the observer is broken")

    source = Source(TWO)
    plane = ControlPlane(DynamicModelRegistry(POOLS), source, observer=Observer())
    await plane.start()
    snapshot = await plane.current()
    assert (snapshot.active["fast"], "active") in states
    source.broken = "is empty"
    await plane.poll()
    source.broken = None
    await plane.poll()
    assert states[-2:] == [("faults", "1"), ("faults", "0")]


async def test_each_state_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="serve_app.control")
    async with fleet(TWO, DEFAULT) as made:
        replica, ingress = Replica("r1"), Ingress("i1")
        await made.add(replica, ingress)
        await made.complete()
        old, broken, new = new_id("fast", 1), new_id("fast", 6), new_id("fast", 7)
        replica.broken[broken] = "no such file"
        await made.declare({**TWO, "fast": spec(6)})
        await eventually(lambda: broken in made.plane._publisher.progress.failures)
        replica.slow.add(new)
        await made.declare({**TWO, "fast": spec(7)})
        await eventually(lambda: new in replica.states)
        replica.finish(new)
        await made.complete()
        made.clock.advance(1)
        replica.states.pop(old)
        replica.tell()

        async def unloaded() -> bool:
            return bool((await made.status(old)).state == "unloaded")

        await eventually_async(unloaded)
        told = {
            model_id: [r.message for r in caplog.records if r.message.startswith(f"{model_id} is ")]
            for model_id in (old, broken, new)
        }
        states = {key: [line.partition(" is ")[2] for line in lines] for key, lines in told.items()}
        assert states[old] == ["active", "draining", "unloaded"]
        assert states[broken][:2] == ["loading", "failed: no such file"]
        assert states[new] == ["loading", "active"]
        assert all(
            r.name.startswith("serve_app.control") for r in caplog.records if "fast@" in r.message
        )


async def test_without_a_replica_nothing_is_switched() -> None:
    async with fleet(TWO, DEFAULT) as made:
        ingress = Ingress("i1")
        await made.add(ingress)
        old = ingress.answer()
        await made.declare({**TWO, "fast": spec(7)})
        await settle()
        assert ingress.answer() == old
        waiting = (await made.plane.describe()).waiting
        assert waiting == {"fast": f"{new_id('fast', 7)} waits for a replica of the pool 'default'"}
        await made.add(Replica("r1"))
        await made.complete()
        assert ingress.answer() != old


async def test_a_new_model_that_nothing_routes_to_answers_at_once_and_loads_on_demand() -> None:
    async with fleet(TWO, DEFAULT) as made:
        replica, ingress = Replica("r1"), Ingress("i1")
        await made.add(replica, ingress)
        await made.complete()
        replica.gate.clear()
        await made.declare({**TWO, "new": spec(3)})
        await settle()
        new = new_id("new", 3)
        # The replica has not heard of it, so the ingress must not send it anything.
        assert made.plane._publisher.current is not None
        assert new in made.plane._publisher.current.catalog
        with pytest.raises(UnknownModelError, match="does not answer: it is declared"):
            made.plane._publisher.current.resolve("new")
        replica.gate.set()
        await made.complete()
        assert ingress.answer("new") == new
        assert new not in [key for key, _ in replica.loads]


async def test_a_changed_model_on_demand_is_tried_by_one_replica() -> None:
    async with fleet(TWO, DEFAULT) as made:
        replicas, ingress = [Replica("r1"), Replica("r2")], Ingress("i1")
        await made.add(*replicas, ingress)
        await made.complete()
        old, new = ingress.answer("slow"), new_id("slow", 7)
        for replica in replicas:
            replica.broken[new] = "broken"
        await made.declare({**TWO, "slow": spec(7)})
        await eventually(lambda: new in made.plane._publisher.progress.failures)
        assert ingress.answer("slow") == old
        for replica in replicas:
            replica.broken.clear()
        made.clock.advance(5)
        await made.complete()
        assert ingress.answer("slow") == new
        who = [replica for replica in replicas if new in [key for key, _ in replica.loads]]
        assert len(who) == 1 and [attempt for _, attempt in who[0].loads[1:]] == [1, 2]


async def test_a_removed_model_drains_and_is_forgotten() -> None:
    async with fleet(TWO, {"default": "fast", "aliases": {"other": "slow"}}) as made:
        replica, ingress = Replica("r1"), Ingress("i1")
        await made.add(replica, ingress)
        await made.complete()
        gone = ingress.answer("slow")
        replica.leases[gone] = 1
        replica.tell()
        await made.declare({"fast": spec(1)}, {"default": "fast"})
        await made.complete()
        with pytest.raises(UnknownModelError):
            ingress.answer("slow")
        assert ingress.answer(gone) == gone  # requests may be on their way
        made.clock.advance(700)
        await settle()
        assert (await made.status(gone)).state == "draining"  # a request still uses it
        replica.leases.clear()
        await settle()
        made.clock.advance(599)
        await settle()
        assert (await made.status(gone)).note == "drained; still loaded on 1 replicas"
        made.clock.advance(2)
        await eventually(lambda: gone not in replica.states)
        await made.complete()
        with pytest.raises(UnknownModelError):
            ingress.answer(gone)


async def test_a_model_that_moves_to_another_pool_is_loaded_there_first() -> None:
    async with fleet(TWO, DEFAULT) as made:
        here, there, ingress = Replica("r1"), Replica("r2", "other"), Ingress("i1")
        await made.add(here, there, ingress)
        await made.complete()
        fast = ingress.answer()
        there.slow.add(fast)
        await made.declare({**TWO, "fast": spec(1, pool="other")})
        await eventually(lambda: fast in there.states)
        await settle()
        assert ingress.snapshot is not None
        assert ingress.snapshot.by_id(fast).spec.pool == "default"
        status = await made.status(fast)
        assert status.state == "active"
        assert status.note == "moves to the pool 'other': one replica tries it: r2"
        there.finish(fast)
        await made.complete()
        assert ingress.snapshot.by_id(fast).spec.pool == "other"
        assert [model.id for model in ingress.snapshot.for_pool("other")] == [fast]


async def test_weights_wait_for_the_model_that_they_send_requests_to() -> None:
    experiment = {"arms": {"fast": 100, "slow": 0}}
    routing = {"default": "fast", "experiments": {"e": experiment}}
    async with fleet(TWO, routing) as made:
        replica, ingress = Replica("r1"), Ingress("i1")
        await made.add(replica, ingress)
        await made.complete()
        slow = id_of(made, "slow")
        assert slow not in replica.states
        replica.slow.add(slow)
        arms = {"fast": 50, "slow": 50}
        await made.declare(routing={**routing, "experiments": {"e": {"arms": arms}}})
        await eventually(lambda: slow in replica.states)
        await settle()
        assert ingress.snapshot is not None
        assert dict(ingress.snapshot.routing.spec.experiments["e"].arms) == {"fast": 100, "slow": 0}
        replica.finish(slow)
        await made.complete()
        assert dict(ingress.snapshot.routing.spec.experiments["e"].arms) == arms
        for seen in ingress.seen:  # at no moment was anything routed to that is not resident
            for name in seen.routing.routed():
                assert seen.active[name] in seen.resident


async def test_the_order_of_arms_is_a_change_for_the_first_is_the_control() -> None:
    routing = {"default": "fast", "experiments": {"e": {"arms": {"fast": 50, "slow": 50}}}}
    async with fleet(TWO, routing) as made:
        replica, ingress = Replica("r1"), Ingress("i1")
        await made.add(replica, ingress)
        await made.complete()
        turned = {"e": {"arms": {"slow": 50, "fast": 50}}}
        await made.declare(routing={"default": "fast", "experiments": turned})
        await eventually(
            lambda: (
                ingress.snapshot is not None
                and ingress.snapshot.routing.spec.experiments["e"].control == "slow"
            )
        )


async def test_a_refused_document_changes_nothing_and_is_reported(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with fleet(TWO, DEFAULT) as made:
        replica, ingress = Replica("r1"), Ingress("i1")
        await made.add(replica, ingress)
        await made.complete()
        before = ingress.snapshot
        assert before is not None

        await made.declare(
            {"fast": spec(7, pool="nowhere"), "slow": spec(2, precison="fp32")},
            {"default": "fsat"},
        )
        await made.plane.poll()
        await eventually(lambda: bool(ingress.snapshot and ingress.snapshot.faults))
        assert ingress.snapshot is not None
        keys = [fault.key for fault in ingress.snapshot.faults]
        assert keys == [
            "models.yaml:fast.pool",
            "models.yaml:slow.precison",
            "SIMILARITY_ROUTING.default",
        ]
        assert ingress.snapshot.models == before.models
        assert len([1 for record in caplog.records if "refused" in record.message]) == 1

        made.source.broken = "vanished"
        await made.plane.poll()
        assert (await made.plane.describe()).faults == (Fault("models.yaml", "vanished"),)
        made.source.broken = None
        await made.declare({})
        assert "declares no model" in (await made.plane.describe()).faults[0].message
        assert ingress.snapshot.models == before.models

        await made.declare(TWO, DEFAULT)
        await eventually(lambda: bool(ingress.snapshot and not ingress.snapshot.faults))
        assert ingress.snapshot.models == before.models
        assert ingress.snapshot.number == 1


async def test_a_plane_that_finds_faults_at_its_start_waits_for_their_end() -> None:
    async with fleet({"fast": spec(1, pool="nowhere")}) as made:
        ingress = Ingress("i1")
        with pytest.raises(NotReadyError, match="nowhere"):
            await made.plane.join(ingress.member)
        await made.declare({"fast": spec(1)})
        await made.add(ingress)
        assert ingress.answer() == id_of(made, "fast")


async def test_a_model_that_becomes_preload_is_resident_once_it_is_loaded() -> None:
    async with fleet(TWO, DEFAULT) as made:
        replica, ingress = Replica("r1"), Ingress("i1")
        await made.add(replica, ingress)
        await made.complete()
        slow = id_of(made, "slow")
        replica.slow.add(slow)
        await made.declare({"fast": spec(1), "slow": spec(2, preload=True)})
        await eventually(lambda: slow in replica.states)
        await settle()
        assert ingress.snapshot is not None and slow not in ingress.snapshot.resident
        assert ingress.answer("slow") == slow
        replica.finish(slow)
        await made.complete()
        assert ingress.snapshot.resident == (ingress.answer(), slow)
