"""Configuration as JSON, exact both ways: what the state store and digests are made of."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from serve_app.config.routing_spec import RoutingSpec
from serve_app.config.spec import ModelSpec
from serve_app.control.overrides import Overrides, OverridesView
from serve_app.models.base import Placement
from serve_app.models.snapshot import ResolvedModel
from serve_app.routing.table import RoutingTable


def models_json(models: Iterable[ResolvedModel]) -> str:
    """Models in their order, as a JSON list."""
    return _dumps(
        [
            {
                "name": model.name,
                "revision": model.revision,
                "spec": model.spec.model_dump(mode="json"),
                "placement": asdict(model.placement),
            }
            for model in models
        ]
    )


def models_from_json(text: str) -> dict[str, ResolvedModel]:
    """The models, by name.

    Raises:
        ValueError: It is nothing that `models_json` wrote.
    """
    return {
        item["name"]: ResolvedModel(
            item["name"],
            item["revision"],
            ModelSpec.model_validate(item["spec"]),
            Placement(**item["placement"]),
        )
        for item in _loads(text)
    }


def routing_json(table: RoutingTable) -> str:
    """A routing table, as a JSON object."""
    spec = table.spec.model_dump(mode="json")
    return _dumps({"spec": spec, "models": list(table.models), "default": table.default})


def same_routing(one: RoutingTable, other: RoutingTable) -> bool:
    """Whether two are the same to the order of arms, which `==` does not see."""
    if one.spec is other.spec:
        return (one.models, one.default) == (other.models, other.default)
    return routing_json(one) == routing_json(other)


def routing_from_json(text: str) -> RoutingTable:
    """The routing table.

    Raises:
        ValueError: It is nothing that `routing_json` wrote.
    """
    item = _loads(text)
    spec = RoutingSpec.model_validate(item["spec"])
    return RoutingTable(spec, tuple(item["models"]), item["default"])


def overrides_json(view: OverridesView) -> str:
    """Overrides and their origin, as a JSON object."""
    overrides = view.overrides
    return _dumps(
        {
            "snapshot": overrides.snapshot,
            "default": overrides.default,
            "weights": {name: dict(arms) for name, arms in overrides.weights.items()},
            "pinned": list(overrides.pinned),
            "keep": overrides.keep,
            "who": view.who,
            "reason": view.reason,
            "since": view.since,
            "declared": view.declared,
        }
    )


def overrides_from_json(text: str) -> OverridesView:
    """The overrides.

    Raises:
        ValueError: It is nothing that `overrides_json` wrote.
    """
    item = _loads(text)
    overrides = Overrides(
        item["snapshot"], item["default"], item["weights"], tuple(item["pinned"]), item["keep"]
    )
    return OverridesView(overrides, item["who"], item["reason"], item["since"], item["declared"])


def digest_of(models: Mapping[str, ResolvedModel], routing: RoutingTable) -> str:
    """A hash of models and routing, their order (which says who is the control) included."""
    text = f"{models_json(models.values())}\n{routing_json(routing)}"
    return hashlib.sha256(text.encode()).hexdigest()


def _dumps(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), allow_nan=False)


def _loads(text: str) -> Any:
    return json.loads(text)
