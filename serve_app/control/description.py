"""What the control plane shows of itself to people; immutable values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from serve_app.control.desired import DesiredState
from serve_app.control.members import MemberKind, MemberReport, Members
from serve_app.control.overrides import OverridesView
from serve_app.control.publisher import Publisher
from serve_app.control.snapshot import ModelStatus
from serve_app.control.version import Version
from serve_app.errors import Fault


@dataclass(frozen=True)
class MemberDescription:
    """A live member.

    Attributes:
        id: Of the process.
        kind: An ingress, or a replica of a pool.
        pool: A replica's pool.
        seen_s: Seconds since it was heard of.
        current: Whether it serves the present version.
        report: What a replica holds, by model id.
    """

    id: str
    kind: MemberKind
    pool: str | None
    seen_s: float
    current: bool
    report: MemberReport = field(default_factory=dict)


@dataclass(frozen=True)
class Description:
    """The control plane, at one moment.

    Attributes:
        version: Of what is served; None while nothing is.
        number: The configuration snapshot that was last in effect as a whole.
        target: The configuration snapshot that is wanted.
        complete: Whether everything is as wanted.
        waiting: By name, why a model is not where it is wanted.
        retry_in_s: By id, seconds until a failed candidate is tried again.
        statuses: By id.
        overrides: What an operator changed.
        faults: Of the last change that was refused, for as long as it stands.
        notices: What is worth knowing and no fault.
        members: Those that are alive.
        snapshots: Numbers that one can go back to, in order.
    """

    version: Version | None
    number: int | None
    target: int | None
    complete: bool
    waiting: Mapping[str, str]
    retry_in_s: Mapping[str, float]
    statuses: Mapping[str, ModelStatus]
    overrides: OverridesView
    faults: tuple[Fault, ...]
    notices: tuple[Fault, ...]
    members: tuple[MemberDescription, ...]
    snapshots: tuple[int, ...]


def describe(
    desired: DesiredState,
    publisher: Publisher,
    members: Members,
    now: float,
    snapshots: tuple[int, ...],
) -> Description:
    """Describes the plane that consists of these.

    Args:
        desired: What is wanted.
        publisher: What is served.
        members: Who follows.
        now: Seconds, steady.
        snapshots: Numbers that one can go back to.
    """
    current, target, made = publisher.current, desired.target, publisher.plan
    version = current.version if current is not None else None
    failures = publisher.progress.failures.items()
    return Description(
        version=version,
        number=current.number if current is not None else None,
        target=target.number if target is not None else None,
        complete=made is not None and made.complete,
        waiting=made.waiting if made is not None else {},
        retry_in_s={key: max(0.0, failure.retry_at - now) for key, failure in failures},
        statuses=current.statuses if current is not None else {},
        overrides=desired.overrides,
        faults=publisher.faults,
        notices=current.notices if current is not None else (),
        members=tuple(
            MemberDescription(
                member.id,
                member.kind,
                member.pool,
                members.age_of(member.id),
                version is not None and members.has(member.id, version),
                members.report_of(member.id),
            )
            for member in members.live()
        ),
        snapshots=snapshots,
    )
