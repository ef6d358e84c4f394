"""What is served: plans it anew when something happened, writes it down, and publishes it.

Its coroutines must not run at the same time; the control plane sees to that.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from serve_app.config.access import Access
from serve_app.control.beginning import first_snapshot, force_of, recovered_snapshot
from serve_app.control.desired import DesiredState
from serve_app.control.members import Members
from serve_app.control.observed import observe
from serve_app.control.observer import ControlObserver
from serve_app.control.plan import Plan
from serve_app.control.progress import Progress
from serve_app.control.records import same_routing
from serve_app.control.rollout import plan
from serve_app.control.signal import Signal
from serve_app.control.snapshot import ServingSnapshot
from serve_app.control.store import AuditEntry, InForce, StateStore
from serve_app.control.timing import Timing
from serve_app.control.version import Version
from serve_app.errors import ConfigError, Fault
from serve_app.observability.telling import tell

_log = logging.getLogger(__name__)

ROLLOUT = "rollout"
"""Who made a change that follows from an earlier one."""


class Publisher:
    """What is served.

    Args:
        desired: What is wanted.
        members: Who follows.
        store: Keeps what is in force.
        timing: How long to wait for what.
        clock: Seconds, steady.
        wall: Seconds since 1970.
        observer: Is told what happens.
        access: Who may use the service.

    Attributes:
        current: The last publication; None before the first.
        plan: What the last planning found; None while it could not be published.
        progress: Of the last planning.
        published: Is sent with every publication.
        access: Who may use the service, as it was read last.
        pristine: Whether nothing was published but what the first publication had active.
    """

    def __init__(
        self,
        desired: DesiredState,
        members: Members,
        store: StateStore,
        timing: Timing,
        *,
        clock: Callable[[], float],
        wall: Callable[[], float],
        observer: ControlObserver | None = None,
        access: Access = Access(),  # noqa: B008 - immutable
    ) -> None:
        self.current: ServingSnapshot | None = None
        self.plan: Plan | None = None
        self.progress = Progress()
        self.published = Signal()
        self.pristine = True
        self.access = access
        self._desired = desired
        self._members = members
        self._store = store
        self._timing = timing
        self._clock = clock
        self._wall = wall
        self._observer = observer
        self._incarnation = uuid.uuid4().hex[:12]
        self._counter = 0
        self._declared_faults: tuple[Fault, ...] = ()
        self._store_faults: tuple[Fault, ...] = ()

    @property
    def incarnation(self) -> str:
        """Of this plane: the first part of its versions."""
        return self._incarnation

    @property
    def faults(self) -> tuple[Fault, ...]:
        """Why what is declared, or a change, is not taken over."""
        return tuple(dict.fromkeys((*self._declared_faults, *self._store_faults)))

    def tell(self, faults: tuple[Fault, ...]) -> None:
        """Takes note of the faults in what is declared; the next publication has them."""
        if faults and faults != self._declared_faults:
            listing = "\n".join(f"  - {fault}" for fault in faults)
            _log.error("A change of the configuration is refused:\n%s", listing)
        if self._declared_faults and not faults:
            _log.info("The configuration is valid again.")
        observer = self._observer
        if observer is not None and faults != self._declared_faults:
            tell(lambda: observer.refused(faults))
        self._declared_faults = faults

    def recover(self, force: InForce) -> None:
        """Goes on with what the store says is in force."""
        self._begin(recovered_snapshot(force, self._next_version()))

    def adopt(self, holding: ServingSnapshot) -> None:
        """Goes on with what a member of a lost plane serves."""
        self._begin(
            replace(holding, version=self._next_version(), candidates={}, trials={}, moving={})
        )

    def remember(self, holding: ServingSnapshot) -> None:
        """Keeps what a member of an earlier plane knows: requests for it may be on their way."""
        if self.current is None or holding.version[0] == self._incarnation:
            return
        lost = {
            key: item for key, item in holding.catalog.items() if key not in self.current.catalog
        }
        if lost:
            self._publish(replace(self.current, catalog={**self.current.catalog, **lost}))

    async def reconcile(self) -> None:
        """Plans, and publishes what is new; a store that fails keeps everything as it is."""
        target = self._desired.target
        if target is None:
            return
        if self.current is None:
            first = first_snapshot(target, self._next_version())
            if not await self._write(force_of(first), None):
                return
            self._begin(first)
        current = self.current
        assert current is not None  # noqa: S101 - for the type checker
        observed = observe(self._members, self._incarnation, self._clock(), self._wall())
        made = plan(current, target, observed, self.progress, self._timing.retire_after_s)
        wanted = self._dressed(made.snapshot)
        if force_differs(current, wanted):
            told = AuditEntry(
                self._wall(), ROLLOUT, _told(current, wanted), f"snapshot {target.number}"
            )
            if not await self._write(force_of(wanted), told):
                self.plan = None
                self._publish_if_new(current)
                return
            _log.info("Snapshot %d: %s", target.number, told.what)
            self.pristine = False
        self._store_faults = ()
        self.progress = made.progress
        self.plan = made
        self._publish_if_new(made.snapshot)

    async def _write(self, force: InForce, entry: AuditEntry | None) -> bool:
        try:
            await asyncio.to_thread(self._store.change, active=force, audit=entry)
        except ConfigError as error:
            if error.faults != self._store_faults:
                _log.error("What is in force cannot be written, so it stays as it is: %s", error)
            self._store_faults = error.faults
            return False
        return True

    def _begin(self, snapshot: ServingSnapshot) -> None:
        self.progress = Progress.of(snapshot)
        self.plan = None
        self._show(self._dressed(snapshot))

    def _dressed(self, snapshot: ServingSnapshot) -> ServingSnapshot:
        declared = self._desired.declared
        return replace(
            snapshot,
            faults=self.faults,
            overrides=self._desired.overrides,
            notices=declared.notices if declared is not None else (),
            access=self.access,
            ingresses=max(1, len(self._members.live("ingress"))),
        )

    def _publish_if_new(self, snapshot: ServingSnapshot) -> None:
        dressed = self._dressed(snapshot)
        current = self.current
        if current is None or dressed != current or force_differs(current, dressed):
            self._publish(dressed)

    def _publish(self, snapshot: ServingSnapshot) -> None:
        self._show(replace(snapshot, version=self._next_version()))

    def _show(self, snapshot: ServingSnapshot) -> None:
        before = self.current.statuses if self.current is not None else {}
        self.current = snapshot
        self.published.send()
        observer = self._observer
        for model_id, status in snapshot.statuses.items():
            known = before.get(model_id)
            if known is not None and known.state == status.state:
                continue
            _log.log(
                logging.WARNING if status.state == "failed" else logging.INFO,
                "%s is %s%s",
                model_id,
                status.state,
                f": {status.reason}" if status.reason else "",
            )
            if observer is not None:
                tell(partial(observer.state, model_id, status.state, status.reason))
        if observer is not None:
            tell(partial(observer.published, snapshot))

    def _next_version(self) -> Version:
        self._counter += 1
        return self._incarnation, self._counter


def force_differs(one: ServingSnapshot, other: ServingSnapshot) -> bool:
    """Whether something else answers, or is resident; the order counts, it says who is first."""
    return (
        one.number != other.number
        or list(one.models.items()) != list(other.models.items())
        or one.resident != other.resident
        or not same_routing(one.routing, other.routing)
    )


def _told(before: ServingSnapshot, after: ServingSnapshot) -> str:
    """What changes, in words."""
    changes = []
    for name in dict.fromkeys((*before.active, *after.active)):
        old, new = before.active.get(name), after.active.get(name)
        if old != new:
            changes.append(f"{old or 'nothing'} -> {new or 'nothing'}")
        elif before.models[name] != after.models[name]:
            changes.append(f"{new} adjusted")
    if not same_routing(before.routing, after.routing):
        changes.append("routing")
    if before.resident != after.resident:
        changes.append(f"resident: {', '.join(after.resident)}")
    return "; ".join(changes) or f"snapshot {after.number} is in effect"
