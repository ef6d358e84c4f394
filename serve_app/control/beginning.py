"""The snapshot that a plane begins with: fresh, recovered from the store, or adopted."""

from __future__ import annotations

from serve_app.control.snapshot import ServingSnapshot
from serve_app.control.store import InForce
from serve_app.control.target import Target
from serve_app.control.version import Version


def first_snapshot(target: Target, version: Version) -> ServingSnapshot:
    """What a fresh plane serves: all of it at once; replicas load it before they are ready."""
    needed = target.needed(target.routing)
    resident = tuple(target.models[name].id for name in needed)
    return recovered_snapshot(
        InForce(target.number, target.models, target.routing, resident), version
    )


def recovered_snapshot(force: InForce, version: Version) -> ServingSnapshot:
    """What answered requests before goes on to."""
    return ServingSnapshot(
        version=version,
        number=force.number,
        catalog={model.id: model for model in force.models.values()},
        active={name: model.id for name, model in force.models.items()},
        routing=force.routing,
        resident=force.resident,
    )


def force_of(snapshot: ServingSnapshot) -> InForce:
    """What of a snapshot outlives the plane."""
    return InForce(snapshot.number, snapshot.models, snapshot.routing, snapshot.resident)
