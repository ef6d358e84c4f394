"""Followers of a real control plane: plain coroutines that do what replicas and ingresses do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any

from serve_app.config.document import Document
from serve_app.config.faults import Origin
from serve_app.config.routing_source import RoutingDocument
from serve_app.control.members import Member, MemberReport, ModelReport
from serve_app.control.plane import ControlPlane
from serve_app.control.snapshot import ServingSnapshot
from serve_app.control.store import StateStore
from serve_app.control.timing import Timing
from serve_app.errors import ConfigError, Fault
from serve_app.models.placement import PoolPlacement
from serve_app.models.registry import DynamicModelRegistry

EXPIRES_S = 1000.0
_LONGEST_S = 10.0
_FOLLOW_S = 0.02

POOLS = {"default": PoolPlacement(), "other": PoolPlacement(threads=2)}


def spec(seed: int = 0, **fields: Any) -> dict[str, Any]:
    """A spec whose revision is another one with every seed."""
    return {"backend": "serve_app.testing:FakeDualEncoder", "seed": seed, **fields}


class Clock:
    """Time that passes when told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


class Source:
    """Declared models and routing that a test changes.

    Attributes:
        models: Name to raw spec.
        routing: As written; None where nothing is.
        broken: Raised instead of being read.
    """

    def __init__(self, models: Mapping[str, Any], routing: Mapping[str, Any] | None = None) -> None:
        self.models: Mapping[str, Any] = models
        self.routing = routing
        self.broken: str | None = None

    def read(self) -> Document:
        if self.broken is not None:
            raise ConfigError((Fault("models.yaml", self.broken),))
        return Document(dict(self.models), Origin("models.yaml", ":"))


class RoutingOf:
    """The routing of a source."""

    def __init__(self, source: Source) -> None:
        self._source = source

    def read(self) -> RoutingDocument:
        return RoutingDocument(dict(self._source.routing or {}), Origin("SIMILARITY_ROUTING"))


class Follower:
    """Joins, and follows until it is killed.

    Attributes:
        snapshot: What it serves.
        seen: Every snapshot it was given.
        gate: While it is clear, a new snapshot is not taken over.
    """

    def __init__(self, member: Member) -> None:
        self.member = member
        self.snapshot: ServingSnapshot | None = None
        self.seen: list[ServingSnapshot] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.task: asyncio.Task[None] | None = None
        self.plane: ControlPlane | None = None

    def start(self, plane: ControlPlane) -> None:
        self.plane = plane
        self.task = asyncio.create_task(self._run(plane))

    async def stop(self) -> None:
        if self.task is not None:
            self.task.cancel()
            with suppress(asyncio.CancelledError):
                await self.task
            self.task = None

    async def _run(self, plane: ControlPlane) -> None:
        new: ServingSnapshot | None = await plane.join(self.member, self.snapshot)
        while True:
            if new is not None:
                await self.gate.wait()
                self.snapshot = new
                self.seen.append(new)
                self.took()
            assert self.snapshot is not None
            new = await plane.follow(
                self.member.id, self.snapshot.version, self.report(), _FOLLOW_S
            )

    def took(self) -> None:
        """A new snapshot is served."""

    def report(self) -> MemberReport | None:
        return None


class Ingress(Follower):
    """Answers with what its snapshot says."""

    def __init__(self, name: str) -> None:
        super().__init__(Member(name, "ingress"))

    def answer(self, model: str | None = None) -> str:
        assert self.snapshot is not None
        return self.snapshot.resolve(model).id


class Replica(Follower):
    """Loads what it is told to.

    Attributes:
        broken: Id to the reason why it cannot be loaded.
        slow: Ids whose load does not end before `finish`.
        leases: Requests in progress, by id.
        states: Id to what the report says.
        loads: Ids and attempts, in order.
    """

    def __init__(self, name: str, pool: str = "default") -> None:
        super().__init__(Member(name, "pool", pool))
        self.broken: dict[str, str] = {}
        self.slow: set[str] = set()
        self.leases: dict[str, int] = {}
        self.states: dict[str, ModelReport] = {}
        self.loads: list[tuple[str, int]] = []

    def took(self) -> None:
        assert self.snapshot is not None and self.member.pool is not None
        pool, known = self.member.pool, self.snapshot.catalog
        here = [model.id for model in self.snapshot.preloaded() if model.spec.pool == pool]
        wanted = dict.fromkeys(here, 0)
        for model, attempt in self.snapshot.candidates_for(pool, self.member.id):
            wanted[model.id] = attempt
        self.states = {key: item for key, item in self.states.items() if key in known}
        for model_id, attempt in wanted.items():
            before = self.states.get(model_id)
            if before is None or (before.state == "failed" and before.attempt != attempt):
                self._load(model_id, attempt)

    def finish(self, model_id: str) -> None:
        """A slow load ends well."""
        self.slow.discard(model_id)
        self.states[model_id] = ModelReport("ready", self.states[model_id].attempt)
        self.tell()

    def tell(self) -> None:
        assert self.plane is not None
        self.plane.report(self.member.id, self.report())

    def report(self) -> MemberReport:
        return {
            key: ModelReport(
                item.state, item.attempt, item.reason, item.note, self.leases.get(key, 0)
            )
            for key, item in self.states.items()
        }

    def _load(self, model_id: str, attempt: int) -> None:
        self.loads.append((model_id, attempt))
        if model_id in self.broken:
            self.states[model_id] = ModelReport("failed", attempt, self.broken[model_id])
        elif model_id in self.slow:
            self.states[model_id] = ModelReport("loading", attempt)
        else:
            self.states[model_id] = ModelReport("ready", attempt)


class Fleet:
    """A control plane and those who follow it."""

    def __init__(
        self, source: Source, store: StateStore | None = None, clock: Clock | None = None
    ) -> None:
        self.source = source
        self.clock = clock or Clock()
        self.followers: list[Follower] = []
        self._runner: asyncio.Task[None] | None = None
        self.plane = self._make(store)

    def _make(self, store: StateStore | None) -> ControlPlane:
        timing = Timing(poll_s=3600, tick_s=0.005, expires_s=EXPIRES_S, confirm_s=50)
        return ControlPlane(
            DynamicModelRegistry(POOLS),
            self.source,
            RoutingOf(self.source),
            store,
            timing,
            clock=self.clock,
            wall=self.clock,
        )

    async def start(self) -> None:
        await self.plane.start()
        self._runner = asyncio.create_task(self.plane.run())

    async def add(self, *followers: Follower) -> None:
        for follower in followers:
            self.followers.append(follower)
            follower.start(self.plane)
        await eventually(lambda: all(item.snapshot is not None for item in followers))

    async def kill_plane(self) -> None:
        """The plane ends, as by kill -9; its members go on with what they have."""
        if self._runner is not None:
            self._runner.cancel()
            with suppress(asyncio.CancelledError):
                await self._runner
        for follower in self.followers:
            await follower.stop()

    async def restart_plane(self, store: StateStore | None = None) -> None:
        """Another plane takes over; who follows joins it."""
        await self.kill_plane()
        self.plane = self._make(store)
        await self.start()
        for follower in self.followers:
            follower.start(self.plane)

    async def declare(
        self, models: Mapping[str, Any] | None = None, routing: Mapping[str, Any] | None = None
    ) -> None:
        if models is not None:
            self.source.models = models
        if routing is not None:
            self.source.routing = routing
        await self.plane.poll()

    async def complete(self) -> None:
        """Everything is as wanted, and every follower serves it."""

        async def there() -> bool:
            told = await self.plane.describe()
            return told.complete and all(member.current for member in told.members)

        await eventually_async(there)

    async def status(self, model_id: str) -> Any:
        return (await self.plane.describe()).statuses[model_id]


@asynccontextmanager
async def fleet(
    models: Mapping[str, Any],
    routing: Mapping[str, Any] | None = None,
    *,
    store: StateStore | None = None,
    clock: Clock | None = None,
) -> AsyncIterator[Fleet]:
    """A fleet without followers, whose plane has started."""
    made = Fleet(Source(models, routing), store, clock)
    await made.start()
    try:
        yield made
    finally:
        await made.kill_plane()


async def eventually(condition: Callable[[], bool]) -> None:
    """Waits until it is so; a test that waits too long fails here."""

    async def there() -> bool:
        return condition()

    await eventually_async(there)


async def eventually_async(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(_LONGEST_S):
        while not await condition():
            await asyncio.sleep(0.002)


async def settle() -> None:
    """Lets the plane and its followers do what they would do by themselves."""
    for _ in range(8):
        await asyncio.sleep(0.005)


def id_of(made: Fleet, name: str) -> str:
    """The id of what is declared now, which the plane knows though it is not active."""
    target = made.plane._desired.target
    assert target is not None
    return target.models[name].id


def new_id(name: str, seed: int) -> str:
    """What the id of a model with another seed will be."""
    document = Document({name: spec(seed)}, Origin("models.yaml"))
    return DynamicModelRegistry(POOLS).update(document).models[name].id
