"""What is told of each request when it is over; knows neither who listens nor how it was asked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from serve_app.engine.routes import Routed
from serve_app.errors import ModelFailedError, ModelUnavailableError, ServeAppError, UnexpectedError
from serve_app.types import EmbedRequest, EmbedResponse, ScoreRequest, ScoreResponse

OK = "ok"
"""The code of a request that was answered."""

_OUR_FAULTS = (ModelFailedError.code, ModelUnavailableError.code, UnexpectedError.code)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a request ended.

    Attributes:
        code: `ok`, or the code of its error.
        failed: Whether the service is to blame.
    """

    code: str = OK
    failed: bool = False


@dataclass(frozen=True, slots=True)
class Answered:
    """A request that is over.

    Attributes:
        request: As asked, with its id.
        routed: Where it went.
        seconds: From the beginning to the end.
        outcome: How it ended.
        response: What was answered, if anything was.
    """

    request: ScoreRequest | EmbedRequest
    routed: Routed
    seconds: float
    outcome: Outcome
    response: ScoreResponse | EmbedResponse | None = None


Listener = Callable[[Answered], None]


def outcome_of_error(error: Exception) -> Outcome:
    """A request that ended with an error; what is not one of ours is a defect."""
    if isinstance(error, ServeAppError):
        return Outcome(error.code, error.status_code >= UnexpectedError.status_code)
    return Outcome(UnexpectedError.code, True)


def outcome_of_response(response: ScoreResponse | EmbedResponse) -> Outcome:
    """A request that was answered.

    When no item has a result and the model is why, the request has failed, whatever its status.
    """
    faults = [result.error for result in response.results]
    ours = [fault.code for fault in faults if fault is not None and fault.code in _OUR_FAULTS]
    if ours and None not in faults:
        return Outcome(ours[0], True)
    return Outcome()
