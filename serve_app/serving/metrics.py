"""What Ray exports for Prometheus about requests and rollouts; knows nothing of how they go."""

from __future__ import annotations

from ray.util.metrics import Counter, Gauge, Histogram

from serve_app.control.snapshot import ModelState, ServingSnapshot
from serve_app.engine.answered import Answered
from serve_app.engine.experiment_counts import ShadowOutcome
from serve_app.engine.histogram import BOUNDS_MS
from serve_app.errors import Fault

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

        self._refused = Counter(
            "similarity_refused",
            "Requests that a key was missing for, or that went beyond what it may ask for.",
            tag_keys=("key", "code"),
        )

    def refused(self, code: str, key: str) -> None:
        """Counts a request that was not let in; the key is empty where it is not known."""
        self._refused.inc(tags={"key": key, "code": code})

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


class ControlMetrics:
    """The metrics of the control plane; a `ControlObserver`. docs/http-api.md lists them."""

    def __init__(self) -> None:
        self._faults = Gauge(
            "similarity_config_faults", "Faults because of which the last change is refused."
        )
        self._refused = Counter(
            "similarity_config_refused", "Changes of the configuration that were refused."
        )
        self._states = Counter(
            "similarity_model_states",
            "Revisions that came into a state of the rollout.",
            tag_keys=("model", "state"),
        )
        self._snapshot = Gauge(
            "similarity_config_snapshot", "Number of the configuration snapshot in effect."
        )
        self._overridden = Gauge(
            "similarity_config_overridden", "1 while an operator's overrides are in force."
        )
        self._faults.set(0)

    def state(self, model_id: str, state: ModelState, reason: str | None) -> None:
        """Counts a revision that came into a state."""
        self._states.inc(tags={"model": model_id.partition("@")[0], "state": state})

    def refused(self, faults: tuple[Fault, ...]) -> None:
        """Shows the faults of a change; none when the configuration is valid again."""
        self._faults.set(len(faults))
        if faults:
            self._refused.inc()

    def published(self, snapshot: ServingSnapshot) -> None:
        """Shows what is in effect."""
        self._snapshot.set(snapshot.number)
        self._overridden.set(int(bool(snapshot.overrides)))
