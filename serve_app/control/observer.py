"""Who is told what the control plane does, for metrics (see `observability.telling`)."""

from __future__ import annotations

from typing import Protocol

from serve_app.control.snapshot import ModelState, ServingSnapshot
from serve_app.errors import Fault


class ControlObserver(Protocol):
    """Is told; quick."""

    def state(self, model_id: str, state: ModelState, reason: str | None) -> None:
        """A revision came into a state."""

    def refused(self, faults: tuple[Fault, ...]) -> None:
        """A change was refused; without faults: the configuration is valid again."""

    def published(self, snapshot: ServingSnapshot) -> None:
        """Something else is served."""
