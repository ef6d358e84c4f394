"""Where each revision stands, in words for people; decides nothing."""

from __future__ import annotations

from collections.abc import Mapping

from serve_app.control.failures import Failure
from serve_app.control.observed import Observed
from serve_app.control.progress import Retiring
from serve_app.control.snapshot import ModelState, ModelStatus, ServingSnapshot
from serve_app.models.snapshot import ResolvedModel


def statuses_of(
    snapshot: ServingSnapshot,
    observed: Observed,
    failures: Mapping[str, Failure],
    retiring: Mapping[str, Retiring],
    before: Mapping[str, ModelStatus],
) -> dict[str, ModelStatus]:
    """The status of all in a snapshot's catalog.

    Args:
        snapshot: As it will be.
        observed: The live members.
        failures: Of candidates.
        retiring: What nothing wants any longer.
        before: The statuses until now: a state that stays keeps its time.
    """
    found = {}
    for model_id, model in snapshot.catalog.items():
        state, reason, notes = _status(snapshot, model, observed, failures, retiring)
        note = "; ".join(dict.fromkeys((*notes, *observed.notes(model_id)))) or None
        known = before.get(model_id)
        since = known.since if known is not None and known.state == state else observed.wall
        found[model_id] = ModelStatus(state, reason, note, since)
    return found


_Told = tuple[ModelState, str | None, tuple[str, ...]]


def _status(
    snapshot: ServingSnapshot,
    model: ResolvedModel,
    observed: Observed,
    failures: Mapping[str, Failure],
    retiring: Mapping[str, Retiring],
) -> _Told:
    failure = failures.get(model.id)
    failed = (f"attempt {failure.attempt} failed: {failure.reason}",) if failure else ()
    if snapshot.active.get(model.name) == model.id:
        return "active", None, _besides(snapshot, model, observed)
    if model.id in retiring:
        held = observed.held(model.id)
        if retiring[model.id].drained_at is None:
            return "draining", None, ()
        if held:
            return "draining", None, (f"drained; still loaded on {held} replicas",)
        return "unloaded", None, ()
    if model.id in snapshot.candidates:
        if observed.everywhere(model):
            return "ready", None, ()
        return "loading", None, (_loading(snapshot, model, observed), *failed)
    if failure is not None:
        return "failed", failure.reason, (f"attempt {failure.attempt}",)
    if observed.ready_on(model)[0]:
        return "ready", None, ()
    return "declared", None, ()


def _besides(
    snapshot: ServingSnapshot, model: ResolvedModel, observed: Observed
) -> tuple[str, ...]:
    """What goes on with an active revision."""
    moving = snapshot.moving.get(model.id)
    if moving is not None:
        told = _loading(snapshot, moving, observed)
        return (f"moves to the pool {moving.spec.pool!r}: {told}",)
    if model.id in snapshot.candidates:
        return (f"becomes resident: {_loading(snapshot, model, observed)}",)
    return observed.troubles(model)


def _loading(snapshot: ServingSnapshot, model: ResolvedModel, observed: Observed) -> str:
    trial = snapshot.trials.get(model.id)
    if trial:
        return f"one replica tries it: {trial}"
    ready, replicas = observed.ready_on(model)
    if not replicas:
        return f"waits for a replica of the pool {model.spec.pool!r}"
    return f"ready on {ready} of {replicas} replicas"
