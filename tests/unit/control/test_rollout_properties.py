"""Whatever is declared, and whoever fails, dies, comes late or comes back: what must never happen.

A real publisher, with members that do what replicas and ingresses do, one step at a time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from serve_app.config.faults import Origin
from serve_app.config.routing_source import RoutingDocument
from serve_app.control.desired import DesiredState
from serve_app.control.members import Member, Members, ModelReport, UnknownMemberError
from serve_app.control.publisher import Publisher
from serve_app.control.snapshot import ServingSnapshot
from serve_app.control.store import MemoryStateStore
from serve_app.control.target import Target
from serve_app.control.timing import Timing
from serve_app.errors import ConfigError, UnknownModelError
from serve_app.models.base import Placement
from serve_app.models.snapshot import ResolvedModel
from serve_app.routing.build import build_routing
from serve_app.routing.table import RoutingKeys
from serve_app.testing import fake_spec
from tests.unit.control.fleet import Clock

TIMING = Timing(expires_s=5, retire_after_s=100)
NAMES, POOLS = ("a", "b", "c"), ("default", "other")
PUBLIC = (*NAMES, "x", "e")
_MOST_ROUNDS = 300


def model(name: str, revision: int, pool: str) -> ResolvedModel:
    return ResolvedModel(name, f"{revision:08}", fake_spec(pool=pool), Placement())


_NAME = st.sampled_from(NAMES)
_EDIT = st.one_of(
    st.tuples(
        st.just("model"),
        _NAME,
        st.tuples(st.integers(1, 3), st.sampled_from(("default", "default", "other"))),
    ),
    st.tuples(st.just("gone"), _NAME, st.none()),
    st.tuples(st.just("alias"), st.sampled_from(("x", *NAMES)), st.sampled_from((*NAMES, "e"))),
    st.tuples(
        st.just("experiment"),
        st.none(),
        st.none()
        | st.tuples(st.permutations(NAMES), st.sampled_from((0, 50, 100))).map(
            lambda drawn: {drawn[0][0]: 100 - drawn[1], drawn[0][1]: drawn[1]}
        ),
    ),
    st.tuples(st.just("default"), st.none(), st.none() | st.sampled_from(PUBLIC)),
    st.tuples(st.just("pinned"), st.none(), st.lists(_NAME, max_size=1).map(tuple)),
)
"""What a change of the configuration consists of."""


@dataclass(eq=False)
class Follower:
    """A member.

    Attributes:
        member: Who it is.
        snapshot: What it serves.
        joined: Whether it believes that the plane knows it.
        muted: Whether nothing that it says is heard.
        states: A replica's models.
        attempts: A replica tries each number once.
    """

    member: Member
    snapshot: ServingSnapshot
    joined: bool = True
    muted: bool = False
    states: dict[str, ModelReport] = field(default_factory=dict)
    attempts: dict[str, int] = field(default_factory=dict)

    def resident(self) -> set[str]:
        return {m.id for m in self.snapshot.preloaded() if m.spec.pool == self.member.pool}

    def candidates(self) -> dict[str, int]:
        pool, who = self.member.pool, self.member.id
        if pool is None:
            return {}
        return {m.id: number for m, number in self.snapshot.candidates_for(pool, who)}

    def take(self, snapshot: ServingSnapshot) -> None:
        self.snapshot = snapshot
        if self.member.kind == "ingress":
            return
        resident, candidates = self.resident(), self.candidates()
        for key, item in tuple(self.states.items()):
            given_up = key not in resident and candidates.get(key) != item.attempt
            unknown = key not in snapshot.catalog and not item.leases
            if unknown or (item.state == "loading" and given_up):
                del self.states[key]
        for key in resident:
            self._load(key, self.attempts.get(key, 0))
        for key, number in candidates.items():
            if self.attempts.get(key) != number:
                self.attempts[key] = number
                self._load(key, number)
        told = {*self.states, *candidates}
        self.attempts = {key: number for key, number in self.attempts.items() if key in told}

    def _load(self, key: str, attempt: int) -> None:
        held = self.states.get(key)
        if held is None or held.state == "failed":
            self.states[key] = ModelReport("loading", attempt)

    def end(self, key: str, reason: str | None) -> None:
        state = "ready" if reason is None else "failed"
        self.states[key] = ModelReport(state, self.states[key].attempt, reason)

    def unload(self) -> None:
        """All that nothing keeps here."""
        kept = {*self.resident(), *self.candidates()}
        for key, item in tuple(self.states.items()):
            if item.state == "ready" and not item.leases and key not in kept:
                del self.states[key]


class Rollout(RuleBasedStateMachine):
    """The control plane's publisher, with what surrounds it."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.clock = Clock()
        self.store = MemoryStateStore()
        self.followers: dict[str, Follower] = {}
        self.numbers = 0
        self.models: dict[str, ResolvedModel] = {}
        self.routing: dict[str, dict[str, Any]] = {}
        self.pinned: tuple[str, ...] = ()
        self.joins = 0
        self.last_attempts: dict[str, int] = {}
        self._start_plane()

    def _start_plane(self) -> None:
        self.desired = DesiredState(self.store, self.clock)
        self.members = Members(self.clock, TIMING.expires_s)
        self.publisher = Publisher(
            self.desired, self.members, self.store, TIMING, clock=self.clock, wall=self.clock
        )

    @initialize()
    def begin(self) -> None:
        models = {name: model(name, 1, "default") for name in NAMES}
        self._want(models, {"aliases": {}, "experiments": {}, "default": {}})
        self._reconcile()
        for pool in POOLS:
            self._spawn(Member(f"r{self.joins}", "pool", pool))
        self._spawn(Member(f"i{self.joins}", "ingress"))

    # What is wanted.

    @rule(edits=st.lists(_EDIT, min_size=1, max_size=3))
    def declare(self, edits: list[tuple[str, Any, Any]]) -> None:
        models, routing = dict(self.models), {key: dict(item) for key, item in self.routing.items()}
        pinned = self.pinned
        for what, name, value in edits:
            if what == "model":
                models[name] = model(name, *value)
                routing["aliases"].pop(name, None)
            elif what == "gone":
                models.pop(name, None)
            elif what == "alias":
                models.pop(name, None)
                routing["aliases"][name] = value
            elif what == "experiment":
                routing["experiments"] = {"e": {"arms": value}} if value else {}
            elif what == "default":
                routing["default"] = {"default": value} if value else {}
            elif what == "pinned":
                pinned = value
        self._want(models, routing, pinned)
        self._reconcile()

    @rule()
    def unblock(self) -> None:
        """An operator's operation."""
        self.publisher.progress = self.publisher.progress.unblocked()
        self._reconcile()

    def _want(
        self,
        models: dict[str, ResolvedModel],
        routing: dict[str, dict[str, Any]],
        pinned: tuple[str, ...] = (),
    ) -> None:
        """Asks for it; what has faults is refused."""
        raw = {key: routing[key] for key in ("aliases", "experiments")} | routing["default"]
        document = RoutingDocument(raw, Origin("routing"))
        try:
            table = build_routing(document, tuple(models), next(iter(models), ""))
        except ConfigError:
            return
        if models:
            self.numbers += 1
            self.models, self.routing, self.pinned = models, routing, pinned
            self.desired.target = Target(self.numbers, models, table, pinned)

    # What members do.

    @rule(data=st.data())
    def follow(self, data: st.DataObject) -> None:
        follower = self._one(data, self.followers)
        if follower is not None:
            self._follow(follower)

    @rule()
    def all_follow(self) -> None:
        self._all_follow()
        self._reconcile()

    @rule()
    def reconcile(self) -> None:
        self._reconcile()

    @rule(data=st.data(), works=st.booleans())
    def end_of_a_load(self, data: st.DataObject, works: bool) -> None:
        loads = [
            (follower, key)
            for follower in self.followers.values()
            for key, item in follower.states.items()
            if item.state == "loading"
        ]
        if loads:
            follower, key = data.draw(st.sampled_from(loads))
            follower.end(key, None if works else "broken")

    @rule(data=st.data())
    def unload(self, data: st.DataObject) -> None:
        follower = self._one(data, self.followers)
        if follower is not None:
            follower.unload()

    @rule(data=st.data(), name=st.sampled_from(PUBLIC))
    def request(self, data: st.DataObject, name: str) -> None:
        """An ingress sends one to a replica, which must know what it is asked for."""
        ingress = self._one(data, self._of("ingress"))
        if ingress is None:
            return
        try:
            route = ingress.snapshot.routing.route(name, RoutingKeys("some request"))
            asked = ingress.snapshot.resolve(route.model)
        except UnknownModelError:
            return
        found = {k: f for k, f in self._of("pool").items() if f.member.pool == asked.spec.pool}
        replica = self._one(data, found)
        if replica is None:
            return
        if self._heard(ingress) and self._heard(replica):
            assert asked.id in replica.snapshot.catalog
        held = replica.states.get(asked.id, ModelReport("ready"))
        if held.state == "ready":
            leases = held.leases + 1
            replica.states[asked.id] = ModelReport("ready", held.attempt, leases=leases)

    @rule()
    def answers(self) -> None:
        """All requests end."""
        for follower in self.followers.values():
            for key, item in follower.states.items():
                follower.states[key] = ModelReport(item.state, item.attempt, item.reason)

    @rule(data=st.data())
    def death(self, data: st.DataObject) -> None:
        follower = self._one(data, self.followers)
        if follower is not None:
            del self.followers[follower.member.id]

    @rule(data=st.data())
    def silence(self, data: st.DataObject) -> None:
        follower = self._one(data, self.followers)
        if follower is not None:
            follower.muted = not follower.muted

    @rule(pool=st.none() | st.sampled_from(POOLS))
    def start(self, pool: str | None) -> None:
        if pool is None and len(self._of("ingress")) < 2:
            self._spawn(Member(f"i{self.joins}", "ingress"))
        elif pool is not None and len(self._of("pool")) < 4:
            self._spawn(Member(f"r{self.joins}", "pool", pool))

    @rule(seconds=st.sampled_from((1, 6, 60, 110, 301)))
    def time(self, seconds: int) -> None:
        self._pass(seconds)
        self._reconcile()

    @rule()
    def plane_restarts(self) -> None:
        """With its store; who follows has to join."""
        force, target = self.store.state().in_force, self.desired.target
        self._start_plane()
        self.last_attempts = {}
        assert force is not None
        self.publisher.recover(force)
        self.desired.target = target
        for follower in self.followers.values():
            follower.joined = False
        self._reconcile()

    def _spawn(self, member: Member) -> None:
        current = self.publisher.current
        assert current is not None
        self.joins += 1
        follower = self.followers[member.id] = Follower(member, current)
        follower.states = {key: ModelReport("ready") for key in follower.resident()}
        self.members.join(member, follower.states)

    def _follow(self, follower: Follower) -> None:
        """Says what it has, and takes over what there is; it says that the next time."""
        if follower.muted:
            return
        current = self.publisher.current
        assert current is not None
        states = dict(follower.states)
        if not follower.joined:
            self.publisher.remember(follower.snapshot)
            self.members.join(follower.member, states)
            follower.joined = True
        else:
            try:
                self.members.seen(follower.member.id, follower.snapshot.version, states)
            except UnknownMemberError:
                follower.joined = False
                return
        current = self.publisher.current
        if current.version != follower.snapshot.version:
            follower.take(current)

    def _all_follow(self) -> None:
        for follower in tuple(self.followers.values()):
            self._follow(follower)

    def _pass(self, seconds: float) -> None:
        """Time passes; who is not silent goes on speaking."""
        until = self.clock.now + seconds
        while self.clock.now < until:
            self.clock.advance(1)
            for follower in self.followers.values():
                if follower.joined and not follower.muted:
                    try:
                        self.members.seen(follower.member.id)
                    except UnknownMemberError:
                        follower.joined = False

    def _of(self, kind: str) -> dict[str, Follower]:
        return {key: f for key, f in self.followers.items() if f.member.kind == kind}

    def _one(self, data: st.DataObject, found: Mapping[str, Follower]) -> Follower | None:
        return found[data.draw(st.sampled_from(sorted(found)))] if found else None

    def _heard(self, follower: Follower) -> bool:
        """Whether the plane counts on it."""
        return follower.joined and follower.member in self.members.live()

    # What must hold.

    def _reconcile(self) -> None:
        before = self.publisher.current
        self.runner.run(self.publisher.reconcile())
        after = self.publisher.current
        assert after is not None
        self._sound(after)
        if before is not None:
            self._careful(before, after)
        for key, number in after.candidates.items():
            known = self.last_attempts.get(key, 0)
            going = before is not None and before.candidates.get(key) == number
            assert number > known or (going and number == known), "a number of its own"
        self.last_attempts |= after.candidates
        self.last_attempts = {k: n for k, n in self.last_attempts.items() if k in after.catalog}

    def _sound(self, after: ServingSnapshot) -> None:
        assert set(after.active.values()) <= set(after.catalog)
        assert set(after.candidates) <= set(after.catalog)
        assert set(after.statuses) == set(after.catalog)
        for name in after.routing.routed():
            assert after.active[name] in after.resident
        for name in (*after.routing.spec.aliases, *after.routing.spec.experiments):
            assert _answer(after, name)
        failures = self.publisher.progress.failures
        blocked = {key for key, failure in failures.items() if failure.blocks(self.clock.now)}
        assert not blocked & set(after.candidates)
        for key in after.candidates:
            pool = (after.moving.get(key) or after.catalog[key]).spec.pool
            live = self.members.live("pool", pool)
            offered = [m for m in live if key in dict(_offers(after, m))]
            assert self._ready(key, pool) or len(offered) <= 1, "one tries first"

    def _careful(self, before: ServingSnapshot, after: ServingSnapshot) -> None:
        target = self.desired.target
        assert target is not None
        for name in target.needed(after.routing):
            if name in after.active and after.active[name] != before.active.get(name):
                chosen = after.models[name]
                assert chosen.id in after.resident
        for key in set(after.resident) - set(before.resident):
            pool = after.catalog[key].spec.pool
            assert len(self._ready(key, pool)) == len(self.members.live("pool", pool)) > 0
        for name in set(after.active) & set(before.active):
            if after.active[name] != before.active[name]:
                assert self._ready(after.active[name], after.models[name].spec.pool)
        for name, chosen in after.models.items():
            if chosen.id != before.active.get(name):
                for follower in self.followers.values():
                    if self._heard(follower) and follower.member.pool == chosen.spec.pool:
                        assert chosen.id in follower.snapshot.catalog, "it has heard of it"
        wanted = {*target.models, *target.routing.spec.aliases, *target.routing.spec.experiments}
        for name in wanted:
            assert _answer(after, name) or not _answer(before, name), "it went on answering"
        for key in set(before.catalog) - set(after.catalog):
            for ingress in self._of("ingress").values():
                if self._heard(ingress):
                    assert key not in ingress.snapshot.active.values(), "nobody sends to it"
            reports = (self.members.report_of(member.id) for member in self.members.live())
            assert not any(report[key].leases for report in reports if key in report)

    def _ready(self, key: str, pool: str) -> list[Member]:
        return [
            member
            for member in self.members.live("pool", pool)
            if (item := self.members.report_of(member.id).get(key)) and item.state == "ready"
        ]

    def teardown(self) -> None:
        """Once nothing fails any more, everything comes to be as it is wanted."""
        try:
            if self.followers:
                self._converge()
        finally:
            self.runner.close()

    def _converge(self) -> None:
        for follower in self.followers.values():
            follower.muted = False
        self.answers()
        for pool in POOLS:
            self._spawn(Member(f"r{self.joins}", "pool", pool))
        for _ in range(_MOST_ROUNDS):
            self._all_follow()
            for follower in self.followers.values():
                for key, item in tuple(follower.states.items()):
                    if item.state == "loading" or key in follower.resident():
                        follower.end(key, None)
            self._pass(2)
            self._reconcile()
            made = self.publisher.plan
            if made is not None and made.complete:
                break
        current, target, made = self.publisher.current, self.desired.target, self.publisher.plan
        assert current is not None and target is not None and made is not None
        assert made.complete, made.waiting
        assert dict(current.active) == {name: m.id for name, m in target.models.items()}
        assert current.models == target.models
        assert (current.routing, current.number) == (target.routing, target.number)
        assert not current.candidates


def _offers(snapshot: ServingSnapshot, member: Member) -> Iterator[tuple[str, int]]:
    assert member.pool is not None
    for found, attempt in snapshot.candidates_for(member.pool, member.id):
        yield found.id, attempt


def _answer(snapshot: ServingSnapshot, name: str) -> str | None:
    """The id that a name is answered with; None where nothing answers."""
    try:
        return snapshot.resolve(snapshot.routing.route(name, RoutingKeys("a request")).model).id
    except UnknownModelError:
        return None


TestRollout = Rollout.TestCase
TestRollout.settings = settings(
    max_examples=60,
    stateful_step_count=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
