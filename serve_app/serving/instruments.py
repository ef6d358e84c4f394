"""The instruments of this process, in Ray; knows nothing of what they measure."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Callable
from typing import Any

from ray.serve import metrics

from serve_app.observability.instruments import INSTRUMENTS
from serve_app.observability.labels import BoundedLabel

logger = logging.getLogger("serve_app.serving")

_EVERY_S = 5.0
"""Ray no longer exports a gauge some 20 s after it was last set."""

Labels = tuple[tuple[str, str], ...]


class Instruments:
    """Counts, observes and shows by name; all names are of `INSTRUMENTS`.

    Serve adds application, deployment and replica. All methods belong to one event loop.

    Args:
        default: Labels that all of this process have, where an instrument knows them.
    """

    def __init__(self, **default: str) -> None:
        self._default = default
        self._made: dict[str, Any] = {}
        self._bounded: dict[str, BoundedLabel] = {}
        self._shown: dict[tuple[str, Labels], float] = {}
        self._tallied: dict[tuple[str, Labels], float] = {}
        self._looks: list[Callable[[], None]] = []
        self._keeping: asyncio.Task[None] | None = None

    def count(self, name: str, /, **labels: str) -> None:
        """Adds one to a counter."""
        self.add(name, 1, **labels)

    def add(self, name: str, amount: float, /, **labels: str) -> None:
        """Adds to a counter; the amount is greater than zero."""
        self._of(name).inc(amount, tags=self._labels(name, labels))

    def tally(self, name: str, amount: float, /, **labels: str) -> None:
        """Adds to a counter within some seconds: for what comes in large numbers."""
        key = name, tuple(self._labels(name, labels).items())
        self._tallied[key] = self._tallied.get(key, 0) + amount

    def observe(self, name: str, value: float, /, **labels: str) -> None:
        """Adds to a histogram."""
        # Ray drops what is zero or less.
        self._of(name).observe(max(value, 1e-6), tags=self._labels(name, labels))

    def show(self, name: str, value: float, /, **labels: str) -> None:
        """Sets a gauge, until it is set otherwise or `hide` is called."""
        key = name, tuple(self._labels(name, labels).items())
        self._shown[key] = value
        self._of(name).set(value, tags=dict(key[1]))

    def hide(self, name: str) -> None:
        """Shows a gauge no more; Ray forgets it within half a minute."""
        for key in [key for key in self._shown if key[0] == name]:
            del self._shown[key]

    def keep_up(self, *looks: Callable[[], None]) -> None:
        """From now on shows gauges again and again, and looks before it does.

        Args:
            looks: Show what is now; quick.
        """
        self._looks += looks
        if self._keeping is None:
            # In a context of its own: it belongs to no request.
            self._keeping = asyncio.get_running_loop().create_task(
                self._keep(), context=contextvars.Context()
            )

    async def _keep(self) -> None:
        while True:
            try:
                self._refresh()
            except Exception:  # metrics are no reason to end anything
                logger.exception("metrics could not be brought up to date")
            await asyncio.sleep(_EVERY_S)

    def _refresh(self) -> None:
        for look in self._looks:
            look()
        for (name, labels), value in self._shown.items():
            self._of(name).set(value, tags=dict(labels))
        tallied, self._tallied = self._tallied, {}
        for (name, labels), amount in tallied.items():
            self._of(name).inc(amount, tags=dict(labels))

    def _labels(self, name: str, labels: dict[str, str]) -> dict[str, str]:
        keys = INSTRUMENTS[name].labels
        given = {**{key: self._default[key] for key in keys if key in self._default}, **labels}
        return {key: self._bound(key, given[key]) for key in keys}

    def _bound(self, key: str, value: str) -> str:
        bounded = self._bounded.get(key)
        if bounded is None:
            bounded = self._bounded[key] = BoundedLabel()
        return bounded(value)

    def _of(self, name: str) -> Any:
        found = self._made.get(name)
        if found is None:
            found = self._made[name] = _made(name)
        return found


def _made(name: str) -> Any:
    instrument = INSTRUMENTS[name]
    match instrument.kind:
        case "counter":
            return metrics.Counter(name, instrument.help, instrument.labels)
        case "gauge":
            return metrics.Gauge(name, instrument.help, instrument.labels)
        case _:
            bounds = list(instrument.bounds)
            return metrics.Histogram(
                name, instrument.help, boundaries=bounds, tag_keys=instrument.labels
            )
