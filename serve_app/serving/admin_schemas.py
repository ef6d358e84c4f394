"""The JSON shapes of the admin routes, and the operations that bodies stand for."""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from serve_app.control.operations import (
    Clear,
    Operation,
    Pin,
    Promote,
    Rollback,
    SetWeights,
    Unpin,
)
from serve_app.serving.schemas import (
    Answer,
    Body,
    FaultAnswer,
    Name,
    OverridesAnswer,
    RevisionAnswer,
)

Words = Annotated[str, StringConstraints(min_length=1, max_length=1000, strip_whitespace=True)]

DEFAULT_TIMEOUT_S = 300.0


class OperationBody(Body):
    """What every operation has: who asks for it, and why; both go into the audit trail."""

    who: Words
    reason: Words
    timeout_s: float = Field(
        default=DEFAULT_TIMEOUT_S, gt=0, le=3600, description="How long to wait for its effect."
    )

    @abstractmethod
    def operation(self) -> Operation:
        """The operation that it stands for."""


class KeptBody(OperationBody):
    """An operation whose overrides may outlast a change of what is declared."""

    keep: bool = False


class PromoteBody(KeptBody):
    """Body of `POST /v1/admin/promote`."""

    target: Name = Field(description="Name of a model, alias or experiment.")

    def operation(self) -> Operation:
        """The operation that it stands for."""
        return Promote(who=self.who, reason=self.reason, keep=self.keep, target=self.target)


class RollbackBody(KeptBody):
    """Body of `POST /v1/admin/rollback`."""

    number: int | None = Field(
        default=None, ge=1, description="The configuration snapshot; null: the one before."
    )

    def operation(self) -> Operation:
        """The operation that it stands for."""
        return Rollback(who=self.who, reason=self.reason, keep=self.keep, number=self.number)


class PinBody(KeptBody):
    """Body of `POST /v1/admin/pin`."""

    name: Name = Field(description="Name of a model.")

    def operation(self) -> Operation:
        """The operation that it stands for."""
        return Pin(who=self.who, reason=self.reason, keep=self.keep, name=self.name)


class UnpinBody(PinBody):
    """Body of `POST /v1/admin/unpin`."""

    def operation(self) -> Operation:
        """The operation that it stands for."""
        return Unpin(who=self.who, reason=self.reason, keep=self.keep, name=self.name)


class WeightsBody(KeptBody):
    """Body of `POST /v1/admin/weights`."""

    experiment: Name
    arms: dict[Name, float] = Field(
        min_length=1, description="Percentages that sum to 100; what is left out gets nothing."
    )

    def operation(self) -> Operation:
        """The operation that it stands for."""
        return SetWeights(
            who=self.who,
            reason=self.reason,
            keep=self.keep,
            experiment=self.experiment,
            arms=self.arms,
        )


class ClearBody(OperationBody):
    """Body of `POST /v1/admin/clear`."""

    def operation(self) -> Operation:
        """The operation that it stands for."""
        return Clear(who=self.who, reason=self.reason)


class OperationAnswer(Answer):
    """What came of an operation."""

    outcome: Literal["in_effect", "pending", "failed", "superseded"]
    snapshot: int = Field(description="The configuration snapshot that it stands for.")
    version: str | None = Field(description="In which it is in effect.")
    detail: str = Field(description="What is missing, or went wrong.")
    withdrawn: bool = Field(description="Whether it was taken back, as it could not take effect.")
    confirmed: list[str] = Field(description="Ingress replicas that serve it.")
    missing: list[str] = Field(description="Live ingress replicas that have not confirmed it.")
    lost: list[str] = Field(description="Ingress replicas that were not heard of any more.")


class OverriddenAnswer(OverridesAnswer):
    """Overrides, with who made them, and why."""

    who: str | None
    reason: str | None


class HeldAnswer(Answer):
    """How a model is in a replica."""

    state: Literal["loading", "ready", "failed"]
    attempt: int
    reason: str | None
    note: str | None
    leases: int


class MemberAnswer(Answer):
    """An ingress or a replica that follows the control plane."""

    id: str
    kind: Literal["ingress", "pool"]
    pool: str | None
    seen_s: float = Field(description="Seconds since it was heard of.")
    current: bool = Field(description="Whether it serves the present version.")
    models: dict[str, HeldAnswer]


class StatusReport(Answer):
    """Answer of `GET /v1/admin/status`."""

    version: str | None
    snapshot: int | None = Field(description="Number of the configuration snapshot in effect.")
    target: int | None = Field(description="Number of the one that is wanted.")
    complete: bool = Field(description="Whether everything is as wanted.")
    waiting: dict[str, str] = Field(description="By model, why it is not where it is wanted.")
    retry_in_s: dict[str, float]
    revisions: list[RevisionAnswer]
    overrides: OverriddenAnswer | None
    faults: list[FaultAnswer]
    notices: list[FaultAnswer]
    members: list[MemberAnswer]
    snapshots: list[int] = Field(description="Configuration snapshots that one can go back to.")


class AuditEntryAnswer(Answer):
    """One line of the audit trail."""

    number: int
    at: float = Field(description="Seconds since 1970.")
    who: str
    what: str
    why: str
    detail: str


class AuditAnswer(Answer):
    """Answer of `GET /v1/admin/audit`, newest first."""

    object: Literal["list"] = "list"
    data: list[AuditEntryAnswer]
