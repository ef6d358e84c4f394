"""What Ray exports for Prometheus about requests and rollouts; knows nothing of how they go."""

from __future__ import annotations

import bisect
import itertools
from collections import Counter

from serve_app.control.snapshot import ModelState, ServingSnapshot
from serve_app.engine.answered import OK, Answered
from serve_app.engine.experiment_counts import ShadowOutcome
from serve_app.errors import Fault
from serve_app.observability.instruments import SCORE_BOUNDS
from serve_app.serving.finished import FinishedRequest
from serve_app.serving.instruments import Instruments
from serve_app.serving.load import Load
from serve_app.types import EmbedResponse, ScoreResponse

_LE = (*(f"{bound:g}" for bound in SCORE_BOUNDS), "+Inf")


class IngressMetrics:
    """The metrics of one ingress replica; docs/http-api.md lists them."""

    def __init__(self) -> None:
        self._instruments = Instruments()

    def watch(self, load: Load) -> None:
        """Shows how much is going on, from now on."""

        def look() -> None:
            self._instruments.show("similarity_http_in_progress", load.requests)
            self._instruments.show("similarity_body_bytes", load.body_bytes)

        self._instruments.keep_up(look)

    def refused(self, code: str, key: str) -> None:
        """Counts a request that was not let in; the key is empty where it is not known."""
        self._instruments.count("similarity_refused", key=key, code=code)

    def finished(self, request: FinishedRequest) -> None:
        """Counts a request over HTTP that is over."""
        route = {"method": request.method, "path": request.path}
        self._instruments.count(
            "similarity_http_requests", status=str(request.status), code=request.code, **route
        )
        self._instruments.observe("similarity_http_latency_ms", 1000 * request.seconds, **route)

    def answered(self, answered: Answered) -> None:
        """Counts a request that is over, however it came."""
        routed, outcome = answered.routed, answered.outcome
        chosen = routed.experiment
        model = {"model": routed.model.name, "revision": routed.model.revision}
        arm = {
            "experiment": "" if chosen is None else chosen.name,
            "arm": "" if chosen is None else chosen.arm,
        }
        labels = {**model, **arm, "code": outcome.code}
        self._instruments.count("similarity_requests", **labels)
        if outcome.failed:
            self._instruments.count("similarity_errors", **labels)
        self._instruments.observe("similarity_latency_ms", 1000 * answered.seconds, **labels)
        if answered.response is not None:
            self._items(answered.response, model, arm)

    def shadow(self, experiment: str, model: str, outcome: ShadowOutcome) -> None:
        """Counts what has become of a request on a shadow."""
        self._instruments.count(
            "similarity_shadow_requests", model=model, experiment=experiment, outcome=outcome
        )

    def _items(
        self, response: ScoreResponse | EmbedResponse, model: dict[str, str], arm: dict[str, str]
    ) -> None:
        self._instruments.observe(
            "similarity_decode_ms", response.timing_ms.get("decode", 0.0), **model
        )
        codes = Counter(OK if it.error is None else it.error.code for it in response.results)
        for code, count in codes.items():
            self._instruments.add("similarity_items", count, code=code, **model)
        if isinstance(response, ScoreResponse):
            for metric, count_of_bucket in _distribution(response).items():
                # As in any histogram of Prometheus, a bucket has all that is in those below it.
                for le, count in zip(_LE, itertools.accumulate(count_of_bucket), strict=True):
                    if count:
                        self._instruments.tally(
                            "similarity_scores", count, metric=metric, le=le, **model, **arm
                        )


def _distribution(response: ScoreResponse) -> dict[str, list[int]]:
    """By metric, how many scores are in each bucket."""
    found: dict[str, list[int]] = {}
    for result in response.results:
        for metric, score in result.scores.items():
            counts = found.setdefault(metric, [0] * len(_LE))
            counts[bisect.bisect_left(SCORE_BOUNDS, score)] += 1
    return found


class ControlMetrics:
    """The metrics of the control plane; a `ControlObserver`. docs/http-api.md lists them."""

    def __init__(self) -> None:
        self._instruments = Instruments()
        self._instruments.show("similarity_config_faults", 0)
        self._instruments.keep_up()

    def state(self, model_id: str, state: ModelState, reason: str | None) -> None:
        """Counts a revision that came into a state."""
        self._instruments.count(
            "similarity_model_states", model=model_id.partition("@")[0], state=state
        )

    def refused(self, faults: tuple[Fault, ...]) -> None:
        """Shows the faults of a change; none when the configuration is valid again."""
        self._instruments.show("similarity_config_faults", len(faults))
        if faults:
            self._instruments.count("similarity_config_refused")

    def published(self, snapshot: ServingSnapshot) -> None:
        """Shows what is in effect."""
        self._instruments.show("similarity_config_snapshot", snapshot.number)
        self._instruments.show("similarity_config_overridden", int(bool(snapshot.overrides)))
        self._instruments.hide("similarity_revisions")
        states = Counter(
            (model_id.partition("@")[0], status.state)
            for model_id, status in snapshot.statuses.items()
        )
        for (model, state), count in states.items():
            self._instruments.show("similarity_revisions", count, model=model, state=state)
