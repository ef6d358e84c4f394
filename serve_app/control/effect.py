"""Whether an operation is in effect; pure."""

from __future__ import annotations

from serve_app.control.operations import OperationResult
from serve_app.control.plan import Plan
from serve_app.control.target import Applied, Target
from serve_app.control.version import Version


def effect_of(
    applied: Applied, wanted: Target | None, plan: Plan, version: Version
) -> OperationResult:
    """Where an operation stands.

    Only what it changed counts: a model that was broken before does not make it fail.

    Args:
        applied: The operation.
        wanted: What is wanted now.
        plan: The last one that was published.
        version: With which it was.
    """
    number = applied.target.number
    if wanted is None or (wanted.number, wanted.pinned) != (number, applied.target.pinned):
        return OperationResult("superseded", number, detail="something else was asked for")
    names = {*applied.touched, *(plan.blocking if applied.routes else ())}
    waiting = {name: why for name, why in plan.waiting.items() if name in names}
    if not waiting:
        return OperationResult("in_effect", number, version)
    # What can still take effect is waited for, also where something else has failed.
    failed = all(name in plan.failed for name in waiting)
    detail = "; ".join(waiting.values())
    return OperationResult("failed" if failed else "pending", number, detail=detail)
