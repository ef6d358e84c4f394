"""A request on its way through the pipeline: where it goes, and how long its parts take."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from serve_app.engine.routes import Routed


class Timer:
    """The `timing_ms` of a response; starts when it is made."""

    def __init__(self) -> None:
        self._started = self._decoding = time.perf_counter()
        self._parts = {"decode": 0.0, "queue": 0.0, "model": 0.0}

    @property
    def seconds(self) -> float:
        """Since the start."""
        return time.perf_counter() - self._started

    def decoding(self) -> None:
        """Decoding begins."""
        self._decoding = time.perf_counter()

    def decoded(self) -> None:
        """Decoding is over."""
        self._parts["decode"] = 1000 * (time.perf_counter() - self._decoding)

    def model(self, queue_ms: float, model_ms: float) -> None:
        """The model has answered."""
        self._parts |= {"queue": queue_ms, "model": model_ms}

    def timing_ms(self) -> dict[str, float]:
        """Milliseconds of each part and in all."""
        return {**self._parts, "total": 1000 * self.seconds}


@dataclass(frozen=True, slots=True)
class Turn:
    """What the pipeline keeps of a request.

    Attributes:
        routed: Where it goes.
        timer: How long it takes.
        shadow: Whether nobody waits for it.
    """

    routed: Routed
    timer: Timer = field(default_factory=Timer)
    shadow: bool = False
