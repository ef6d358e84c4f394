from __future__ import annotations

import asyncio

import pytest

from serve_app.control.operations import Clear, Pin, Promote, Rollback, SetWeights, Unpin
from serve_app.control.store import MemoryStateStore
from serve_app.errors import ConfigError, Fault, InvalidRequestError, UnknownModelError
from tests.unit.control.fleet import (
    EXPIRES_S,
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


async def test_a_rollback_to_a_resident_revision_loads_nothing() -> None:
    async with fleet(TWO, ROUTING) as made:
        replica, ingress = await started(made)
        old = ingress.answer()
        await made.declare({**TWO, "fast": spec(7)})
        await made.complete()
        assert ingress.answer() == new_id("fast", 7)
        loads = list(replica.loads)

        result = await made.plane.operate(Rollback(**WHO))
        assert (result.outcome, result.number, result.confirmed) == ("in_effect", 1, ("i1",))
        assert ingress.answer() == old
        await made.complete()
        assert replica.loads == loads
        assert ingress.snapshot is not None
        assert ingress.snapshot.overrides.overrides.snapshot == 1
        assert (ingress.snapshot.overrides.who, ingress.snapshot.number) == ("ada", 1)

        entry = (await made.plane.audit(limit=10))[1]
        assert (entry.who, entry.why, entry.detail) == ("ada", "a test", "snapshot 1")
        with pytest.raises(InvalidRequestError, match="no earlier snapshot"):
            await made.plane.operate(Rollback(**WHO))

        await made.plane.operate(Clear(**WHO))
        assert ingress.answer() == new_id("fast", 7)
        assert not ingress.snapshot.overrides


async def test_one_can_go_back_step_by_step_and_to_any_number() -> None:
    async with fleet(TWO, ROUTING) as made:
        _, ingress = await started(made)
        for seed in (7, 8, 9):
            await made.declare({**TWO, "fast": spec(seed)})
            await made.complete()
        for number, seed in ((3, 8), (2, 7), (1, 1)):
            result = await made.plane.operate(Rollback(**WHO))
            assert (result.number, ingress.answer()) == (number, new_id("fast", seed))
        await made.plane.operate(Rollback(number=4, **WHO))
        assert ingress.answer() == new_id("fast", 9)
        with pytest.raises(InvalidRequestError, match=r"no snapshot 99; the last are: 1, 2, 3, 4"):
            await made.plane.operate(Rollback(number=99, **WHO))


async def test_no_ingress_answers_with_the_old_revision_once_an_operation_returned() -> None:
    async with fleet(TWO, ROUTING) as made:
        _, ingress = await started(made)
        late = Ingress("i2")
        await made.add(late)
        old = ingress.answer()
        await made.declare({**TWO, "fast": spec(7)})
        await made.complete()
        late.gate.clear()
        task = asyncio.create_task(made.plane.operate(Rollback(**WHO)))
        await eventually(lambda: ingress.answer() == old)
        await settle()
        assert not task.done()
        assert late.answer() != old
        late.gate.set()
        result = await task
        assert late.answer() == old
        assert set(result.confirmed) == {"i1", "i2"}


async def test_an_ingress_that_does_not_confirm_is_named() -> None:
    async with fleet(TWO, ROUTING) as made:
        _, ingress = await started(made)
        stuck = Ingress("i2")
        await made.add(stuck)
        stuck.gate.clear()
        task = asyncio.create_task(made.plane.operate(Promote(target="slow", **WHO)))
        await eventually(lambda: ingress.answer() == id_of(made, "slow"))
        await settle()
        made.clock.advance(51)
        result = await task
        assert (result.outcome, result.confirmed, result.missing) == ("in_effect", ("i1",), ("i2",))
        assert "i2" in result.detail


async def test_an_ingress_that_dies_does_not_hold_an_operation_up_and_is_named() -> None:
    async with fleet(TWO, ROUTING) as made:
        _, ingress = await started(made)
        dying = Ingress("i2")
        await made.add(dying)
        await dying.stop()
        made.clock.advance(EXPIRES_S - 10)
        await settle()
        task = asyncio.create_task(made.plane.operate(Promote(target="slow", **WHO)))
        await eventually(lambda: ingress.answer() == id_of(made, "slow"))
        await settle()
        assert not task.done()
        made.clock.advance(11)
        result = await task
        assert (result.confirmed, result.missing, result.lost) == (("i1",), (), ("i2",))


async def test_an_ingress_that_was_only_late_is_named_and_goes_on() -> None:
    async with fleet(TWO, ROUTING) as made:
        _, ingress = await started(made)
        late = Ingress("i2")
        await made.add(late)
        late.gate.clear()
        old = late.answer()
        task = asyncio.create_task(made.plane.operate(Promote(target="slow", **WHO)))
        await eventually(lambda: ingress.answer() == id_of(made, "slow"))
        await settle()
        made.clock.advance(EXPIRES_S + 1)
        result = await task
        assert (result.outcome, result.confirmed, result.lost) == ("in_effect", ("i1",), ("i2",))
        assert "not confirmed by i2" in result.detail
        assert late.answer() == old
        late.gate.set()  # it follows, and need not join anew
        await eventually(lambda: late.answer() == id_of(made, "slow"))
        assert "i2" in [member.id for member in (await made.plane.describe()).members]


async def test_weights_are_in_effect_once_the_arm_is_resident() -> None:
    async with fleet(TWO, ROUTING) as made:
        replica, ingress = await started(made)
        slow = id_of(made, "slow")
        replica.slow.add(slow)
        task = asyncio.create_task(
            made.plane.operate(SetWeights(experiment="e", arms={"fast": 90, "slow": 10}, **WHO))
        )
        await eventually(lambda: slow in replica.states)
        await settle()
        assert not task.done() and ingress.snapshot is not None
        assert ingress.snapshot.routing.spec.experiments["e"].arms["slow"] == 0
        replica.finish(slow)
        assert (await task).outcome == "in_effect"
        assert dict(ingress.snapshot.routing.spec.experiments["e"].arms) == {"fast": 90, "slow": 10}
        assert slow in ingress.snapshot.resident


async def test_an_operation_that_cannot_take_effect_is_withdrawn() -> None:
    async with fleet(TWO, ROUTING) as made:
        replica, ingress = await started(made)
        slow, fast = id_of(made, "slow"), ingress.answer()
        replica.broken[slow] = "out of memory"
        result = await made.plane.operate(Promote(target="slow", **WHO))
        assert (result.outcome, result.withdrawn, result.version) == ("failed", True, None)
        assert "out of memory" in result.detail
        assert (await made.plane.audit(limit=1))[0].what.startswith("withdrawn")
        replica.broken.clear()
        made.clock.advance(1000)
        await settle()
        assert ingress.answer() == fast
        assert not (await made.plane.describe()).overrides
        # Who asks again need not wait until the back-off is over.
        assert (await made.plane.operate(Promote(target="slow", **WHO))).outcome == "in_effect"
        assert ingress.answer() == slow


async def test_a_later_operation_goes_before_one_that_waits() -> None:
    async with fleet(TWO, ROUTING) as made:
        replica, ingress = await started(made)
        fast, slow = ingress.answer(), id_of(made, "slow")
        replica.slow.add(slow)
        task = asyncio.create_task(made.plane.operate(Promote(target="slow", **WHO)))
        await eventually(lambda: slow in replica.states)
        assert (await made.plane.operate(Clear(**WHO))).outcome == "in_effect"
        assert (await task).outcome == "superseded"
        replica.finish(slow)
        await settle()
        assert ingress.answer() == fast


async def test_an_operation_that_takes_too_long_goes_on() -> None:
    async with fleet(TWO, ROUTING) as made:
        replica, ingress = await started(made)
        slow = id_of(made, "slow")
        replica.slow.add(slow)
        task = asyncio.create_task(made.plane.operate(Promote(target="slow", **WHO), timeout_s=30))
        await eventually(lambda: slow in replica.states)
        made.clock.advance(31)
        result = await task
        assert (result.outcome, result.detail) == ("pending", f"{slow} is ready on 0 of 1 replicas")
        replica.finish(slow)
        await eventually(lambda: ingress.answer() == slow)


async def test_a_pin_is_resident_until_it_ends() -> None:
    async with fleet(TWO, ROUTING) as made:
        _, ingress = await started(made)
        slow = id_of(made, "slow")
        assert ingress.snapshot is not None and slow not in ingress.snapshot.resident
        assert (await made.plane.operate(Pin(name="slow", **WHO))).outcome == "in_effect"
        assert slow in ingress.snapshot.resident
        await made.plane.operate(Unpin(name="slow", **WHO))
        assert slow not in ingress.snapshot.resident
        assert (await made.plane.describe()).number == 1


async def test_what_cannot_be_is_refused_with_every_fault_and_changes_nothing() -> None:
    async with fleet(TWO, ROUTING) as made:
        _, ingress = await started(made)
        before = ingress.snapshot
        weights = {"fast": 50, "slow": 40}
        with pytest.raises(InvalidRequestError, match=r"weights\.e: must sum to 100 percent"):
            await made.plane.operate(SetWeights(experiment="e", arms=weights, **WHO))
        with pytest.raises(InvalidRequestError, match=r"no such experiment; declared are: e"):
            await made.plane.operate(SetWeights(experiment="zzz", arms={"fast": 100}, **WHO))
        with pytest.raises(InvalidRequestError, match=r"no model 'slwo'; did you mean 'slow'"):
            await made.plane.operate(Promote(target="slwo", **WHO))
        with pytest.raises(UnknownModelError, match="did you mean 'slow'"):
            await made.plane.operate(Pin(name="slwo", **WHO))
        with pytest.raises(InvalidRequestError, match="'fast' is not pinned; pinned are: none"):
            await made.plane.operate(Unpin(name="fast", **WHO))
        await settle()
        assert ingress.snapshot is before
        assert [entry.what for entry in await made.plane.audit()] == ["declared configuration"]


async def test_overrides_end_with_a_declared_change() -> None:
    async with fleet(TWO, ROUTING) as made:
        _, ingress = await started(made)
        await made.plane.operate(Promote(target="slow", **WHO))
        await made.plane.poll()
        assert ingress.answer() == id_of(made, "slow")  # nothing was declared anew
        await made.declare({**TWO, "new": spec(3)})
        await made.complete()
        assert ingress.answer() == id_of(made, "fast")
        assert ingress.snapshot is not None and not ingress.snapshot.overrides
        whats = [entry.what for entry in await made.plane.audit()]
        assert "declared configuration changed; overrides ended" in whats


async def test_overrides_that_are_not_kept_never_block_a_declared_change() -> None:
    async with fleet(TWO, ROUTING) as made:
        _, ingress = await started(made)
        await made.plane.operate(SetWeights(experiment="e", arms={"slow": 100.0}, **WHO))
        await made.declare({"fast": spec(1)}, {"default": "fast"})
        await made.complete()
        told = await made.plane.describe()
        assert (told.faults, bool(told.overrides)) == ((), False)
        assert list(ingress.snapshot.active if ingress.snapshot else ()) == ["fast"]


async def test_overrides_that_are_kept_outlast_a_declared_change() -> None:
    async with fleet(TWO, ROUTING) as made:
        _, ingress = await started(made)
        await made.plane.operate(Promote(target="slow", keep=True, **WHO))
        await made.declare({**TWO, "new": spec(3)})
        await made.complete()
        assert ingress.answer() == id_of(made, "slow")
        assert ingress.answer("new") == new_id("new", 3)
        # A change that they do not fit is refused: dropping them would switch in silence.
        await made.declare({"fast": spec(1)}, {"default": "fast"})
        faults = (await made.plane.describe()).faults
        assert [fault.key for fault in faults] == ["override default", "overrides"]
        assert "ada (a test)" in faults[1].message
        assert "serve-app clear" in faults[1].message
        await made.plane.operate(Clear(**WHO))
        await made.plane.poll()
        await made.complete()
        assert list(ingress.snapshot.active if ingress.snapshot else ()) == ["fast"]


async def test_kept_weights_that_no_longer_fit_are_named_and_kept_pins_do_not_mind() -> None:
    async with fleet({**TWO, "new": spec(3)}, ROUTING) as made:
        _, ingress = await started(made)
        await made.plane.operate(Pin(name="new", keep=True, **WHO))
        await made.declare(TWO)
        await made.complete()
        assert ingress.snapshot is not None and ingress.snapshot.overrides.overrides.pinned
        assert not ingress.snapshot.faults
        weights = SetWeights(experiment="e", arms={"slow": 100.0}, **WHO)
        assert (await made.plane.operate(weights)).outcome == "in_effect"
        await made.declare(TWO, {"default": "fast"})
        faults = (await made.plane.describe()).faults
        assert [fault.key for fault in faults] == ["override weights.e", "overrides"]
        assert "ada (a test)" in faults[1].message
        assert dict(ingress.snapshot.routing.spec.experiments["e"].arms) == {"fast": 0, "slow": 100}


async def test_a_store_that_fails_keeps_everything_as_it_is() -> None:
    class Failing(MemoryStateStore):
        fails = False

        def change(self, **changes: object) -> None:
            if self.fails:
                raise ConfigError((Fault("SIMILARITY_STATE_URL", "the disk is full"),))
            super().change(**changes)  # type: ignore[arg-type]

    store = Failing()
    async with fleet(TWO, ROUTING, store=store) as made:
        replica, ingress = await started(made)
        old, new = ingress.answer(), new_id("fast", 7)
        replica.slow.add(new)
        await made.declare({**TWO, "fast": spec(7)})
        await eventually(lambda: new in replica.states)
        store.fails = True
        replica.finish(new)
        await eventually(lambda: bool(ingress.snapshot and ingress.snapshot.faults))
        assert ingress.answer() == old
        with pytest.raises(ConfigError, match="the disk is full"):
            await made.plane.operate(Promote(target="slow", **WHO))
        assert not (await made.plane.describe()).overrides
        store.fails = False
        await made.complete()
        assert ingress.answer() == new
        assert ingress.snapshot is not None and not ingress.snapshot.faults


async def test_a_model_that_was_broken_before_does_not_fail_an_operation() -> None:
    async with fleet(TWO, ROUTING) as made:
        replica, ingress = await started(made)
        fast, broken = ingress.answer(), new_id("fast", 7)
        replica.broken[broken] = "broken"
        await made.declare({**TWO, "fast": spec(7)})
        await eventually(lambda: broken in made.plane._publisher.progress.failures)
        weights = SetWeights(experiment="e", arms={"fast": 90, "slow": 10}, **WHO)
        assert (await made.plane.operate(weights)).outcome == "in_effect"
        assert ingress.snapshot is not None
        assert ingress.snapshot.routing.spec.experiments["e"].arms["slow"] == 10
        assert ingress.answer("fast") == fast


async def test_a_rollback_stands_where_a_part_of_it_took_effect() -> None:
    async with fleet(TWO, {"default": "fast", "aliases": {"other": "slow"}}) as made:
        replica, ingress = await started(made)
        fast, slow = ingress.answer(), ingress.answer("slow")
        await made.declare({"fast": spec(7), "slow": spec(8)})
        await made.complete()
        replica.broken[slow] = "out of memory"
        del replica.states[slow]
        replica.tell()
        result = await made.plane.operate(Rollback(**WHO))
        assert (result.outcome, result.withdrawn) == ("failed", False)
        assert "out of memory" in result.detail
        assert (ingress.answer(), ingress.answer("slow")) == (fast, new_id("slow", 8))
        replica.broken.clear()
        made.clock.advance(5)
        await eventually(lambda: ingress.answer("slow") == slow)


async def test_another_control_is_a_change_though_the_arms_are_the_same() -> None:
    """The first arm is the control, and mappings compare equal in any order."""
    arms = {"fast": 50.0, "slow": 50.0}
    async with fleet(TWO, {"experiments": {"e": {"arms": arms}}}) as made:
        _, ingress = await started(made)
        before = ingress.snapshot
        assert before is not None
        turned = dict(reversed(arms.items()))
        await made.declare(TWO, {"experiments": {"e": {"arms": turned}}})
        await made.complete()
        after = ingress.snapshot
        assert after is not None and after.number == before.number + 1
        assert after.routing.spec.experiments["e"].control == "slow"
