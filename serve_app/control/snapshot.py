"""What is served, at one moment: immutable values that ingress and replicas follow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

from serve_app.config.access import Access
from serve_app.config.faults import suggestion
from serve_app.control.overrides import OverridesView
from serve_app.control.version import Version
from serve_app.errors import Fault, UnknownModelError
from serve_app.models.snapshot import ResolvedModel
from serve_app.routing.table import RoutingTable

ModelState = Literal["declared", "loading", "ready", "active", "draining", "unloaded", "failed"]


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """Where a revision stands.

    Attributes:
        state: `declared`: known, nothing loads it yet. `loading`: replicas load it beside what
            is active. `ready`: loaded where it must be, not switched yet. `active`: the name
            answers with it. `draining`: another revision answers, requests may still use this
            one. `unloaded`: no replica holds it any longer. `failed`: it could not be loaded.
        reason: Why it failed.
        note: What else is worth knowing.
        since: When it came into this state, in seconds since 1970.
    """

    state: ModelState
    reason: str | None = None
    note: str | None = None
    since: float = 0.0


class Candidate(NamedTuple):
    """A revision that a replica loads beside what is active.

    Attributes:
        model: What to load.
        attempt: Another number than before asks for another try.
    """

    model: ResolvedModel
    attempt: int


_MAPPINGS = ("catalog", "active", "candidates", "trials", "moving", "statuses")


@dataclass(frozen=True)
class ServingSnapshot:
    """What is served. Cannot be changed; pickles.

    It offers what a `RegistrySnapshot` offers to those who serve: `models`, `default`,
    `routing`, `resolve`, `by_id`, `preloaded`, `for_pool`, `notices`.

    Attributes:
        version: Another one with every publication.
        number: The configuration snapshot that was last in effect as a whole.
        catalog: By id, everything that may be addressed: active, candidates, draining and
            recently retired revisions.
        active: Name to the id that it answers with, in order of declaration.
        routing: Which model answers which request. All that it routes to is active and resident.
        resident: Ids that a replica of their pool holds before it is ready; the default first.
        candidates: Id to attempt: what replicas load beside what is active.
        trials: For candidates that one replica of the pool tries for all: that member's id; empty
            while there is none.
        moving: By id, the new form of revisions that move to another pool; `catalog` has the form
            that answers now.
        statuses: By id.
        faults: Of the last change that was refused, for as long as it stands.
        overrides: What an operator changed.
        notices: What is worth knowing about the declared models and no fault.
        access: Who may use the service.
        ingresses: How many ingress replicas share its limits.
    """

    version: Version
    number: int
    catalog: Mapping[str, ResolvedModel]
    active: Mapping[str, str]
    routing: RoutingTable
    resident: tuple[str, ...] = ()
    candidates: Mapping[str, int] = field(default_factory=dict)
    trials: Mapping[str, str] = field(default_factory=dict)
    moving: Mapping[str, ResolvedModel] = field(default_factory=dict)
    statuses: Mapping[str, ModelStatus] = field(default_factory=dict)
    faults: tuple[Fault, ...] = ()
    overrides: OverridesView = field(default_factory=OverridesView)
    notices: tuple[Fault, ...] = field(default=(), compare=False)
    access: Access = field(default_factory=Access)
    ingresses: int = 1

    def __post_init__(self) -> None:
        for name in _MAPPINGS:
            object.__setattr__(self, name, MappingProxyType(dict(getattr(self, name))))
        models = {name: self.catalog[model_id] for name, model_id in self.active.items()}
        object.__setattr__(self, "_models", MappingProxyType(models))

    def __reduce__(self) -> tuple[Any, ...]:
        # A mapping proxy does not pickle.
        values = (getattr(self, item.name) for item in fields(self))
        return (
            type(self),
            tuple(dict(v) if isinstance(v, MappingProxyType) else v for v in values),
        )

    @property
    def models(self) -> Mapping[str, ResolvedModel]:
        """By name, the revisions that answer, in order of declaration."""
        found: Mapping[str, ResolvedModel] = self._models  # type: ignore[attr-defined]
        return found

    @property
    def default(self) -> str:
        """Name of the model that answers when a request names none; an experiment's first arm."""
        return self.routing.routed()[0]

    def resolve(self, model: str | None = None) -> ResolvedModel:
        """The revision that a request means.

        Args:
            model: A name: the active revision. `name@revision`: any in the catalog. None: the
                default.

        Raises:
            UnknownModelError: Nothing of this name answers, or it has no such revision.
        """
        if model is None:
            return self.models[self.default]
        found = self.models.get(model) or self.catalog.get(model)
        if found is not None:
            return found
        name, at, revision = model.partition("@")
        if name in self.active and at:
            raise UnknownModelError(
                f"The model {name!r} has no revision {revision!r}; {self.active[name]} is active."
            )
        waiting = next((item.id for item in self.catalog.values() if item.name == name), None)
        if waiting is not None:
            raise UnknownModelError(f"{waiting} does not answer: {self._told(waiting)}.")
        near = suggestion(name, self.active) or "."
        raise UnknownModelError(
            f"There is no model {name!r}{near} Declared are: {', '.join(self.active)}."
        )

    def by_id(self, model_id: str) -> ResolvedModel:
        """The model with exactly this `name@revision`.

        Raises:
            UnknownModelError: There is none.
        """
        if "@" not in model_id:
            raise UnknownModelError(f"{model_id!r} is not of the form name@revision.")
        return self.resolve(model_id)

    def preloaded(self) -> tuple[ResolvedModel, ...]:
        """What replicas of a model's pool hold before they are ready; the default comes first."""
        return tuple(self.catalog[model_id] for model_id in self.resident)

    def addressable(self) -> tuple[ResolvedModel, ...]:
        """Everything that `by_id` finds."""
        return tuple(self.catalog.values())

    def for_pool(self, pool: str) -> tuple[ResolvedModel, ...]:
        """The active models that a pool holds, in order of declaration."""
        return tuple(item for item in self.models.values() if item.spec.pool == pool)

    def candidates_for(self, pool: str, member_id: str) -> tuple[Candidate, ...]:
        """What this replica loads beside what is active."""
        found = []
        for model_id, attempt in self.candidates.items():
            model = self.moving.get(model_id) or self.catalog[model_id]
            if model.spec.pool == pool and self.trials.get(model_id, member_id) == member_id:
                found.append(Candidate(model, attempt))
        return tuple(found)

    def _told(self, model_id: str) -> str:
        status = self.statuses.get(model_id)
        if status is None:
            return "it is not active"
        return f"it is {status.state}" + (f", {status.reason}" if status.reason else "")
