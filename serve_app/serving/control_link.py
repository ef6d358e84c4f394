"""How a process reaches the control plane over Ray; knows nothing of what is said."""

from __future__ import annotations

import asyncio
from typing import Any, Literal

import grpc
from ray.exceptions import RayError, RayTaskError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from serve_app.control.description import Description
from serve_app.control.members import Member, MemberReport, UnknownMemberError
from serve_app.control.operations import Operation, OperationResult
from serve_app.control.snapshot import ServingSnapshot
from serve_app.control.store import AuditEntry
from serve_app.control.version import Version
from serve_app.errors import NotReadyError, ServeAppError

_CALL_WITHIN_S = 10.0
"""How long a call may take that has nothing to wait for; a node that vanishes says nothing."""


UnknownMember = Literal["unknown member"]
UNKNOWN_MEMBER: UnknownMember = "unknown member"
"""What crosses instead of an `UnknownMemberError`: it is no failure, so Serve must not log one."""


class RayControlLink:
    """The control plane behind a Serve handle; a `ControlLink`, and an `AdminService`.

    Every method raises `NotReadyError` while it cannot be reached, and what the control plane
    raises besides.

    Args:
        handle: Of its deployment.
    """

    def __init__(self, handle: DeploymentHandle[Any]) -> None:
        names = ("current", "join", "follow", "operate", "describe", "audit")
        # `.options()` builds a new router client each time.
        self._methods = {
            (name, large): handle.options(method_name=name, _by_reference=large)
            for name in names
            for large in (False, True)
        }

    async def current(self) -> ServingSnapshot:
        """See `ControlPlane.current`."""
        snapshot: ServingSnapshot = await self._call("current")
        return snapshot

    async def join(
        self,
        member: Member,
        holding: ServingSnapshot | None = None,
        report: MemberReport | None = None,
    ) -> ServingSnapshot:
        """See `ControlPlane.join`."""
        snapshot: ServingSnapshot = await self._call("join", member, holding, report)
        return snapshot

    async def follow(
        self,
        member_id: str,
        version: Version | None,
        report: MemberReport | None = None,
        timeout_s: float = 30.0,
    ) -> ServingSnapshot | None:
        """See `ControlPlane.follow`."""
        answer: ServingSnapshot | UnknownMember | None = await self._call(
            "follow", member_id, version, report, timeout_s, within_s=timeout_s + _CALL_WITHIN_S
        )
        if isinstance(answer, str):
            raise UnknownMemberError(member_id)
        return answer

    async def operate(self, operation: Operation, timeout_s: float = 300.0) -> OperationResult:
        """See `ControlPlane.operate`."""
        result: OperationResult = await self._call(
            "operate", operation, timeout_s, within_s=timeout_s + 3 * _CALL_WITHIN_S
        )
        return result

    async def describe(self) -> Description:
        """See `ControlPlane.describe`."""
        description: Description = await self._call("describe")
        return description

    async def audit(self, limit: int = 100) -> tuple[AuditEntry, ...]:
        """See `ControlPlane.audit`."""
        entries: tuple[AuditEntry, ...] = await self._call("audit", limit)
        return entries

    async def _call(self, name: str, *arguments: Any, within_s: float = _CALL_WITHIN_S) -> Any:
        # By value, see `RayExecutor`; an answer that is too large for a message comes otherwise.
        try:
            try:
                return await self._answer(name, False, arguments, within_s)
            except grpc.aio.AioRpcError as error:
                if error.code() != grpc.StatusCode.RESOURCE_EXHAUSTED:
                    raise
                return await self._answer(name, True, arguments, within_s)
        except RayTaskError as error:
            cause = error.cause
            if isinstance(cause, (ServeAppError, UnknownMemberError)):
                raise cause from None
            raise NotReadyError(
                f"The control plane failed ({type(cause).__name__}: {cause}); its log has more."
            ) from error
        except (RayError, RayServeException, grpc.RpcError, TimeoutError) as error:
            raise NotReadyError(
                f"The control plane cannot be reached ({type(error).__name__}); what is in force "
                "goes on."
            ) from error

    async def _answer(
        self, name: str, large: bool, arguments: tuple[Any, ...], within_s: float
    ) -> Any:
        response = self._methods[name, large].remote(*arguments)
        try:
            async with asyncio.timeout(within_s):
                return await response
        except (asyncio.CancelledError, TimeoutError):
            response.cancel()
            raise
