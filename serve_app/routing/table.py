"""From a request to the model that answers it; knows no registry, and loads and scores nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from serve_app.config.faults import suggestion
from serve_app.config.routing_spec import IMAGE, ROUTING_KEY, TEXT, ExperimentSpec, RoutingSpec
from serve_app.errors import UnknownModelError
from serve_app.routing.split import choose, digest, text_bytes


@dataclass(frozen=True, slots=True)
class RoutingKeys:
    """What of a request an experiment can be sticky by.

    Attributes:
        request_id: Stands in for what the request does not have.
        routing_key: As the caller gave it.
        headers: By lower-case name.
        texts: In the request's order.
        images: Encoded images in the request's order, or what gives them. They are read only
            where an experiment is sticky by them.
    """

    request_id: str
    routing_key: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    texts: tuple[str, ...] = ()
    images: tuple[bytes, ...] | Callable[[], Iterable[bytes]] = ()

    def key(self, experiment: ExperimentSpec) -> str:
        """The key that the experiment is split by.

        It is the request id, and so random, for `random` and where the request has nothing else;
        an empty routing key or header is none.
        """
        return self._found(experiment) or self.request_id

    def _found(self, experiment: ExperimentSpec) -> str | None:
        if experiment.header is not None:
            return self.headers.get(experiment.header)
        if experiment.sticky_by == ROUTING_KEY:
            return self.routing_key
        if experiment.sticky_by == TEXT:
            return digest(map(text_bytes, self.texts)).hex() if self.texts else None
        if experiment.sticky_by == IMAGE:
            images = tuple(self.images() if callable(self.images) else self.images)
            return digest(images).hex() if images else None
        return None


@dataclass(frozen=True, slots=True)
class Route:
    """Where a request goes.

    Attributes:
        model: `name`, or `name@revision` where the request said so.
        experiment: The experiment that the request is part of.
        arm: The arm it was given: the name of `model`.
        shadows: Models that also score the request; `model` may be one of them.
    """

    model: str
    experiment: str | None = None
    arm: str | None = None
    shadows: tuple[str, ...] = ()


@dataclass(frozen=True)
class RoutingTable:
    """Routing, with nothing left open. Cannot be changed; pickles. Made by `build_routing`.

    Attributes:
        spec: What is in force: with the default filled in and overrides applied.
        models: The declared models.
        default: What answers a request that names nothing: a model, alias or experiment.
    """

    spec: RoutingSpec
    models: tuple[str, ...]
    default: str

    def route(self, model: str | None, keys: RoutingKeys) -> Route:
        """Where a request goes.

        A model that is named answers by itself: no experiment, no shadow. An alias is its target,
        an experiment is split. Where nothing is named, the default answers, and where that is the
        control of an experiment, the request is part of it.

        Args:
            model: What the request names: a model, `name@revision` (whose revision is not checked
                here), an alias, an experiment, or None.
            keys: What experiments can be sticky by.

        Raises:
            UnknownModelError: There is nothing of this name.
        """
        if model is None:
            return self._split(self._default_target(), keys)
        name, at, _ = model.partition("@")
        if name in self.models:
            return Route(model)
        if name not in self.spec.aliases and name not in self.spec.experiments:
            raise self._unknown(name)
        if at:
            kind = "alias" if name in self.spec.aliases else "experiment"
            raise UnknownModelError(
                f"{name!r} is an {kind} and has no revisions, so there is no {model!r}; "
                f"name {name!r} or a model."
            )
        return self._split(self._target(name), keys)

    def routed(self) -> tuple[str, ...]:
        """Models that must be ready to answer: default, aliases' targets, arms, shadows.

        Arms of weight 0 are not among them. The default comes first.
        """
        names: list[str] = []
        for name in (self._target(self.default), *map(self._target, self.spec.aliases)):
            names.extend(self._resident(name))
        for name in self.spec.experiments:
            names.extend(self._resident(name))
        for experiment in self.spec.experiments.values():
            names.extend(experiment.shadow)
        return tuple(dict.fromkeys(names))

    def _target(self, name: str) -> str:
        """The model or experiment at the end of a chain of aliases."""
        while name in self.spec.aliases:
            name = self.spec.aliases[name]
        return name

    def _default_target(self) -> str:
        target = self._target(self.default)
        for name, experiment in self.spec.experiments.items():
            if experiment.control == target:
                return name
        return target

    def _split(self, target: str, keys: RoutingKeys) -> Route:
        experiment = self.spec.experiments.get(target)
        if experiment is None:
            return Route(target)
        arm = choose(target, experiment.arms, keys.key(experiment))
        return Route(arm, target, arm, experiment.shadow)

    def _resident(self, target: str) -> tuple[str, ...]:
        experiment = self.spec.experiments.get(target)
        if experiment is None:
            return (target,)
        return tuple(arm for arm, weight in experiment.arms.items() if weight > 0)

    def _unknown(self, name: str) -> UnknownModelError:
        declared = (*self.models, *self.spec.aliases, *self.spec.experiments)
        near = suggestion(name, declared) or "."
        return UnknownModelError(
            f"There is no model {name!r}{near} Declared are: {', '.join(declared)}."
        )
