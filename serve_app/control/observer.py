"""Who is told what the control plane does, for metrics; an error of theirs hurts nobody."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Protocol

from serve_app.control.snapshot import ModelState, ServingSnapshot
from serve_app.errors import Fault

_log = logging.getLogger(__name__)


class ControlObserver(Protocol):
    """Is told; quick."""

    def state(self, model_id: str, state: ModelState, reason: str | None) -> None:
        """A revision came into a state."""

    def refused(self, faults: tuple[Fault, ...]) -> None:
        """A change was refused; without faults: the configuration is valid again."""

    def published(self, snapshot: ServingSnapshot) -> None:
        """Something else is served."""


def tell(listener: Callable[[], None]) -> None:
    """Calls an observer; its error is logged."""
    try:
        listener()
    except Exception:
        _log.exception("an observer of the control plane failed")
