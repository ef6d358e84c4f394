"""From declared specs and routing to a checked, versioned snapshot; loads nothing.

What is declared is taken as a whole or not at all: every fault in it is named, and while there is
one the snapshot stays as it was.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from serve_app.config.document import Document
from serve_app.config.faults import LocatedMessage, located_messages, show, suggestion
from serve_app.config.overrides import environment_name
from serve_app.config.parity import read_parity
from serve_app.config.routing_source import RoutingDocument
from serve_app.config.spec import NAME_PATTERN, ModelSpec
from serve_app.errors import ConfigError, Fault, ModelLoadError
from serve_app.models.base import Placement
from serve_app.models.factory import SimilarityModelFactory
from serve_app.models.placement import PoolPlacement
from serve_app.models.snapshot import RegistrySnapshot, ResolvedModel, SnapshotDiff, diff
from serve_app.routing.build import build_routing
from serve_app.routing.table import RoutingTable

__all__ = [
    "DynamicModelRegistry",
    "PoolPlacement",
    "RegistrySnapshot",
    "ResolvedModel",
    "SnapshotDiff",
    "diff",
    "revision_of",
]

DEFAULT_NAME = "demo"
"""The default model where it is declared; else the first declared is."""

_REVISION_DIGITS = 8
_LONGEST_HISTORY = 50
_NAME_RULE = (
    "is not a model name: 1 to 63 lower-case letters, digits, '.', '_' or '-', "
    "the first a letter or digit"
)


_FOLLOWS: Mapping[str, tuple[str, ...]] = {
    "backend": ("architecture", "pretrained", "sha256", "primary", "options"),
    "pool": ("device", "precision"),
    "allow_random_weights": ("pretrained",),
}
"""Where a field's value is at fault, nothing can be said about these others."""


class DynamicModelRegistry:
    """The declared models, now and before.

    Args:
        pools: What each pool offers, by name.
        factory: Knows the backends.
    """

    def __init__(
        self, pools: Mapping[str, PoolPlacement], factory: SimilarityModelFactory | None = None
    ) -> None:
        self._pools = dict(pools)
        self._factory = factory or SimilarityModelFactory()
        self._history: list[RegistrySnapshot] = []

    @property
    def snapshot(self) -> RegistrySnapshot | None:
        """The last good snapshot; None before the first."""
        return self._history[-1] if self._history else None

    @property
    def history(self) -> tuple[RegistrySnapshot, ...]:
        """The last snapshots, oldest first, the present one included."""
        return tuple(self._history)

    def update(
        self, document: Document, routing: RoutingDocument | None = None
    ) -> RegistrySnapshot:
        """Takes over what is declared.

        Args:
            document: The models.
            routing: Which of them answers what; None where nothing says so: then the default
                model answers what names none.

        Returns:
            The new snapshot; the present one, if nothing changed. Files are looked at again, so
            weights that were replaced under the same path are a change.

        Raises:
            ConfigError: Every fault in both documents, each with its key; nothing has changed.
        """
        faults = list(document.faults)
        notices: list[Fault] = []
        if not document.models:
            faults.append(Fault(document.key(), "declares no model; at least one is needed"))
        faults.extend(_collisions(document))
        resolved: dict[str, ResolvedModel] = {}
        for name, raw in document.models.items():
            found = self._model(document, name, raw, faults, notices)
            if found is not None:
                resolved[name] = found
        table = _routing(document, routing, faults)
        if faults:
            # The documents may tell of the same variable.
            raise ConfigError(tuple(dict.fromkeys(faults)))
        now = self.snapshot
        same = now is not None and list(now.models.items()) == list(resolved.items())
        if now is not None and same and _written(now.routing) == _written(table):
            return now
        version = now.version + 1 if now is not None else 1
        snapshot = RegistrySnapshot(version, resolved, _default(resolved), tuple(notices))
        if table is not None:
            snapshot = snapshot.routed_by(table)
        self._history = [*self._history, snapshot][-_LONGEST_HISTORY:]
        return snapshot

    def _model(
        self, document: Document, name: str, raw: Any, faults: list[Fault], notices: list[Fault]
    ) -> ResolvedModel | None:
        """One model; None where a fault keeps it from being resolved."""
        before = len(faults)
        if not NAME_PATTERN.fullmatch(name):
            faults.append(Fault(document.key((name,)), f"{show(name)} {_NAME_RULE}"))
        spec, messages = _validated(raw)
        faults.extend(Fault(document.key((name, *path)), text) for path, text in messages)
        if spec is None:
            return None
        silent = {path[0] for path, _ in messages}
        silent.update(*(_FOLLOWS.get(field, ()) for field in tuple(silent)))

        def fault(field: str, message: str) -> None:
            path = field.split(".")
            if path[0] not in silent:
                faults.append(Fault(document.key((name, *path)), message))

        for finding in self._factory.check(spec):
            if finding.fault:
                fault(finding.field, finding.message)
            else:
                key = document.key((name, *finding.field.split(".")))
                notices.append(Fault(key, finding.message))
        if spec.parity is not None and "parity" not in silent:
            try:
                read_parity(spec.parity)
            except ConfigError as error:
                for found in error.faults:
                    fault("parity.file", str(found))
        try:
            _canonical(spec.options)
        except (TypeError, ValueError) as error:
            fault("options", f"must be plain JSON values: {error}")
        placement = self._placement(spec, fault)
        if placement is None or len(faults) > before:
            return None
        try:
            revision = revision_of(spec, placement, self._factory.fingerprint(spec))
        except (OSError, ModelLoadError) as error:
            fault("pretrained", f"cannot be identified: {error}")
            return None
        return ResolvedModel(name, revision, spec, placement)

    def _placement(self, spec: ModelSpec, fault: Any) -> Placement | None:
        pool = self._pools.get(spec.pool)
        if pool is None:
            near = suggestion(spec.pool, self._pools)
            known = ", ".join(self._pools)
            fault("pool", f"there is no pool {spec.pool!r}{near or ';'} declared are: {known}")
            return None
        device = pool.device if spec.device == "auto" else spec.device
        if device == "cuda" and pool.device == "cpu":
            gpu_pools = [name for name, other in self._pools.items() if other.device == "cuda"]
            others = (
                f"pools with a GPU are: {', '.join(gpu_pools)}" if gpu_pools else "none has one"
            )
            fault("device", f"the pool {spec.pool!r} has no GPU; {others}")
            return None
        if device == "cpu" and spec.precision == "fp16":
            fault(
                "precision",
                "fp16 is for GPUs: a CPU computes it slowly, and its small range overflows; "
                "take fp32, bf16 or auto",
            )
            return None
        precision: str = spec.precision
        if precision == "auto":
            precision = "bf16" if device == "cuda" or pool.fast_bf16 else "fp32"
        return Placement(device, precision, pool.threads)


def _default(models: Mapping[str, Any]) -> str:
    return DEFAULT_NAME if DEFAULT_NAME in models else next(iter(models))


def _routing(
    document: Document, routing: RoutingDocument | None, faults: list[Fault]
) -> RoutingTable | None:
    """The routing, checked against the names of all models, also of those that are at fault."""
    if routing is None:
        return None
    if not document.models:
        faults.extend(routing.faults)
        return None
    try:
        return build_routing(routing, tuple(document.models), _default(document.models))
    except ConfigError as error:
        faults.extend(error.faults)
        return None


def _written(table: RoutingTable | None) -> str | None:
    # Not compared as values: which arm is the control is a matter of their order.
    return None if table is None else f"{table.default} {table.spec.model_dump_json()}"


def _validated(raw: Any) -> tuple[ModelSpec | None, list[LocatedMessage]]:
    """A spec and what is wrong with it.

    Fields at fault are left out of the spec, so that the others can be checked all the same; None
    where there is no mapping of fields.
    """
    try:
        return ModelSpec.model_validate(raw), []
    except ValidationError as error:
        messages = located_messages(error, ModelSpec)
    wrong = {path[0] for path, _ in messages if path}
    if not isinstance(raw, Mapping) or not wrong:
        return None, messages
    rest = {key: value for key, value in raw.items() if key not in wrong}
    return ModelSpec.model_validate(rest), messages


def revision_of(spec: ModelSpec, placement: Placement, fingerprint: Mapping[str, Any]) -> str:
    """The revision: a hash of everything that changes a score, and of nothing else.

    Name, pool, threads, costs and preloading are not in it. The words for architecture and weights
    are not either, but what they stand for: paths are mutable, and contents may move.

    Args:
        spec: The declared configuration.
        placement: Device and precision, resolved.
        fingerprint: What identifies architecture and weights.
    """
    content = {
        "backend": spec.backend,
        "fingerprint": fingerprint,
        "device": placement.device,
        "precision": placement.precision,
        "preprocessing": spec.preprocessing.model_dump(mode="json", exclude_none=True),
        "primary": spec.primary,
        "options": spec.options,
    }
    return hashlib.sha256(_canonical(content).encode()).hexdigest()[:_REVISION_DIGITS]


def _canonical(content: Any) -> str:
    return json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _collisions(document: Document) -> list[Fault]:
    """Names that one variable `SIMILARITY_MODELS__<NAME>__…` cannot tell apart."""
    groups: dict[str, list[str]] = {}
    for name in document.models:
        groups.setdefault(environment_name(name), []).append(name)
    return [
        Fault(document.key((name,)), f"is {upper} in variables, like {names[0]!r}; rename one")
        for upper, names in groups.items()
        for name in names[1:]
    ]
