"""From a routing document to a checked table; names every fault at once."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from pydantic import ValidationError

from serve_app.config.faults import LocatedMessage, Origin, Path, located_messages, suggestion
from serve_app.config.routing_source import RoutingDocument
from serve_app.config.routing_spec import ExperimentSpec, RoutingSpec
from serve_app.config.settings import ROUTING
from serve_app.config.spec import Strict
from serve_app.errors import ConfigError, Fault
from serve_app.routing.table import RoutingTable

_KEY_MARK = "[key]"
"""What pydantic puts behind a mapping's key that is itself at fault."""


def build_routing(
    document: RoutingDocument | None,
    models: Collection[str],
    default: str,
    weights: Mapping[str, Mapping[str, float]] | None = None,
    default_override: str | None = None,
) -> RoutingTable:
    """Checks everything about routing.

    Args:
        document: As written; None where nothing is.
        models: Names of the declared models.
        default: The declared model that answers where the document names no default.
        weights: An operator's arms and percentages by experiment, instead of the document's; arms
            that are left out get nothing.
        default_override: An operator's default, instead of the document's.

    Raises:
        ConfigError: Every fault, each with its key: of the document as its author wrote it, of an
            operator's as `override weights.<experiment>` and `override default`.
    """
    check = _Check(document or RoutingDocument({}, Origin(ROUTING)), models)
    check.names()
    check.aliases()
    check.experiments()
    changed = {
        name: found
        for name, arms in (weights or {}).items()
        if (found := check.override(name, arms)) is not None
    }
    check.default(default_override)
    if check.faults:
        raise ConfigError(tuple(check.faults))
    spec = check.spec
    experiments = {
        name: experiment.model_copy(update={"arms": changed.get(name, experiment.arms)})
        for name, experiment in check.parsed.items()
    }
    answers = default_override or spec.default or default
    effective = spec.model_copy(update={"default": answers, "experiments": experiments})
    return RoutingTable(effective, tuple(models), answers)


class _Check:
    """One document under examination.

    Attributes:
        spec: What of the document is sound, without experiments.
        parsed: The experiments that are sound by themselves.
        faults: Found so far.
    """

    def __init__(self, document: RoutingDocument, models: Collection[str]) -> None:
        self.faults = list(document.faults)
        self.parsed: dict[str, ExperimentSpec] = {}
        self._document = document
        self._models = tuple(models)
        # Experiments are validated one by one: then a fault's key ends where it should, and one
        # at fault does not keep the others from being checked.
        self._raw = {**document.raw}
        if isinstance(self._raw.get("experiments"), dict):
            self._raw_experiments: dict[str, Any] = self._raw.pop("experiments")
        else:
            self._raw_experiments = {}
        raw_aliases = self._raw.get("aliases")
        self._aliases: dict[str, Any] = raw_aliases if isinstance(raw_aliases, dict) else {}
        messages = _messages(RoutingSpec, self._raw)
        self._wrong = {path for path, _ in messages}
        for path, message in messages:
            self._fault(path, message)
        wrong_fields = {path[0] for path in self._wrong if path}
        sound = {name: value for name, value in self._raw.items() if name not in wrong_fields}
        self.spec = RoutingSpec.model_validate(sound)

    def names(self) -> None:
        """Models, aliases and experiments share their names."""
        for alias in self._aliases:
            if alias in self._models:
                self._fault(("aliases", alias), "is also a model's name; rename the alias")
        for name in self._raw_experiments:
            if name in self._models:
                kind = "a model's"
            elif name in self._aliases:
                kind = "an alias's"
            else:
                continue
            self._fault(("experiments", name), f"is also {kind} name; rename the experiment")

    def aliases(self) -> None:
        """Every alias leads somewhere."""
        told: set[str] = set()
        for alias, target in self._aliases.items():
            path = ("aliases", alias)
            if path in self._wrong or not isinstance(target, str):
                continue
            self._known(path, target)
            chain = [alias]
            while isinstance(target, str) and target in self._aliases and target not in chain:
                chain.append(target)
                target = self._aliases[target]  # noqa: PLW2901
            if target == alias and not told & set(chain):
                told.update(chain)
                self._fault(path, f"leads back to itself: {' -> '.join((*chain, alias))}")

    def experiments(self) -> None:
        """Every experiment by itself, its models, and that no two have one control."""
        controls: dict[str, str] = {}
        for name, raw in self._raw_experiments.items():
            top = ("experiments", name)
            messages = _messages(ExperimentSpec, raw)
            if (bad_name := _name_message(name)) is not None:
                self._fault(top, bad_name)
            for path, message in messages:
                self._fault((*top, *path), message)
            wrong = {path for path, _ in messages}
            for path, model in _mentioned(raw):
                if path not in wrong:
                    self._model((*top, *path), model)
            control = _control(raw)
            if control is not None:
                other = controls.setdefault(control, name)
                if other != name:
                    self._fault(
                        (*top, "arms"),
                        f"has the same control as {other!r}, {control!r}: it would be open which "
                        "of them requests for it are part of; put the arms into one experiment",
                    )
            if not messages:
                self.parsed[name] = ExperimentSpec.model_validate(raw)

    def override(self, name: str, arms: Any) -> dict[str, float] | None:
        """An operator's arms, in the experiment's order; None where they are at fault."""
        origin = Origin("override weights")
        before = len(self.faults)
        if name not in self._raw_experiments:
            known = ", ".join(self._raw_experiments) or "none"
            near = suggestion(name, self._raw_experiments) or f"; declared are: {known}"
            self.faults.append(Fault(origin.key((name,)), f"there is no such experiment{near}"))
            return None
        messages = _messages(ExperimentSpec, {"arms": arms})
        self.faults.extend(
            Fault(origin.key((name, *path[1:])), message) for path, message in messages
        )
        experiment = self.parsed.get(name)
        if experiment is None or not isinstance(arms, Mapping):
            return None
        for arm in arms:
            if arm not in experiment.arms:
                near = suggestion(str(arm), experiment.arms)
                known = near or f"; it has: {', '.join(experiment.arms)}"
                message = f"the experiment has no arm {arm!r}{known}"
                self.faults.append(Fault(origin.key((name, str(arm))), message))
        if len(self.faults) > before:
            return None
        return {arm: float(arms.get(arm, 0)) for arm in experiment.arms}

    def default(self, override: str | None) -> None:
        """The default exists, the document's as well as an operator's."""
        if self.spec.default is not None:
            self._known(("default",), self.spec.default)
        if override is not None and override not in self._all_names():
            self.faults.append(Fault("override default", _missing(override, self._all_names())))

    def _known(self, path: Path, name: str) -> None:
        if name not in self._all_names():
            self._fault(path, _missing(name, self._all_names()))

    def _model(self, path: Path, name: str) -> None:
        if name in self._models:
            return
        if name in self._aliases:
            self._fault(path, f"{name!r} is an alias; name the model it stands for")
        elif name in self._raw_experiments:
            self._fault(path, f"{name!r} is an experiment; name a model")
        else:
            self._fault(path, _missing(name, self._models))

    def _all_names(self) -> tuple[str, ...]:
        return (*self._models, *self._aliases, *self._raw_experiments)

    def _fault(self, path: Path, message: str) -> None:
        self.faults.append(Fault(self._document.key(path), message))


def _messages(kind: type[Strict], raw: Any) -> list[LocatedMessage]:
    try:
        kind.model_validate(raw)
    except ValidationError as error:
        return [
            (path[:-1] if path and path[-1] == _KEY_MARK else path, message)
            for path, message in located_messages(error, kind)
        ]
    return []


def _name_message(name: str) -> str | None:
    """What is wrong with an experiment's name."""
    messages = _messages(RoutingSpec, {"aliases": {name: "x"}})
    return messages[0][1] if messages else None


def _mentioned(raw: Any) -> Iterable[tuple[Path, str]]:
    """The models that an experiment names, and where."""
    if not isinstance(raw, dict):
        return
    if isinstance(raw.get("arms"), dict):
        yield from ((("arms", arm), arm) for arm in raw["arms"])
    if isinstance(raw.get("shadow"), list):
        for index, name in enumerate(raw["shadow"]):
            if isinstance(name, str):
                yield ("shadow", str(index)), name


def _control(raw: Any) -> str | None:
    arms = raw.get("arms") if isinstance(raw, dict) else None
    return next(iter(arms), None) if isinstance(arms, dict) else None


def _missing(name: str, known: Iterable[str]) -> str:
    names = list(known)
    near = suggestion(name, names) or f"; declared are: {', '.join(names)}"
    return f"there is no model {name!r}{near}"
