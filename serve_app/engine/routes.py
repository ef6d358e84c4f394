"""From a request to the model that answers it; knows nothing of how the model does so."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

from serve_app.config.routing_spec import IMAGE, TEXT, ExperimentSpec
from serve_app.models.snapshot import ResolvedModel, Snapshot
from serve_app.routing.table import Route, RoutingKeys
from serve_app.types import EmbedRequest, ExperimentArm, ScoreRequest

_LARGE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Routed:
    """Where a request goes.

    Attributes:
        snapshot: The models and the routing that said so.
        route: As routing put it.
        model: The model of the route.
    """

    snapshot: Snapshot
    route: Route
    model: ResolvedModel

    @property
    def experiment(self) -> ExperimentArm | None:
        """What an answer says about it."""
        if self.route.experiment is None or self.route.arm is None:
            return None
        return ExperimentArm(self.route.experiment, self.route.arm)


async def route_request(
    snapshot: Snapshot, request: ScoreRequest | EmbedRequest, request_id: str
) -> Routed:
    """Decides which model answers a request.

    Args:
        snapshot: Says it.
        request: The request.
        request_id: Its id, or the one that was made for it.

    Raises:
        UnknownModelError: What it names is not declared.
    """
    table, keys = snapshot.routing, keys_of(request, request_id)
    by_content = any(each.sticky_by in (IMAGE, TEXT) for each in experiments_of(snapshot).values())
    if table is None:
        route = Route(request.model or snapshot.default)
    elif by_content and _size(request) > _LARGE_BYTES:
        # Hashing what is large would stall the loop.
        route = await asyncio.to_thread(table.route, request.model, keys)
    else:
        route = table.route(request.model, keys)
    return Routed(snapshot, route, snapshot.resolve(route.model))


def experiments_of(snapshot: Snapshot) -> Mapping[str, ExperimentSpec]:
    """The experiments, by name, in order of declaration."""
    return {} if snapshot.routing is None else snapshot.routing.spec.experiments


def keys_of(request: ScoreRequest | EmbedRequest, request_id: str) -> RoutingKeys:
    """What of a request an experiment can be sticky by."""
    items = _items(request)
    return RoutingKeys(
        request_id,
        request.routing_key,
        request.headers,
        texts=tuple(item for item in items if isinstance(item, str)),
        # An image that could not even be read is no part of the key: it has no bytes.
        images=tuple(item for item in items if isinstance(item, bytes)),
    )


def _items(request: ScoreRequest | EmbedRequest) -> tuple[object, ...]:
    if isinstance(request, EmbedRequest):
        return request.inputs
    return (*request.texts, *request.images)


def _size(request: ScoreRequest | EmbedRequest) -> int:
    return sum(len(item) for item in _items(request) if isinstance(item, (str, bytes)))
