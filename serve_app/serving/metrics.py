"""What Ray exports for Prometheus about requests; knows nothing of how they are answered."""

from __future__ import annotations

from ray.util.metrics import Counter, Histogram

from serve_app.engine.answered import Answered
from serve_app.engine.experiment_counts import ShadowOutcome
from serve_app.engine.histogram import BOUNDS_MS

_LABELS = ("model", "revision", "experiment", "arm", "code")
_EACH_OCTAVE = 4


class RayMetrics:
    """The metrics of one ingress replica; docs/http-api.md lists them."""

    def __init__(self) -> None:
        self._requests = Counter(
            "similarity_requests", "Requests that reached a model.", tag_keys=_LABELS
        )
        self._errors = Counter(
            "similarity_errors", "Requests that the service failed.", tag_keys=_LABELS
        )
        self._latency = Histogram(
            "similarity_latency_ms",
            "Milliseconds from a request's beginning in the pipeline to its end.",
            boundaries=list(BOUNDS_MS[::_EACH_OCTAVE]),
            tag_keys=_LABELS,
        )
        self._shadows = Counter(
            "similarity_shadow_requests",
            "Requests that a shadow model should score too, by what became of them.",
            tag_keys=("model", "experiment", "outcome"),
        )

    def answered(self, answered: Answered) -> None:
        """Counts a request that is over."""
        routed, outcome = answered.routed, answered.outcome
        chosen = routed.experiment
        labels = {
            "model": routed.model.name,
            "revision": routed.model.revision,
            "experiment": "" if chosen is None else chosen.name,
            "arm": "" if chosen is None else chosen.arm,
            "code": outcome.code,
        }
        self._requests.inc(tags=labels)
        if outcome.failed:
            self._errors.inc(tags=labels)
        self._latency.observe(1000 * answered.seconds, tags=labels)

    def shadow(self, experiment: str, model: str, outcome: ShadowOutcome) -> None:
        """Counts what has become of a request on a shadow."""
        labels = {"model": model, "experiment": experiment, "outcome": outcome}
        self._shadows.inc(tags=labels)
