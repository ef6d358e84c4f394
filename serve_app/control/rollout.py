"""From what is wanted and what the members report to what is to be served next; pure.

It is called again whenever something happened, and always says the whole of the next snapshot, so
nothing is lost when the plane or a member dies in between.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal, NamedTuple

from serve_app.control.failures import absorbed
from serve_app.control.observed import Observed
from serve_app.control.plan import Plan
from serve_app.control.progress import Progress, Retiring
from serve_app.control.snapshot import ServingSnapshot
from serve_app.control.statuses import statuses_of
from serve_app.control.target import Target
from serve_app.models.snapshot import ResolvedModel
from serve_app.routing.table import RoutingTable

Step = Literal["settled", "switch", "load", "try", "introduce", "blocked"]
"""`settled`: answers already. `switch`: may answer now. `try`: one replica loads it first. `load`:
one holds it, and all others of the pool load it. `introduce`: the replicas have to hear of it
first. `blocked`: it failed, and it is too early for the next attempt."""

_DONE: tuple[Step, ...] = ("settled", "switch")


def plan(
    current: ServingSnapshot,
    target: Target,
    observed: Observed,
    progress: Progress,
    retire_after_s: float,
) -> Plan:
    """What is to be served next.

    Args:
        current: What is served.
        target: What is wanted.
        observed: The live members.
        progress: Of the last plan.
        retire_after_s: How long a drained revision may still be addressed, and stay loaded where
            there is room: a rollback to it is immediate.
    """
    failures = absorbed(current, observed, progress.failures)
    work = _Planning(current, target, observed, replace(progress, failures=failures))
    work.decide()
    catalog, moving = work.catalog()
    retiring = work.retiring(catalog)
    gone = {
        model_id
        for model_id, item in retiring.items()
        if item.drained_at is not None and observed.now - item.drained_at >= retire_after_s
    }
    catalog = {key: model for key, model in catalog.items() if key not in gone}
    retiring = {key: item for key, item in retiring.items() if key not in gone}
    candidates, trials = work.candidates()
    snapshot = replace(
        current,
        catalog=catalog,
        active=work.active,
        routing=work.routing,
        resident=work.resident(catalog),
        candidates=candidates,
        trials=trials,
        moving=moving,
    )
    waiting = work.waiting()
    settled = work.settled_ids()
    attempts = {**progress.attempts, **candidates}
    done = Progress(
        {
            model_id: failure
            for model_id, failure in failures.items()
            if model_id in catalog and model_id not in settled
        },
        {model_id: number for model_id, number in attempts.items() if model_id in catalog},
        work.introduced((*catalog.values(), *moving.values())),
        retiring,
    )
    statuses = statuses_of(snapshot, observed, done.failures, retiring, current.statuses)
    number = target.number if work.routed and not waiting else current.number
    return Plan(
        replace(snapshot, statuses=statuses, number=number),
        done,
        waiting,
        work.failed(),
        work.blocking,
    )


class _Decision(NamedTuple):
    """What is to be done about a wanted model."""

    model: ResolvedModel
    step: Step


class _Planning:
    """One plan in the making.

    Attributes:
        active: Name to id, as it will be.
        routing: As it will be.
        routed: Whether that is what is wanted.
        blocking: Names because of which it is not.
    """

    def __init__(
        self, current: ServingSnapshot, target: Target, observed: Observed, progress: Progress
    ) -> None:
        self.active: dict[str, str] = dict(current.active)
        self.routing = current.routing
        self.routed = False
        self.blocking: tuple[str, ...] = ()
        self._current = current
        self._target = target
        self._observed = observed
        self._progress = progress
        self._next = current.version[1] + 1
        # What the present routing names must stay loaded everywhere for as long as it is in force.
        self._needed = dict.fromkeys(
            (*target.needed(target.routing), *target.needed(current.routing))
        )
        self._steps: dict[str, _Decision] = {}

    def decide(self) -> None:
        """Which models can answer now, and whether the routing can."""
        models = self._target.models
        for name in self._needed:
            self._steps[name] = _Decision(models[name], self._needed_step(models[name]))
        self.blocking = (
            *(name for name in self._target.routing.routed() if not self._answers(name)),
            *(name for name in self._becoming_models() if not self._can_answer(name)),
        )
        self.routed = not self.blocking
        wanted = self._target.routing if self.routed else self._current.routing
        taken = {*wanted.spec.aliases, *wanted.spec.experiments}
        for name, model in models.items():
            if name not in self._needed:
                self._steps[name] = _Decision(model, self._on_demand_step(model, taken))
        active = dict(self._current.active)
        for name, (model, step) in self._steps.items():
            if step == "switch":
                active[name] = model.id
        kept = set() if self.routed else self._kept()
        names = (*models, *(name for name in active if name in kept and name not in models))
        self.active = {name: active[name] for name in names if name in active}
        known = (name for name in dict.fromkeys((*self.active, *models)) if name not in taken)
        self.routing = RoutingTable(wanted.spec, tuple(known), wanted.default)

    def catalog(self) -> tuple[dict[str, ResolvedModel], dict[str, ResolvedModel]]:
        """All that may be addressed, and the new forms of what moves to another pool."""
        catalog, moving = dict(self._current.catalog), {}
        for name, (model, step) in self._steps.items():
            held = catalog.get(model.id)
            moves = held is not None and held.spec.pool != model.spec.pool
            if moves and self._current.active.get(name) == model.id and step != "switch":
                moving[model.id] = model
            else:
                catalog[model.id] = model
        return catalog, moving

    def candidates(self) -> tuple[dict[str, int], dict[str, str]]:
        """What replicas load beside what is active; and who tries what for all."""
        candidates, trials = {}, {}
        for model, step in self._steps.values():
            if step not in ("load", "try"):
                continue
            failure = self._progress.failures.get(model.id)
            going = self._current.candidates.get(model.id)
            if going is None or (failure is not None and failure.attempt >= going):
                known = self._progress.attempts.get(model.id, 0)
                last = max(known, self._observed.tried(model))
                # One that was begun under a plane before this one goes on.
                going = max(last + 1, self._observed.trying(model))
            candidates[model.id] = going
            if step == "try":
                trials[model.id] = self._tester(model)
        return candidates, trials

    def resident(self, catalog: Mapping[str, ResolvedModel]) -> tuple[str, ...]:
        """What replicas must hold: only what those that live do hold, or had to before."""
        found = []
        active = {name: catalog[model_id] for name, model_id in self.active.items()}
        pinned = (n for n, m in active.items() if m.spec.preload or n in self._target.pinned)
        for name in dict.fromkeys((*self.routing.routed(), *pinned)):
            if self._stays(active[name]) or self._observed.everywhere(active[name]):
                found.append(active[name].id)
        return tuple(found)

    def retiring(self, catalog: Mapping[str, ResolvedModel]) -> dict[str, Retiring]:
        """Revisions that nothing wants any longer."""
        wanted = {*self.active.values(), *(model.id for model, _ in self._steps.values())}
        found = {}
        for model_id in catalog:
            if model_id in wanted:
                continue
            answered = model_id in self._current.active.values()
            left_at = self._next if answered else self._current.version[1]
            before = self._progress.retiring.get(model_id, Retiring(left_at))
            on_the_way = self._observed.ingress_counter < before.left_at
            used = on_the_way or self._observed.leases(model_id) > 0
            since = self._observed.now if before.drained_at is None else before.drained_at
            found[model_id] = Retiring(before.left_at, None if used else since)
        return found

    def introduced(self, models: tuple[ResolvedModel, ...]) -> dict[tuple[str, str], int]:
        """Since which version members know of models in their pools."""
        keys = ((model.id, model.spec.pool) for model in models)
        return {key: self._progress.introduced.get(key, self._next) for key in keys}

    def settled_ids(self) -> set[str]:
        """Wanted ids that answer."""
        return {model.id for model, step in self._steps.values() if step in _DONE}

    def waiting(self) -> dict[str, str]:
        """By name, why a model is not where it is wanted."""
        return {
            name: self._why(model, step)
            for name, (model, step) in self._steps.items()
            if step not in _DONE
        }

    def failed(self) -> dict[str, str]:
        """By name, why a model that is waited for could not be loaded."""
        failures = self._progress.failures
        return {
            name: failures[model.id].reason
            for name, (model, step) in self._steps.items()
            if step == "blocked"
        }

    def _becoming_models(self) -> tuple[str, ...]:
        """Names that the routing in force has for something else, and that are to be models."""
        before = self._current.routing.spec
        taken = (*before.aliases, *before.experiments)
        routed = self._target.routing.routed()
        return tuple(name for name in taken if name in self._target.models and name not in routed)

    def _can_answer(self, name: str) -> bool:
        """Whether a name that is new as a model can answer as one."""
        if name in self._steps:
            return self._steps[name].step in _DONE
        return self._known(self._target.models[name])

    def _kept(self) -> set[str]:
        """Models that answer until the wanted routing is in force, though they are not wanted."""
        wanted = self._target.routing.spec
        return {*self._current.routing.routed(), *wanted.aliases, *wanted.experiments}

    def _answers(self, name: str) -> bool:
        """Whether every replica has what a name answers with, be it the revision before."""
        if self._steps[name].step in _DONE:
            return True
        return self._current.active.get(name) in self._current.resident

    def _needed_step(self, model: ResolvedModel) -> Step:
        if self._placed(model) and self._stays(model):
            return "settled"
        # A replica may hold what it can no longer be asked for by name, because it was retired.
        if self._observed.everywhere(model) and self._known(model):
            return "switch"
        if self._blocked(model):
            return "blocked"
        # One replica tries it for all: what kills the process that loads it must not cost the pool.
        return "load" if self._observed.ready_on(model)[0] else "try"

    def _on_demand_step(self, model: ResolvedModel, taken: set[str]) -> Step:
        if self._placed(model):
            return "settled"
        known = self._known(model)
        if model.name not in self._current.active:
            # A name that the routing in force still has for something else has to wait for it.
            return "switch" if known and model.name not in taken else "introduce"
        if self._observed.ready_on(model)[0]:
            return "switch" if known else "try"
        return "blocked" if self._blocked(model) else "try"

    def _placed(self, model: ResolvedModel) -> bool:
        """Whether its name answers with it, in its pool."""
        if self._current.active.get(model.name) != model.id:
            return False
        return self._current.catalog[model.id].spec.pool == model.spec.pool

    def _stays(self, model: ResolvedModel) -> bool:
        held = self._current.catalog.get(model.id)
        return (
            model.id in self._current.resident
            and held is not None
            and held.spec.pool == model.spec.pool
        )

    def _known(self, model: ResolvedModel) -> bool:
        since = self._progress.introduced.get((model.id, model.spec.pool))
        return since is not None and self._observed.known_since(model.spec.pool, since)

    def _blocked(self, model: ResolvedModel) -> bool:
        failure = self._progress.failures.get(model.id)
        return failure is not None and failure.blocks(self._observed.now)

    def _tester(self, model: ResolvedModel) -> str:
        """Who tries it for all; empty where there is nobody."""
        return self._observed.tester(model, self._current.trials.get(model.id)) or ""

    def _why(self, model: ResolvedModel, step: Step) -> str:
        if step == "blocked":
            return f"{model.id} failed: {self._progress.failures[model.id].reason}"
        if step == "introduce":
            if self._known(model):
                return f"{model.id} answers once the routing is as wanted"
            return f"{model.id} is new; replicas are being told"
        ready, replicas = self._observed.ready_on(model)
        if not replicas:
            return f"{model.id} waits for a replica of the pool {model.spec.pool!r}"
        if step == "try" and replicas > 1:
            return f"{model.id} is tried by one replica first: {self._tester(model)}"
        return f"{model.id} is ready on {ready} of {replicas} replicas"
