"""What changes and deaths cost a service under load: the times beside the slow tests' counts.

Run by `make bench-live`. The demo model is served by two replicas behind two ingress replicas; 16
clients never stop. Revisions differ in nothing that costs time (the primary metric), so that what
is measured is the change itself.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serve_app.bench.figures import Latency, Ratio, divided, latency, percentile
from serve_app.bench.live_service import LiveLoad, LiveService, Record, demo_models
from serve_app.bench.machine import describe_machine

_CLIENTS = 16
_ARGS: dict[str, Any] = {
    "ingress": {"cpus": 0.5, "replicas": 2},
    "pools": [{"gpus": 0, "cpus": 1, "replicas": 2}],
    "control": {"poll_s": 0.5},
}
_SETTLE_S = 1.0
_P99_RATIO = 3.0
_ROLLBACK_S = 2.0

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Event:
    """Something that was done to the service.

    Attributes:
        kind: `swap`, `rollback`, `weights`, or `kill` and what of.
        begun: When, in seconds since 1970.
        ended: When it was in effect, or what was killed was replaced.
    """

    kind: str
    begun: float
    ended: float


def measure(rounds: int, steady_s: float, say: Say) -> dict[str, Any]:
    """Runs the service and the load, changes and kills, and sums up.

    Args:
        rounds: How often a revision is swapped and rolled back, and weights are changed.
        steady_s: Seconds of undisturbed load before them.
        say: Is told what begins.

    Returns:
        JSON-ready: `machine`, `steady` and `swap` (latencies), `events`, `failures` by kind of
        event, `ratios` beside their goals, and `timeline` (latencies over time, for the plot).
    """
    say("starting the service")
    routing = {"default": "split", "experiments": {"split": {"arms": {"demo": 90, "lite": 10}}}}
    with LiveService(demo_models("cosine"), routing, _ARGS) as service:
        say("warming up")
        with LiveLoad(service.url, clients=_CLIENTS) as load:
            time.sleep(steady_s / 2)
            say("steady load")
            steady_from = time.time()
            time.sleep(steady_s)
            events = [Event("steady", steady_from, time.time())]
            for round_ in range(rounds):
                say(f"swap, rollback, weights {round_ + 1} of {rounds}")
                events += _change(service, round_)
            for deployment in ("pool-default", "control", "ingress"):
                say(f"kill {deployment}")
                events.append(_kill(service, deployment))
                time.sleep(2 * _SETTLE_S)
            records = load.stop()
    return {"machine": describe_machine(), **summary(records, events)}


def summary(records: Sequence[Record], events: Sequence[Event]) -> dict[str, Any]:
    """Figures of a run; pure."""
    steady = _within(records, [event for event in events if event.kind == "steady"])
    swaps = _within(records, [event for event in events if event.kind in ("swap", "rollback")])
    steady_ms, swap_ms = latency(_seconds(steady)), latency(_seconds(swaps))
    rollbacks = [event.ended - event.begun for event in events if event.kind == "rollback"]
    ratio = divided(_p99(swap_ms), _p99(steady_ms))
    slowest = max(rollbacks, default=None)
    changes = [event for event in events if not event.kind.startswith("kill")]
    goals = [
        Ratio("p99 during swaps and rollbacks / steady", ratio, "<=", _P99_RATIO, "x"),
        Ratio("slowest rollback to a resident revision", slowest, "<=", _ROLLBACK_S, "s"),
        Ratio("failed requests during changes", _failed(records, changes), "<=", 0, ""),
    ]
    return {
        "clients": _CLIENTS,
        "requests": len(records),
        "steady": _as_json(steady_ms, len(steady)),
        "swap": _as_json(swap_ms, len(swaps)),
        "events": [
            {
                "kind": kind,
                "count": len(times),
                "median_s": percentile(times, 50),
                "slowest_s": max(times),
                "failed_requests": _failed(records, [e for e in events if e.kind == kind]),
            }
            for kind in dict.fromkeys(event.kind for event in events)
            for times in [[e.ended - e.begun for e in events if e.kind == kind]]
        ],
        "failures": sum(record.fault is not None for record in records),
        "faults": sorted({record.fault or "" for record in records if record.fault})[:5],
        "ratios": [goal.as_json() for goal in goals],
        "timeline": {
            "events": [[event.kind, event.begun, event.ended] for event in events],
            "requests": [
                [record.begun, 1000 * (record.ended - record.begun), record.model, record.fault]
                for record in records
            ],
        },
    }


def _change(service: LiveService, round_: int) -> list[Event]:
    """A new revision takes the traffic, is rolled back, and weights are changed."""
    old = service.active("demo")
    begun = time.time()
    service.declare(demo_models("logit"))
    service.wait_replaced("demo", old)
    swapped = time.time()
    time.sleep(_SETTLE_S)
    rolling = time.time()
    service.operate("rollback")
    rolled = time.time()
    time.sleep(_SETTLE_S)
    weighing = time.time()
    share = 10 + round_ % 50
    service.operate("weights", experiment="split", arms={"demo": 100 - share, "lite": share})
    weighed = time.time()
    time.sleep(_SETTLE_S)
    # What was declared last is met already, so this alone changes nothing but the overrides.
    service.declare(demo_models("cosine"))
    service.wait("it does not settle", lambda: service.status()["overrides"] is None)
    service.wait("it does not settle", lambda: service.status()["complete"])
    return [
        Event("swap", begun, swapped),
        Event("rollback", rolling, rolled),
        Event("weights", weighing, weighed),
    ]


def _kill(service: LiveService, deployment: str) -> Event:
    before = service.process.replica_pids(deployment)
    begun = time.time()
    os.kill(before[0], signal.SIGKILL)

    def replaced() -> bool:
        now = service.process.replica_pids(deployment)
        return before[0] not in now and len(now) == len(before)

    service.wait(f"{deployment} is not replaced", replaced)
    if deployment == "control":
        service.wait("the control plane does not answer", service.can_operate)
    return Event(f"kill {deployment}", begun, time.time())


def _within(records: Sequence[Record], events: Sequence[Event]) -> list[Record]:
    """Requests of which a part lies in an event, or shortly after it."""
    return [
        record
        for record in records
        if any(
            record.begun < event.ended + _SETTLE_S / 2 and record.ended > event.begun
            for event in events
        )
    ]


def _failed(records: Sequence[Record], events: Sequence[Event]) -> int:
    return sum(record.fault is not None for record in _within(records, events))


def _seconds(records: Sequence[Record]) -> list[float]:
    return [record.ended - record.begun for record in records if record.fault is None]


def _p99(found: Latency | None) -> float | None:
    return None if found is None else found.p99_ms


def _as_json(found: Latency | None, count: int) -> dict[str, Any]:
    figures = {} if found is None else {"p50_ms": found.p50_ms, "p99_ms": found.p99_ms}
    return {"requests": count, **figures}


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    from rich.console import Console

    from serve_app.bench.live_report import print_live, write_live_plot

    parser = argparse.ArgumentParser(prog="python -m serve_app.bench.live", description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--steady", type=float, default=20.0, help="seconds of undisturbed load")
    parser.add_argument("--output", type=Path, default=Path("bench-results/live.json"))
    options = parser.parse_args(arguments)
    progress = Console(stderr=True)

    def say(what: str) -> None:
        progress.print(f"{time.strftime('%H:%M:%S')} {what}", highlight=False)

    report = measure(options.rounds, options.steady, say)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    plot = options.output.with_suffix(".png")
    drawn = write_live_plot(report, plot)
    del report["timeline"]
    options.output.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print_live(Console(), report)
    progress.print(f"Written: {options.output}" + (f" and {plot}" if drawn else ""))
    sys.stdout.flush()


if __name__ == "__main__":
    main()
