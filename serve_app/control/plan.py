"""What is to be served next, and what keeps it from being all that is wanted; immutable values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from serve_app.control.progress import Progress
from serve_app.control.snapshot import ServingSnapshot


@dataclass(frozen=True)
class Plan:
    """What is to be served next.

    Attributes:
        snapshot: With the version of the present one.
        progress: For the next plan.
        waiting: By name, why a model is not where it is wanted.
        failed: By name, why a model that is waited for could not be loaded.
        blocking: Names because of which the routing is not as wanted: they do not answer yet.
    """

    snapshot: ServingSnapshot
    progress: Progress
    waiting: Mapping[str, str]
    failed: Mapping[str, str]
    blocking: tuple[str, ...]

    @property
    def complete(self) -> bool:
        """Whether everything is as wanted."""
        return not self.blocking and not self.waiting
