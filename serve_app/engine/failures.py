"""Remembered load failures, with exponential back-off; knows no model and no loading."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from serve_app.errors import DeadlineExceededError, ModelLoadError, ModelTooLargeError

FIRST_RETRY_S = 1.0
LAST_RETRY_S = 60.0


@dataclass(frozen=True, slots=True)
class LoadFailure:
    """Why a model could not be loaded, how often in a row, and when it may be tried again."""

    error: ModelLoadError
    attempts: int
    retry_at: float


class LoadFailures:
    """Failures by model id. A broken model must not be loaded anew for each request.

    Args:
        clock: Seconds, steady.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._failures: dict[str, LoadFailure] = {}

    def add(self, model_id: str, error: ModelLoadError) -> LoadFailure:
        """Notes a failure: the wait is 1 s, then doubles up to 60 s."""
        _drop_tracebacks(error)
        known = self._failures.get(model_id)
        attempts = known.attempts + 1 if known else 1
        wait = min(FIRST_RETRY_S * 2.0 ** min(attempts - 1, 16), LAST_RETRY_S)
        failure = LoadFailure(error, attempts, self._clock() + wait)
        self._failures[model_id] = failure
        return failure

    def forget(self, model_id: str) -> None:
        """Forgets the failures of a model that could be loaded."""
        self._failures.pop(model_id, None)

    def reasons(self) -> dict[str, str]:
        """Per model id, why it could not be loaded."""
        return {model_id: failure.error.detail for model_id, failure in self._failures.items()}

    def blocking(self, model_id: str) -> LoadFailure | None:
        """The failure because of which it is too early to try again, if there is one."""
        failure = self._failures.get(model_id)
        return failure if failure is not None and self._clock() < failure.retry_at else None

    def error_of(self, failure: LoadFailure) -> ModelLoadError:
        """The remembered error, anew for each caller, saying when the load is tried again."""
        wait = max(0.0, failure.retry_at - self._clock())
        times = "once" if failure.attempts == 1 else f"{failure.attempts} times"
        # A fresh instance: one exception raised in many tasks would gather all their tracebacks.
        error = type(failure.error)(
            f"{failure.error.detail} (Failed {times}; the first request after {wait:.3g} s "
            "tries again.)"
        )
        error.__cause__ = failure.error
        return error


def as_load_error(model_id: str, error: Exception) -> ModelLoadError:
    """Whatever a loader raised, as an error of the model; the first one is its cause."""
    if isinstance(error, ModelLoadError):
        return error
    if isinstance(error, MemoryError):
        said = f"ran out of memory while it was loaded{f' ({error})' if str(error) else ''}"
        too_large = ModelTooLargeError(f"{model_id} {said}.")
        too_large.__cause__ = error
        return too_large
    if isinstance(error, DeadlineExceededError):
        said = error.detail
    else:
        said = f"{type(error).__name__}: {error}"
    wrapped = ModelLoadError(f"{model_id} could not be loaded: {said}.")
    wrapped.__cause__ = error
    return wrapped


def _drop_tracebacks(error: BaseException) -> None:
    """Their frames hold what was loaded so far: gigabytes, for as long as it is remembered."""
    seen: set[int] = set()
    chain: list[BaseException | None] = [error]
    while chain:
        link = chain.pop()
        if link is not None and id(link) not in seen:
            seen.add(id(link))
            link.__traceback__ = None
            chain += [link.__cause__, link.__context__]
