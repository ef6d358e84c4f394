"""What there is to tell of an HTTP request when it is over; knows no route."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from serve_app.engine.answered import OK
from serve_app.types import ExperimentArm

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
"""Methods that are told; servers let some thirty others through."""

UNKNOWN = "unknown"
"""A method or path that is none of ours: what clients make up is told to nobody."""


@dataclass(frozen=True, slots=True)
class FinishedRequest:
    """A request over HTTP that is over.

    Attributes:
        id: Of the request.
        method: One of `METHODS`, or `UNKNOWN`.
        path: Of its route, as it is declared, or `UNKNOWN`.
        status: Of the answer; that of `ClientGoneError` where nobody was there to hear it.
        code: `ok`, or that of its error.
        seconds: From its arrival in the ingress to the answer.
        key: Name of the key it showed.
        model: What answered.
        experiment: What chose the model, if an experiment did.
    """

    id: str
    method: str
    path: str
    status: int
    code: str = OK
    seconds: float = 0.0
    key: str | None = None
    model: str | None = None
    experiment: ExperimentArm | None = None


OnFinished = Callable[[FinishedRequest], None]
