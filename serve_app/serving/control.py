"""The deployment that hosts the control plane: one replica, which may die and come back."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from dataclasses import dataclass, field

from serve_app.config.access import AccessSource
from serve_app.config.document import Document, SpecSource
from serve_app.config.routing_source import RoutingDocument, RoutingSource
from serve_app.control.description import Description
from serve_app.control.members import Member, MemberReport, UnknownMemberError
from serve_app.control.operations import Operation, OperationResult
from serve_app.control.plane import ControlPlane
from serve_app.control.snapshot import ServingSnapshot
from serve_app.control.sqlite_store import SqliteStateStore
from serve_app.control.store import AuditEntry
from serve_app.control.timing import Timing
from serve_app.control.version import Version
from serve_app.models.factory import SimilarityModelFactory
from serve_app.models.placement import PoolPlacement
from serve_app.models.registry import DynamicModelRegistry
from serve_app.serving.control_link import UNKNOWN_MEMBER, UnknownMember
from serve_app.serving.logs import log_to_serve
from serve_app.serving.metrics import ControlMetrics

logger = logging.getLogger("serve_app.serving")


@dataclass(frozen=True, slots=True)
class ControlSettings:
    """What the control plane works with; frozen when the application is built.

    Attributes:
        placements: What each pool offers, by name.
        models: Where models come from; a document for what never changes.
        routing: Where routing comes from; None where nothing says anything about it.
        access: Where it is written who may use the service.
        state_url: Where overrides and history are kept; None: nothing outlives the process.
        timing: How long to wait for what.
        log_level: Level of the application's log.
    """

    placements: dict[str, PoolPlacement]
    models: SpecSource | Document
    routing: RoutingSource | RoutingDocument | None = None
    access: AccessSource = field(default_factory=AccessSource)
    state_url: str | None = None
    timing: Timing = field(default_factory=Timing)
    log_level: str = "INFO"


class Control:
    """The control plane behind a Serve handle; its methods are those of `ControlPlane`.

    Args:
        settings: What it works with.
    """

    async def __init__(self, settings: ControlSettings) -> None:  # type: ignore[misc]
        log_to_serve(settings.log_level)
        store = None if settings.state_url is None else SqliteStateStore(settings.state_url)
        self._plane = ControlPlane(
            DynamicModelRegistry(settings.placements, SimilarityModelFactory()),
            settings.models,
            settings.routing,
            store,
            settings.timing,
            observer=ControlMetrics(),
            access=settings.access,
        )
        await self._plane.start()
        # In a context of its own: it belongs to no request.
        self._running = asyncio.get_running_loop().create_task(
            self._plane.run(), context=contextvars.Context()
        )

    def check_health(self) -> None:
        """Raises when the control plane works no longer; Serve then starts another."""
        if self._running.done():
            raise RuntimeError("the control plane has stopped")

    async def current(self) -> ServingSnapshot:
        """See `ControlPlane.current`."""
        return await self._plane.current()

    async def join(
        self, member: Member, holding: ServingSnapshot | None, report: MemberReport | None
    ) -> ServingSnapshot:
        """See `ControlPlane.join`."""
        return await self._plane.join(member, holding, report)

    async def follow(
        self,
        member_id: str,
        version: Version | None,
        report: MemberReport | None,
        timeout_s: float,
    ) -> ServingSnapshot | UnknownMember | None:
        """See `ControlPlane.follow`."""
        try:
            return await self._plane.follow(member_id, version, report, timeout_s)
        except UnknownMemberError:
            return UNKNOWN_MEMBER

    async def operate(self, operation: Operation, timeout_s: float) -> OperationResult:
        """See `ControlPlane.operate`."""
        return await self._plane.operate(operation, timeout_s)

    async def describe(self) -> Description:
        """See `ControlPlane.describe`."""
        return await self._plane.describe()

    async def audit(self, limit: int) -> tuple[AuditEntry, ...]:
        """See `ControlPlane.audit`."""
        return await self._plane.audit(limit)
