"""Models and where their revisions stand, as JSON-ready dictionaries of the shapes in `schemas`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict
from typing import Any

from serve_app.control.description import Description
from serve_app.control.overrides import OverridesView
from serve_app.control.snapshot import ModelStatus, ServingSnapshot
from serve_app.control.version import Version
from serve_app.errors import Fault, UnknownModelError
from serve_app.models.base import ModelInfo
from serve_app.models.snapshot import ResolvedModel, Snapshot

KnownInfo = Callable[[str], ModelInfo | None]
"""What is known of a model id, if anything is."""

_GONE = ("draining", "unloaded")


def models_answer(snapshot: Snapshot, known_info: KnownInfo) -> dict[str, Any]:
    """`ModelsAnswer`."""
    models = (*snapshot.models.values(), *_not_yet(snapshot))
    answer: dict[str, Any] = {
        "object": "list",
        "version": None,
        "snapshot": None,
        "data": [model_answer(model, snapshot, known_info(model.id)) for model in models],
        "revisions": [],
        "overrides": None,
        "faults": [],
        "notices": [],
    }
    if isinstance(snapshot, ServingSnapshot):
        answer |= {
            "version": version_answer(snapshot.version),
            "snapshot": snapshot.number,
            "revisions": [
                {"id": model_id, **status_answer(status)}
                for model_id, status in snapshot.statuses.items()
            ],
            "overrides": overrides_answer(snapshot.overrides),
            "faults": faults_answer(snapshot.faults),
            "notices": faults_answer(snapshot.notices),
        }
    return answer


def find_model(snapshot: Snapshot, name: str) -> ResolvedModel:
    """The model that `name` or `name@revision` means, also while it does not answer yet.

    Raises:
        UnknownModelError: There is none.
    """
    try:
        return snapshot.resolve(name)
    except UnknownModelError:
        waiting = {model.name: model for model in _not_yet(snapshot)}
        if name not in waiting:
            raise
        return waiting[name]


def model_answer(
    model: ResolvedModel, snapshot: Snapshot, info: ModelInfo | None
) -> dict[str, Any]:
    """`ModelAnswer`; what only a loaded model can tell comes with `info`."""
    active = snapshot.models.get(model.name)
    answer: dict[str, Any] = {
        "id": model.id,
        "object": "model",
        "name": model.name,
        "revision": model.revision,
        "default": active == model and model.name == snapshot.default,
        "pool": model.spec.pool,
        "backend": model.spec.backend,
        "architecture": model.spec.architecture,
        "pretrained": model.spec.pretrained,
        "device": model.placement.device,
        "precision": model.placement.precision,
        "loaded": info is not None,
    }
    if isinstance(snapshot, ServingSnapshot):
        answer |= status_answer(snapshot.statuses.get(model.id))
    if info is not None:
        answer |= _told(info)
    return answer


def _told(info: ModelInfo) -> dict[str, Any]:
    capabilities = info.capabilities
    return {
        "architecture": info.architecture,
        "capabilities": {
            "metrics": list(capabilities.metrics),
            "default_metrics": list(capabilities.default_metrics),
            "primary": capabilities.primary,
            "embeds": capabilities.embeds,
            "max_batch": capabilities.max_batch,
            "context_length": capabilities.context_length,
            "embedding_dim": capabilities.embedding_dim,
        },
        "parameters": info.parameters,
        "bytes": info.bytes,
        "load_seconds": round(info.load_seconds, 3),
        "expected_ms": round(info.expected_ms, 3),
        "image_size": list(info.preprocess.size),
        "preprocessing": asdict(info.preprocess),
        "details": dict(info.details),
    }


def _not_yet(snapshot: Snapshot) -> tuple[ResolvedModel, ...]:
    """Of each name that does not answer yet, the revision that is to."""
    if not isinstance(snapshot, ServingSnapshot):
        return ()
    found = {}
    for model in snapshot.addressable():
        status = snapshot.statuses.get(model.id)
        if model.name not in snapshot.models and (status is None or status.state not in _GONE):
            found[model.name] = model
    return tuple(found.values())


def status_answer(status: ModelStatus | None) -> dict[str, Any]:
    """`StatusAnswer`; null for what has no lifecycle."""
    if status is None:
        return {"state": None, "reason": None, "note": None, "since": None}
    return {
        "state": status.state,
        "reason": status.reason,
        "note": status.note,
        "since": status.since,
    }


def replicas_answer(model: ResolvedModel, description: Description) -> list[dict[str, Any]]:
    """`ReplicaAnswer`s: how a model is on each replica of its pool that is alive."""
    answer = []
    for member in description.members:
        if member.kind != "pool" or member.pool != model.spec.pool:
            continue
        report = member.report.get(model.id)
        told = (
            {"state": "unloaded", "reason": None, "note": None}
            if report is None
            else {"state": report.state, "reason": report.reason, "note": report.note}
        )
        answer.append({"id": member.id, **told})
    return answer


def overrides_answer(view: OverridesView) -> dict[str, Any] | None:
    """`OverridesAnswer`; who made them and why is for operators."""
    if not view:
        return None
    overrides = view.overrides
    return {
        "snapshot": overrides.snapshot,
        "default": overrides.default,
        "weights": {name: dict(arms) for name, arms in overrides.weights.items()},
        "pinned": list(overrides.pinned),
        "keep": overrides.keep,
        "since": view.since,
    }


def version_answer(version: Version | None) -> str | None:
    """A version as one word; it is compared for equality alone."""
    return None if version is None else ".".join(map(str, version))


def faults_answer(faults: Iterable[Fault]) -> list[dict[str, str]]:
    """`FaultAnswer`s."""
    return [{"key": fault.key, "message": fault.message} for fault in faults]
