"""Which models are declared and routed, at one moment: immutable, and travels between processes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Protocol

from serve_app.config.faults import suggestion
from serve_app.config.spec import ModelSpec
from serve_app.errors import Fault, UnknownModelError
from serve_app.models.base import Placement
from serve_app.routing.table import RoutingTable


@dataclass(frozen=True, slots=True)
class ResolvedModel:
    """A declared model with nothing left open.

    Attributes:
        name: As declared.
        revision: 8 hexadecimal digits; changes with everything that changes a score.
        spec: As declared.
        placement: Device, precision and threads.
    """

    name: str
    revision: str
    spec: ModelSpec
    placement: Placement

    @property
    def id(self) -> str:
        """`name@revision`."""
        return f"{self.name}@{self.revision}"

    def __hash__(self) -> int:
        return hash(self.id)  # the spec holds a mapping and so has no hash


class Snapshot(Protocol):
    """What those who serve need to know of models and routing, at one moment.

    A `RegistrySnapshot` says what is declared; the control plane's `ServingSnapshot` what of it
    answers now. Neither can be changed.
    """

    @property
    def models(self) -> Mapping[str, ResolvedModel]:
        """By name, the revisions that answer, in order of declaration."""

    @property
    def default(self) -> str:
        """Name of the model that answers when a request names none."""

    @property
    def routing(self) -> RoutingTable | None:
        """Aliases and experiments; None where there are none."""

    def resolve(self, model: str | None = None) -> ResolvedModel:
        """The model of a name, or of `name@revision`; raises `UnknownModelError`."""

    def by_id(self, model_id: str) -> ResolvedModel:
        """The model with exactly this `name@revision`; raises `UnknownModelError`."""

    def preloaded(self) -> tuple[ResolvedModel, ...]:
        """What replicas of a model's pool hold before they are ready; the default comes first."""

    def addressable(self) -> tuple[ResolvedModel, ...]:
        """Everything that `by_id` finds."""


@dataclass(frozen=True)
class RegistrySnapshot:
    """The declared models, and which of them answers what. Cannot be changed; pickles.

    Everything that may change while the service runs hangs on this one object: who holds one
    snapshot from a request's beginning to its end never sees half a change.

    Attributes:
        version: 1 for the first, one more for each change.
        models: By name, in order of declaration.
        default: Name of the model that answers when a request names none; where an experiment
            does, its first arm that has a weight.
        notices: What is worth knowing and no fault, for example a checkpoint that is not on the
            machine of the control plane.
        routing: Aliases and experiments; None where there are none.
    """

    version: int
    models: Mapping[str, ResolvedModel]
    default: str
    notices: tuple[Fault, ...] = field(default=(), compare=False)
    routing: RoutingTable | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "models", MappingProxyType(dict(self.models)))

    def __reduce__(self) -> tuple[Any, ...]:
        # A mapping proxy does not pickle.
        fields = (self.version, dict(self.models), self.default, self.notices, self.routing)
        return (type(self), fields)

    def routed_by(self, routing: RoutingTable) -> RegistrySnapshot:
        """The same models, with another routing and the default that it names."""
        return replace(self, routing=routing, default=routing.routed()[0])

    def resolve(self, model: str | None = None) -> ResolvedModel:
        """The model of this name; aliases and experiments have no part in it.

        Args:
            model: `name`, `name@revision`, or None for the default.

        Raises:
            UnknownModelError: It is not declared, or its revision is another one.
        """
        if model is None:
            return self.models[self.default]
        name, at, revision = model.partition("@")
        found = self.models.get(name)
        if found is None:
            near = suggestion(name, self.models) or "."
            raise UnknownModelError(
                f"There is no model {name!r}{near} Declared are: {', '.join(self.models)}."
            )
        if at and revision != found.revision:
            raise UnknownModelError(
                f"The model {name!r} has no revision {revision!r}; {found.id} is active."
            )
        return found

    def by_id(self, model_id: str) -> ResolvedModel:
        """The model with exactly this `name@revision`.

        Raises:
            UnknownModelError: There is none.
        """
        if "@" not in model_id:
            raise UnknownModelError(f"{model_id!r} is not of the form name@revision.")
        return self.resolve(model_id)

    def preloaded(self) -> tuple[ResolvedModel, ...]:
        """What replicas of a model's pool load before they are ready; the default comes first.

        These are the models that routing names, and those whose spec says so.
        """
        routed = () if self.routing is None else self.routing.routed()
        wanted = (name for name, item in self.models.items() if item.spec.preload)
        names = dict.fromkeys((self.default, *routed, *wanted))
        return tuple(self.models[name] for name in names)

    def addressable(self) -> tuple[ResolvedModel, ...]:
        """Everything that `by_id` finds."""
        return tuple(self.models.values())

    def for_pool(self, pool: str) -> tuple[ResolvedModel, ...]:
        """The models that a pool holds, in order of declaration."""
        return tuple(item for item in self.models.values() if item.spec.pool == pool)


@dataclass(frozen=True, slots=True)
class SnapshotDiff:
    """What differs between two snapshots, as names.

    Attributes:
        added: Only in the new one.
        removed: Only in the old one.
        changed: In both, with another revision.
        adjusted: In both with the same revision: same scores, but another pool, other threads,
            costs or preloading.
    """

    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    adjusted: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.changed or self.adjusted)


def diff(old: RegistrySnapshot | None, new: RegistrySnapshot) -> SnapshotDiff:
    """What changed from `old` (None: from nothing) to `new`."""
    before = old.models if old is not None else {}
    both = [name for name in new.models if name in before]
    changed = [name for name in both if before[name].revision != new.models[name].revision]
    return SnapshotDiff(
        added=tuple(name for name in new.models if name not in before),
        removed=tuple(name for name in before if name not in new.models),
        changed=tuple(changed),
        adjusted=tuple(
            name for name in both if name not in changed and before[name] != new.models[name]
        ),
    )
