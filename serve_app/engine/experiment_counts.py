"""What has become of the requests of each experiment, in numbers that add up over processes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from serve_app.engine.answered import OK, Answered
from serve_app.engine.histogram import LatencyHistogram

ShadowOutcome = Literal["sent", "dropped", "failed"]


@dataclass(slots=True)
class ArmCounts:
    """One arm.

    Attributes:
        count: Requests that it was given.
        errors: Those of them that the service failed.
        latency: Of those that were answered.
    """

    count: int = 0
    errors: int = 0
    latency: LatencyHistogram = field(default_factory=LatencyHistogram)

    def add(self, other: ArmCounts) -> None:
        """Counts what another process has counted."""
        self.count += other.count
        self.errors += other.errors
        self.latency.add(other.latency)


@dataclass(slots=True)
class ShadowCounts:
    """One shadow: every request that it should score is one of these in the end.

    Attributes:
        sent: It has scored them.
        dropped: They were left out, because there was other work.
        failed: They went wrong.
    """

    sent: int = 0
    dropped: int = 0
    failed: int = 0

    def note(self, outcome: ShadowOutcome) -> None:
        """Counts one request."""
        setattr(self, outcome, getattr(self, outcome) + 1)

    def add(self, other: ShadowCounts) -> None:
        """Counts what another process has counted."""
        self.sent += other.sent
        self.dropped += other.dropped
        self.failed += other.failed


@dataclass(slots=True)
class ExperimentCounts:
    """All experiments, since the process began; pickles.

    Attributes:
        arms: By experiment and arm.
        shadows: By experiment and model.
    """

    arms: dict[tuple[str, str], ArmCounts] = field(default_factory=dict)
    shadows: dict[tuple[str, str], ShadowCounts] = field(default_factory=dict)

    def arm(self, experiment: str, arm: str) -> ArmCounts:
        """The counts of an arm; zero for one that nothing is known of."""
        return self.arms.get((experiment, arm)) or ArmCounts()

    def shadow(self, experiment: str, model: str) -> ShadowCounts:
        """The counts of a shadow; zero for one that nothing is known of."""
        return self.shadows.get((experiment, model)) or ShadowCounts()

    def note(self, answered: Answered) -> None:
        """Counts a request that is over, if an experiment chose its model."""
        chosen = answered.routed.experiment
        if chosen is None:
            return
        counts = self.arms.setdefault((chosen.name, chosen.arm), ArmCounts())
        counts.count += 1
        counts.errors += answered.outcome.failed
        if answered.outcome.code == OK:
            counts.latency.observe(1000 * answered.seconds)

    def note_shadow(self, experiment: str, model: str, outcome: ShadowOutcome) -> None:
        """Counts what has become of a request on a shadow."""
        self.shadows.setdefault((experiment, model), ShadowCounts()).note(outcome)

    def add(self, other: ExperimentCounts) -> None:
        """Counts what another process has counted."""
        for arm, arm_counts in other.arms.items():
            self.arms.setdefault(arm, ArmCounts()).add(arm_counts)
        for shadow, shadow_counts in other.shadows.items():
            self.shadows.setdefault(shadow, ShadowCounts()).add(shadow_counts)


def summed(counts: Iterable[ExperimentCounts]) -> ExperimentCounts:
    """Those of several processes as one."""
    total = ExperimentCounts()
    for each in counts:
        total.add(each)
    return total
