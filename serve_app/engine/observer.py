"""Who is told what a replica's engine does, for metrics (see `observability.telling`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class BatchRun:
    """A batch that was computed.

    Attributes:
        computed: By lane, items that were computed.
        shared: Items of requests that were in the batch already, and were not computed again.
        seconds: How long the model took.
    """

    computed: Mapping[str, int]
    shared: int
    seconds: float


class EngineObserver(Protocol):
    """Is told; quick. Loads are told of in their own threads."""

    def batch(self, model_id: str, run: BatchRun) -> None:
        """A batch was computed."""

    def waited(self, model_id: str, queue_ms: float) -> None:
        """A request has its results, and waited so long for the model."""

    def loaded(self, model_id: str, seconds: float) -> None:
        """A model was loaded and warmed up."""

    def load_failed(self, model_id: str, code: str) -> None:
        """A model could not be loaded."""

    def weights(self, model_id: str, *, downloaded: bool) -> None:
        """Weights from another machine were brought here, or were here already."""


class Unobserved:
    """An `EngineObserver` that does nothing."""

    def batch(self, model_id: str, run: BatchRun) -> None:
        """Nothing."""

    def waited(self, model_id: str, queue_ms: float) -> None:
        """Nothing."""

    def loaded(self, model_id: str, seconds: float) -> None:
        """Nothing."""

    def load_failed(self, model_id: str, code: str) -> None:
        """Nothing."""

    def weights(self, model_id: str, *, downloaded: bool) -> None:
        """Nothing."""
