"""The planner alone; what it makes of a whole fleet is in `test_plane_rollout`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from serve_app.config.faults import Origin
from serve_app.config.routing_source import RoutingDocument
from serve_app.control.beginning import first_snapshot
from serve_app.control.members import Member, Members, ModelReport
from serve_app.control.observed import Observed, observe
from serve_app.control.plan import Plan
from serve_app.control.progress import Progress
from serve_app.control.rollout import plan
from serve_app.control.snapshot import ServingSnapshot
from serve_app.control.target import Target
from serve_app.models.base import Placement
from serve_app.models.snapshot import ResolvedModel
from serve_app.routing.build import build_routing
from serve_app.testing import fake_spec
from tests.unit.control.fleet import Clock

READY = ModelReport("ready")
RETIRE_S = 100.0


def model(name: str, revision: int = 1, **fields: Any) -> ResolvedModel:
    return ResolvedModel(name, f"{revision:08}", fake_spec(**fields), Placement())


def target(*models: ResolvedModel, number: int = 1, **routing: Any) -> Target:
    document = RoutingDocument(routing, Origin("routing"))
    named = {item.name: item for item in models}
    return Target(number, named, build_routing(document, tuple(named), models[0].name))


def seen(
    now: float = 0.0,
    counter: float = 99,
    ingress: float = 99,
    pool: str = "default",
    **replicas: Mapping[str, ModelReport],
) -> Observed:
    """Replicas of one pool with their reports, and the versions that all have."""
    return Observed(
        now, now, {pool: replicas} if replicas else {}, {pool: counter} if replicas else {}, ingress
    )


class Run:
    """Plans again and again, as the plane does."""

    def __init__(self, first: Target) -> None:
        self.target = first
        self.snapshot: ServingSnapshot = first_snapshot(first, ("plane", 1))
        self.progress = Progress.of(self.snapshot)

    def step(self, observed: Observed) -> Plan:
        made = plan(self.snapshot, self.target, observed, self.progress, RETIRE_S)
        version = (self.snapshot.version[0], self.snapshot.version[1] + 1)
        self.snapshot = replace(made.snapshot, version=version)
        self.progress = made.progress
        return made


A1, A2, A3, B1, C1 = model("a"), model("a", 2), model("a", 3), model("b"), model("c")


def test_nothing_changes_where_everything_is_as_wanted() -> None:
    run = Run(target(A1, B1))
    made = run.step(seen(r1={A1.id: READY}))
    assert made.complete
    assert made.snapshot.resident == (A1.id,)
    assert not made.snapshot.candidates


def test_what_replicas_hold_but_cannot_be_asked_for_by_name_is_introduced_first() -> None:
    """A revision that was retired, and is still loaded because requests use it."""
    run = Run(target(A1))
    run.target = target(A2, number=2)
    holding = {A1.id: READY, A2.id: READY}
    assert run.step(seen(counter=1, r1=holding)).snapshot.active == {"a": A1.id}
    assert run.step(seen(counter=1, r1=holding)).snapshot.active == {"a": A1.id}
    assert run.step(seen(counter=2, r1=holding)).snapshot.active == {"a": A2.id}


def test_on_demand_too() -> None:
    old, new = model("b"), model("b", 2)
    run = Run(target(A1, old))
    run.target = target(A1, new, number=2)
    holding = {A1.id: READY, new.id: READY}
    first = run.step(seen(counter=1, r1=holding))
    assert first.snapshot.active["b"] == old.id
    assert first.snapshot.candidates == {new.id: 1}  # it stays where it is tried
    assert run.step(seen(counter=2, r1=holding)).snapshot.active["b"] == new.id


def test_a_new_name_waits_while_the_routing_in_force_has_it_for_something_else() -> None:
    run = Run(target(A1, aliases={"c": "a"}))
    run.target = target(B1, A1, C1, number=2)
    made = run.step(seen(r1={A1.id: READY}))
    made = run.step(seen(r1={A1.id: READY}))
    assert made.blocking == ("b",)
    assert list(made.snapshot.active) == ["a"]
    assert "c" not in made.snapshot.routing.models
    made = run.step(seen(r1={A1.id: READY, B1.id: READY}))
    assert list(made.snapshot.active) == ["b", "a", "c"]
    assert made.complete


def test_an_alias_that_becomes_a_model_answers_all_the_time() -> None:
    run = Run(target(A1, aliases={"c": "a"}))
    run.target = target(A1, C1, number=2)
    made = run.step(seen(r1={A1.id: READY}))
    assert (made.blocking, dict(made.snapshot.routing.spec.aliases)) == (("c",), {"c": "a"})
    assert made.waiting == {"c": f"{C1.id} is new; replicas are being told"}
    assert run.step(seen(counter=1, r1={A1.id: READY})).snapshot.routing.spec.aliases
    made = run.step(seen(counter=2, r1={A1.id: READY}))
    assert not made.snapshot.routing.spec.aliases
    assert dict(made.snapshot.active) == {"a": A1.id, "c": C1.id}
    assert made.complete


def test_a_model_that_becomes_an_alias_answers_all_the_time() -> None:
    run = Run(target(A1, B1, C1))
    run.target = target(A1, B1, number=2, aliases={"c": "b"})
    made = run.step(seen(r1={A1.id: READY}))
    assert made.blocking == ("b",)
    assert made.snapshot.active["c"] == C1.id
    assert "c" in made.snapshot.routing.models
    made = run.step(seen(r1={A1.id: READY, B1.id: READY}))
    assert dict(made.snapshot.active) == {"a": A1.id, "b": B1.id}
    assert dict(made.snapshot.routing.spec.aliases) == {"c": "b"}


def test_what_the_routing_in_force_names_stays_until_it_is_another_one() -> None:
    run = Run(target(A1, B1, aliases={"x": "b"}))
    run.target = target(C1, number=2)
    made = run.step(seen(r1={A1.id: READY, B1.id: READY}))
    assert made.blocking == ("c",)
    assert dict(made.snapshot.active) == {"a": A1.id, "b": B1.id}
    assert made.snapshot.resident == (A1.id, B1.id)
    made = run.step(seen(r1={A1.id: READY, B1.id: READY, C1.id: READY}))
    assert dict(made.snapshot.active) == {"c": C1.id}
    assert made.snapshot.resident == (C1.id,)
    assert {key: made.snapshot.statuses[key].state for key in (A1.id, B1.id)} == {
        A1.id: "draining",
        B1.id: "draining",
    }


def test_a_changed_model_that_the_routing_in_force_names_is_loaded_everywhere() -> None:
    """Though the wanted routing, which another model holds up, does not name it."""
    new = model("b", 2)
    run = Run(target(A1, B1, aliases={"x": "b"}))
    run.target = target(C1, A1, new, number=2)
    one, two = {A1.id: READY, B1.id: READY}, {A1.id: READY, B1.id: READY, new.id: READY}
    for _ in range(3):
        made = run.step(seen(r1=one, r2=two))
        assert made.snapshot.active["b"] == B1.id
        assert new.id not in made.snapshot.trials
    made = run.step(seen(r1=two, r2=two))
    assert made.snapshot.active["b"] == new.id
    assert made.snapshot.resident == (A1.id, new.id)


def test_everything_that_is_ready_is_switched_together() -> None:
    new_a, new_b = model("a", 2), model("b", 2)
    run = Run(target(A1, B1, aliases={"x": "b"}))
    run.target = target(new_a, new_b, number=2, aliases={"y": "b"})
    held = {A1.id: READY, B1.id: READY}
    run.step(seen(r1=held))
    made = run.step(seen(r1={**held, new_a.id: READY, new_b.id: READY}))
    assert dict(made.snapshot.active) == {"a": new_a.id, "b": new_b.id}
    assert dict(made.snapshot.routing.spec.aliases) == {"y": "b"}
    assert (made.snapshot.number, made.complete) == (2, True)


def test_a_failure_counts_for_its_attempt_alone() -> None:
    run = Run(target(A1))
    run.target = target(A2, number=2)
    run.step(seen(r1={A1.id: READY}))
    late = {A1.id: READY, A2.id: ModelReport("failed", 7, "long ago")}
    made = run.step(seen(r1=late))
    assert not made.failed
    assert made.snapshot.candidates == {A2.id: 1}
    now = {A1.id: READY, A2.id: ModelReport("failed", 1, "now")}
    made = run.step(seen(r1=late, r2=now))
    assert made.failed == {"a": "on r2: now"}
    assert made.snapshot.candidates == {}


def test_an_attempt_is_another_one_than_what_replicas_remember() -> None:
    run = Run(target(A1))
    run.target = target(A2, number=2)
    made = run.step(seen(r1={A1.id: READY, A2.id: ModelReport("failed", 3, "long ago")}))
    assert made.snapshot.candidates == {A2.id: 4}


def test_no_attempt_is_asked_for_twice() -> None:
    """A replica tries each number once; it may have unloaded meanwhile what was fine then."""
    run = Run(target(A1))
    held = {A1.id: READY, A2.id: READY}
    for number in range(1, 4):
        run.target = target(A2, number=2 * number)
        assert run.step(seen(r1={A1.id: READY})).snapshot.candidates == {A2.id: number}
        assert run.step(seen(r1=held)).snapshot.active == {"a": A2.id}
        run.target = target(A1, number=2 * number + 1)
        run.step(seen(r1=held))
        assert run.step(seen(r1=held)).snapshot.active == {"a": A1.id}


def died(now: float, reports: Mapping[str, ModelReport], **replicas: Any) -> Observed:
    """A replica that is not heard of any more, and those that are."""
    return replace(seen(now, **replicas), fallen={"default": {"gone": reports}})


def test_what_a_replica_died_of_waits_for_five_minutes_or_an_operator() -> None:
    run = Run(target(A1))
    run.target = target(A2, number=2)
    run.step(seen(gone={A1.id: READY}))
    held = {A1.id: READY}
    made = run.step(died(10, {A2.id: ModelReport("loading", 1)}, r2=held))
    assert made.failed == {
        "a": "the replica gone died while it loaded it, perhaps for want of memory"
    }
    assert made.progress.failures[A2.id].retry_at == 310
    assert run.step(died(309, {}, r2=held)).snapshot.candidates == {}
    run.progress = run.progress.unblocked()
    assert run.step(died(309, {}, r2=held)).snapshot.candidates == {A2.id: 2}


def test_another_death_than_in_this_attempt_is_no_failure() -> None:
    run = Run(target(A1))
    run.target = target(A2, number=2)
    held = {A1.id: READY}
    run.step(seen(r1=held))
    for report in (ModelReport("loading", 7), ModelReport("ready", 1), ModelReport("loading")):
        assert not run.step(died(10, {A2.id: report}, r1=held)).failed


def test_who_was_taken_for_dead_and_speaks_again_has_not_died_of_it() -> None:
    run = Run(target(A1))
    run.target = target(A2, number=2)
    loading = {A1.id: READY, A2.id: ModelReport("loading", 1)}
    run.step(seen(gone={A1.id: READY}))
    assert run.step(died(10, loading)).failed
    made = run.step(seen(11, gone=loading))
    assert made.snapshot.candidates == {A2.id: 2}
    note = made.snapshot.statuses[A2.id].note
    assert note is not None and "the replica gone was not heard of for a time" in note


def test_the_wait_doubles_up_to_five_minutes() -> None:
    run = Run(target(A1))
    run.target = target(A2, number=2)
    run.step(seen(r1={A1.id: READY}))
    now, waits = 0.0, []
    for attempt in range(1, 10):
        failed = {A1.id: READY, A2.id: ModelReport("failed", attempt, "no")}
        run.step(seen(now, r1=failed))
        waits.append(run.progress.failures[A2.id].retry_at - now)
        now += waits[-1]
        assert run.step(seen(now - 0.1, r1=failed)).snapshot.candidates == {}
        assert run.step(seen(now, r1=failed)).snapshot.candidates == {A2.id: attempt + 1}
    assert waits == [5, 10, 20, 40, 80, 160, 300, 300, 300]


def test_a_candidate_that_is_no_longer_wanted_is_given_up() -> None:
    run = Run(target(A1))
    run.target = target(A2, number=2)
    run.step(seen(r1={A1.id: READY}))
    run.target = target(A3, number=3)
    made = run.step(seen(r1={A1.id: READY, A2.id: ModelReport("loading", 1)}))
    assert made.snapshot.candidates == {A3.id: 1}
    assert made.snapshot.statuses[A2.id].state == "unloaded"
    made = run.step(seen(r1={A1.id: READY, A2.id: READY}))
    assert made.snapshot.active == {"a": A1.id}


def test_a_revision_is_drained_when_no_ingress_can_send_to_it_and_nobody_uses_it() -> None:
    run = Run(target(A1))
    run.target = target(A2, number=2)
    held = {A1.id: READY, A2.id: READY}
    run.step(seen(r1=held))
    made = run.step(seen(r1=held))
    left = run.snapshot.version[1]
    assert made.snapshot.active == {"a": A2.id}
    made = run.step(seen(10, ingress=left - 1, r1=held))
    assert made.progress.retiring[A1.id].drained_at is None
    used = {A2.id: READY, A1.id: ModelReport("ready", leases=1)}
    assert run.step(seen(20, r1=used)).progress.retiring[A1.id].drained_at is None
    assert run.step(seen(30, r1=held)).progress.retiring[A1.id].drained_at == 30
    # Somebody asked for this revision by its id.
    assert run.step(seen(40, r1=used)).progress.retiring[A1.id].drained_at is None
    run.step(seen(50, r1=held))
    made = run.step(seen(149, r1={A2.id: READY}))
    assert made.snapshot.statuses[A1.id].state == "unloaded"
    assert A1.id not in run.step(seen(150, r1={A2.id: READY})).snapshot.catalog


def test_a_trial_goes_to_another_replica_when_its_own_dies() -> None:
    new = model("b", 2)
    run = Run(target(A1, B1))
    run.target = target(A1, new, number=2)
    held = {A1.id: READY}
    who = run.step(seen(r1=held, r2=held)).snapshot.trials[new.id]
    assert run.step(seen(r1=held, r2=held, r3=held)).snapshot.trials == {new.id: who}
    other = ({"r1", "r2"} - {who}).pop()
    assert run.step(seen(**{other: held})).snapshot.trials == {new.id: other}


def test_a_trial_goes_to_who_loads_it_already() -> None:
    run = Run(target(A1))
    run.target = target(A2, number=2)
    for loader in ("r1", "r2", "r3"):
        replicas = {name: {A1.id: READY} for name in ("r1", "r2", "r3")}
        replicas[loader] = {A1.id: READY, A2.id: ModelReport("loading", 1)}
        run.snapshot = replace(run.snapshot, trials={})
        made = run.step(seen(**replicas))
        assert made.snapshot.trials == {A2.id: loader}
        assert made.waiting == {"a": f"{A2.id} is tried by one replica first: {loader}"}


def test_while_nobody_is_there_nobody_is_asked() -> None:
    """Or all that start would try it at once."""
    run = Run(target(A1))
    run.target = target(A2, number=2)
    made = run.step(seen())
    assert made.snapshot.candidates == {A2.id: 1}
    assert made.snapshot.candidates_for("default", "r1") == ()
    assert made.snapshot.statuses[A2.id].note == "waits for a replica of the pool 'default'"
    made = run.step(seen(r1={A1.id: READY}, r2={A1.id: READY}))
    asked = [r for r in ("r1", "r2") if made.snapshot.candidates_for("default", r)]
    assert asked == [made.snapshot.trials[A2.id]]


def test_costs_are_adjusted_in_place() -> None:
    adjusted = model("a", performance={"max_batch": 4})
    run = Run(target(A1))
    run.target = target(adjusted, number=2)
    made = run.step(seen(r1={A1.id: READY}))
    assert made.complete
    assert made.snapshot.models["a"] is adjusted


def test_what_serves_but_cannot_be_loaded_somewhere_says_so_and_stays() -> None:
    run = Run(target(A1))
    made = run.step(seen(r1={A1.id: READY}, r2={A1.id: ModelReport("failed", 0, "no memory")}))
    status = made.snapshot.statuses[A1.id]
    assert (status.state, status.note) == ("active", "cannot be loaded on r2: no memory")
    assert made.snapshot.active == {"a": A1.id}


def test_a_state_keeps_its_time_and_what_replicas_say() -> None:
    run = Run(target(A1))
    noted = {A1.id: ModelReport("ready", note="no golden pairs")}
    run.step(seen(10, r1=noted))
    status = run.step(seen(20, r1=noted, r2=noted)).snapshot.statuses[A1.id]
    assert (status.since, status.note) == (10, "no golden pairs")
    run.target = target(A2, number=2)
    run.step(seen(30, r1={A1.id: READY, A2.id: READY}))
    run.step(seen(40, r1={A1.id: READY, A2.id: READY}))
    statuses = run.snapshot.statuses
    assert (statuses[A1.id].state, statuses[A1.id].since) == ("draining", 40)


def test_versions_of_another_plane_acknowledge_nothing() -> None:
    members = Members(Clock())
    for member in (Member("r1", "pool", "default"), Member("i1", "ingress")):
        members.join(member)
        members.seen(member.id, ("other", 7))
    observed = observe(members, "plane", 0, 0)
    assert not observed.known_since("default", 1)
    assert observed.ingress_counter < 1
    members.seen("r1", ("plane", 3), {A1.id: READY})
    members.seen("i1", ("plane", 4))
    observed = observe(members, "plane", 0, 0)
    assert observed.known_since("default", 3) and not observed.known_since("default", 4)
    assert observed.ingress_counter == 4
    assert observed.everywhere(A1)
