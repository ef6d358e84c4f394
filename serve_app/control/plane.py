"""The control plane: hears what is declared, asked for and reported, and publishes snapshots.

Nothing here decides: `desired` says what is wanted, `rollout` what to serve next. A member joins
with what it serves, then follows: it shows the version that it serves, which is its
acknowledgement, and gets the next one as soon as there is one.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

from serve_app.config.access import Access, AccessSource
from serve_app.config.document import Document, SpecSource
from serve_app.config.routing_source import RoutingDocument, RoutingSource
from serve_app.control.declared import Declared, DeclaredConfiguration
from serve_app.control.description import Description, describe
from serve_app.control.desired import DesiredState
from serve_app.control.effect import effect_of
from serve_app.control.members import Member, MemberKind, MemberReport, Members
from serve_app.control.observer import ControlObserver
from serve_app.control.operations import Operation, OperationResult
from serve_app.control.publisher import Publisher, force_differs
from serve_app.control.snapshot import ServingSnapshot
from serve_app.control.store import AuditEntry, MemoryStateStore, StateStore
from serve_app.control.target import Applied
from serve_app.control.task import to_the_end, undisturbed
from serve_app.control.timing import Timing
from serve_app.control.version import Version
from serve_app.errors import ConfigError, Fault, NotReadyError
from serve_app.models.registry import DynamicModelRegistry

_ANSWERING: tuple[MemberKind, ...] = ("ingress",)


class ControlPlane:
    """Owns what is served. All methods belong to one event loop.

    Args:
        registry: Checks what is declared.
        models: Where models come from; a document for what never changes.
        routing: Where routing comes from; None where nothing says anything about it.
        store: Keeps what must outlive the process; None: nothing does.
        timing: How long to wait for what.
        clock: Seconds, steady.
        wall: Seconds since 1970.
        observer: Is told what happens, for metrics.
        access: Where it is written who may use the service.
    """

    def __init__(
        self,
        registry: DynamicModelRegistry,
        models: SpecSource | Document,
        routing: RoutingSource | RoutingDocument | None = None,
        store: StateStore | None = None,
        timing: Timing = Timing(),  # noqa: B008 - immutable
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        observer: ControlObserver | None = None,
        access: AccessSource = AccessSource(),  # noqa: B008 - immutable
    ) -> None:
        self._configuration = DeclaredConfiguration(registry, models, routing)
        self._store = store or MemoryStateStore()
        self._timing = timing
        self._clock = clock
        self._desired = DesiredState(self._store, wall)
        self._members = Members(clock, timing.expires_s, timing.tick_s)
        self._publisher = Publisher(
            self._desired,
            self._members,
            self._store,
            timing,
            clock=clock,
            wall=wall,
            observer=observer,
            # Until the keys are read, nobody has one.
            access=Access(required=access.required),
        )
        self._access = access
        self._adopts_until = float("-inf")
        self._adopted: Version | None = None
        self._lock = asyncio.Lock()  # what is wanted and what is served change one at a time
        self._poll_lock = asyncio.Lock()
        self._wake = asyncio.Event()

    async def start(self) -> None:
        """Takes over what the store has and what is declared; then members can join.

        Faults in what is declared are reported and waited out.

        Raises:
            ConfigError: The store cannot be read.
        """
        async with self._lock:
            force = await asyncio.to_thread(self._desired.recover)
            if force is not None:
                self._publisher.recover(force)
            else:
                self._adopts_until = self._clock() + self._timing.adopt_s
        await self.poll()

    async def run(self) -> None:
        """Works until it is cancelled."""
        # Apart: a look at what is declared may hash gigabytes, and a rollback must not wait for it.
        async with asyncio.TaskGroup() as group:
            group.create_task(self._poll_again_and_again())
            group.create_task(self._reconcile_again_and_again())

    async def poll(self) -> None:
        """Looks at what is declared now, and does what follows from it."""
        async with self._poll_lock:
            faults: tuple[Fault, ...] = ()
            found: Declared | None = None
            try:
                self._publisher.access = await asyncio.to_thread(self._access.read)
            except ConfigError as error:
                faults = error.faults
            try:
                found = await asyncio.to_thread(self._configuration.read)
            except ConfigError as error:
                faults += error.faults
            await to_the_end(self._take(found, faults))

    async def current(self) -> ServingSnapshot:
        """What is served now, for who is no member yet.

        A replica that starts loads what is resident first, and joins when it holds it: until then
        it answers nothing, and nobody has to wait for it.

        Raises:
            NotReadyError: There is nothing to serve yet, because what is declared has faults.
        """
        return self._current()

    async def join(
        self,
        member: Member,
        holding: ServingSnapshot | None = None,
        report: MemberReport | None = None,
    ) -> ServingSnapshot:
        """Takes a member in; from now on nothing is switched to before a replica holds it.

        Args:
            member: Who.
            holding: What it serves until now. A plane that has lost its state goes on with it.
            report: What a replica holds, so that it never counts as holding nothing: it has
                loaded what `current` named before it joins.

        Raises:
            NotReadyError: There is nothing to serve yet, because what is declared has faults.
        """
        return await to_the_end(self._join(member, holding, report))

    async def follow(
        self,
        member_id: str,
        version: Version | None,
        report: MemberReport | None = None,
        timeout_s: float = 30.0,
    ) -> ServingSnapshot | None:
        """Waits for another snapshot than the member's.

        Args:
            member_id: Who.
            version: What it serves from now on: its acknowledgement.
            report: A replica's models, all of them; None leaves what is known.
            timeout_s: At most half of the time after which a silent member counts as dead.

        Returns:
            The present snapshot; None if it is still the member's when the time is over.

        Raises:
            UnknownMemberError: It must join.
        """
        self._seen(member_id, version, report)
        until = time.monotonic() + min(timeout_s, self._timing.expires_s / 2)
        while (current := self._publisher.current) is None or current.version == version:
            left = until - time.monotonic()
            if left <= 0:
                return None
            await self._publisher.published.wait(left)
        return current

    def report(self, member_id: str, report: MemberReport) -> None:
        """Takes a replica's report, all of its models, for example when a load has ended.

        Raises:
            UnknownMemberError: It must join.
        """
        self._seen(member_id, None, report)

    def leave(self, member_id: str) -> None:
        """Takes a member out that ends in order."""
        self._members.leave(member_id)
        self._wake.set()

    async def operate(self, operation: Operation, timeout_s: float = 300.0) -> OperationResult:
        """Does what an operator asks for.

        It is durable before it takes effect. Where models that it needs cannot be loaded and
        nothing of it took effect, it is withdrawn: it must not surprise anybody later.

        Args:
            operation: What.
            timeout_s: How long to wait for its effect.

        Returns:
            Where it stands: once it is in effect and every live ingress serves it, or has not
            said so in time.

        Raises:
            InvalidRequestError: It asks for something that cannot be; every fault is named.
            UnknownModelError: It names a model that is not declared.
            NotReadyError: There is no configuration yet that it could change.
            ConfigError: The store failed; nothing has changed.
        """
        before = self._publisher.current
        applied = await to_the_end(self._apply(operation))
        until = self._clock() + timeout_s
        while True:
            result = self._result(applied)
            if result.outcome != "pending" or self._clock() >= until:
                break
            await self._publisher.published.wait(self._timing.tick_s)
        if result.outcome == "failed":
            now = self._publisher.current
            same = before is not None and now is not None and not force_differs(before, now)
            if same and await to_the_end(self._withdraw(applied, result.detail)):
                return replace(result, withdrawn=True)
        if result.version is None:
            return result
        heard = await self._members.acknowledged(result.version, _ANSWERING, self._timing.confirm_s)
        silent = (*heard.missing, *heard.lost)
        detail = f"in effect, but not confirmed by {', '.join(silent)}" if silent else ""
        return replace(
            result,
            detail=detail,
            confirmed=heard.confirmed,
            missing=heard.missing,
            lost=heard.lost,
        )

    async def describe(self) -> Description:
        """What there is to see."""
        numbers = await asyncio.to_thread(self._store.numbers)
        return describe(self._desired, self._publisher, self._members, self._clock(), numbers)

    async def audit(self, limit: int = 100) -> tuple[AuditEntry, ...]:
        """The last entries of the audit trail, newest first."""
        return await asyncio.to_thread(self._store.audit, limit)

    def _seen(self, member_id: str, version: Version | None, report: MemberReport | None) -> None:
        if self._members.seen(member_id, version, report):
            self._wake.set()

    async def _take(self, found: Declared | None, faults: tuple[Fault, ...]) -> None:
        async with self._lock:
            await self._take_over(found, faults)

    async def _take_over(self, found: Declared | None, faults: tuple[Fault, ...]) -> None:
        if found is not None:
            try:
                await asyncio.to_thread(self._desired.take, found)
            except ConfigError as error:
                faults = error.faults
        self._publisher.tell(faults)
        await self._publisher.reconcile()

    async def _join(
        self, member: Member, holding: ServingSnapshot | None, report: MemberReport | None
    ) -> ServingSnapshot:
        async with self._lock:
            if holding is not None and self._adopts(holding):
                declared, faults = self._desired.declared, self._publisher.faults
                await asyncio.to_thread(self._desired.adopt, holding)
                self._adopted = holding.version
                self._publisher.adopt(holding)
                await self._take_over(declared, faults)
            elif holding is not None:
                self._publisher.remember(holding)
            current = self._current()
            self._members.join(member, report)
        self._wake.set()
        return current

    def _current(self) -> ServingSnapshot:
        current = self._publisher.current
        if current is None:
            why = "; ".join(map(str, self._publisher.faults)) or "it is starting"
            raise NotReadyError(f"There is nothing to serve yet: {why}")
        return current

    def _adopts(self, holding: ServingSnapshot) -> bool:
        """Whether this plane knows nothing better than what a member of a lost one serves."""
        if self._publisher.current is not None and (
            not self._publisher.pristine or self._clock() > self._adopts_until
        ):
            return False
        if self._adopted is None:
            return holding.version[0] != self._publisher.incarnation
        return holding.version[0] == self._adopted[0] and holding.version[1] > self._adopted[1]

    async def _apply(self, operation: Operation) -> Applied:
        async with self._lock:
            applied = await asyncio.to_thread(self._desired.apply, operation)
            self._publisher.pristine = False
            # Who asks has perhaps mended what failed.
            self._publisher.progress = self._publisher.progress.unblocked()
            await self._publisher.reconcile()
        return applied

    async def _withdraw(self, applied: Applied, reason: str) -> bool:
        async with self._lock:
            done = await asyncio.to_thread(self._desired.withdraw, applied, reason)
            await self._publisher.reconcile()
        return done

    def _result(self, applied: Applied) -> OperationResult:
        publisher = self._publisher
        if publisher.plan is None or publisher.current is None:
            detail = "; ".join(map(str, publisher.faults))
            return OperationResult("pending", applied.target.number, detail=detail)
        version = publisher.current.version
        return effect_of(applied, self._desired.target, publisher.plan, version)

    async def _poll_again_and_again(self) -> None:
        while True:
            await asyncio.sleep(self._timing.poll_s)
            with undisturbed():
                await self.poll()

    async def _reconcile_again_and_again(self) -> None:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._timing.tick_s):
                    await self._wake.wait()
            self._wake.clear()
            with undisturbed():
                async with self._lock:
                    await self._publisher.reconcile()
