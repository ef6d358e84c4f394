"""What an operator can ask for, what it makes of the overrides, and what came of it; pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

from serve_app.control.overrides import Overrides
from serve_app.control.version import Version
from serve_app.errors import InvalidRequestError


@dataclass(frozen=True, kw_only=True)
class Operation:
    """A change that a person makes.

    Attributes:
        who: Who makes it.
        reason: Why; it goes into the audit trail.
        keep: Whether the overrides outlast a change of the declared configuration.

    Raises:
        InvalidRequestError: `who` or `reason` is empty.
    """

    kind: ClassVar[str]

    who: str
    reason: str
    keep: bool = False

    def __post_init__(self) -> None:
        for name in ("who", "reason"):
            if not str(getattr(self, name)).strip():
                raise InvalidRequestError(f"`{name}` is empty; it goes into the audit trail.")

    def apply(self, overrides: Overrides, previous: int | None) -> Overrides:
        """The overrides after this operation.

        Args:
            overrides: As they are.
            previous: Number of the configuration snapshot before the present one.

        Raises:
            InvalidRequestError: There is nothing that it could do.
        """
        return replace(self._applied(overrides, previous), keep=self.keep or overrides.keep)

    def _applied(self, overrides: Overrides, previous: int | None) -> Overrides:
        raise NotImplementedError

    def __str__(self) -> str:
        return self.kind


@dataclass(frozen=True, kw_only=True)
class Promote(Operation):
    """Makes a model, alias or experiment the default.

    Attributes:
        target: Its name.
    """

    kind: ClassVar[str] = "promote"

    target: str

    def _applied(self, overrides: Overrides, previous: int | None) -> Overrides:
        return replace(overrides, default=self.target)

    def __str__(self) -> str:
        return f"promote {self.target}"


@dataclass(frozen=True, kw_only=True)
class Rollback(Operation):
    """Goes back to an earlier configuration snapshot: its models, routing and weights.

    Overrides of default and weights end with it; pins stay.

    Attributes:
        number: The snapshot; None: the one before.
    """

    kind: ClassVar[str] = "rollback"

    number: int | None = None

    def _applied(self, overrides: Overrides, previous: int | None) -> Overrides:
        number = previous if self.number is None else self.number
        if number is None:
            raise InvalidRequestError("`number`: there is no earlier snapshot to go back to.")
        return replace(overrides, snapshot=number, default=None, weights={})

    def __str__(self) -> str:
        return f"rollback to {'the previous snapshot' if self.number is None else self.number}"


@dataclass(frozen=True, kw_only=True)
class Pin(Operation):
    """Keeps a model resident on every replica of its pool.

    Attributes:
        name: Of the model.
    """

    kind: ClassVar[str] = "pin"

    name: str

    def _applied(self, overrides: Overrides, previous: int | None) -> Overrides:
        return replace(overrides, pinned=tuple(dict.fromkeys((*overrides.pinned, self.name))))

    def __str__(self) -> str:
        return f"pin {self.name}"


@dataclass(frozen=True, kw_only=True)
class Unpin(Operation):
    """Ends a pin.

    Attributes:
        name: Of the model.
    """

    kind: ClassVar[str] = "unpin"

    name: str

    def _applied(self, overrides: Overrides, previous: int | None) -> Overrides:
        if self.name not in overrides.pinned:
            pinned = ", ".join(overrides.pinned) or "none"
            raise InvalidRequestError(f"`name`: {self.name!r} is not pinned; pinned are: {pinned}.")
        return replace(overrides, pinned=tuple(n for n in overrides.pinned if n != self.name))

    def __str__(self) -> str:
        return f"unpin {self.name}"


@dataclass(frozen=True, kw_only=True)
class SetWeights(Operation):
    """Splits an experiment in another way.

    Attributes:
        experiment: Its name.
        arms: Percentages, summing to 100; arms that are left out get nothing.
    """

    kind: ClassVar[str] = "weights"

    experiment: str
    arms: Mapping[str, float] = field(hash=False)

    def _applied(self, overrides: Overrides, previous: int | None) -> Overrides:
        return replace(overrides, weights={**overrides.weights, self.experiment: dict(self.arms)})

    def __str__(self) -> str:
        arms = ", ".join(f"{arm} {weight:g}" for arm, weight in self.arms.items())
        return f"weights of {self.experiment}: {arms}"


@dataclass(frozen=True, kw_only=True)
class Clear(Operation):
    """Ends all overrides: what is declared is in force again."""

    kind: ClassVar[str] = "clear"

    def _applied(self, overrides: Overrides, previous: int | None) -> Overrides:
        return Overrides()

    def apply(self, overrides: Overrides, previous: int | None) -> Overrides:
        """No overrides, and so nothing to keep."""
        return Overrides()


Outcome = Literal["in_effect", "pending", "failed", "superseded"]


@dataclass(frozen=True)
class OperationResult:
    """What came of an operation.

    Attributes:
        outcome: `in_effect`. `pending`: the time was over first; it goes on. `failed`: a model
            that it needs could not be loaded. `superseded`: something else was asked for before
            it was in effect.
        number: The configuration snapshot that it stands for.
        version: The version in which it is in effect; None where it is not.
        detail: What is missing, or went wrong; empty where all is well.
        withdrawn: Whether a failed operation was taken back, because nothing of it took effect.
        confirmed: Ingresses that serve it.
        missing: Live ingresses that did not confirm in time.
        lost: Ingresses that were not heard of any more; what they serve is not known.
    """

    outcome: Outcome
    number: int
    version: Version | None = None
    detail: str = ""
    withdrawn: bool = False
    confirmed: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()
