"""Whether a service that works for long stays as it is: memory, handles, threads over time.

Run by `make soak`. The demo models are served by two replicas behind two ingress replicas; clients
send requests of all kinds, good and bad, and a revision is replaced again and again meanwhile. Ends
with 1 where something grows, or an answer was not the right one.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from serve_app.bench.live_service import LiveService, demo_models
from serve_app.bench.machine import describe_machine
from serve_app.bench.soak_load import SoakLoad

MEASURES = ("memory", "handles", "threads")
GROWTH = {"memory": 0.05, "handles": 0.02, "threads": 0.02}
"""What the last fifth may have more than the first one, as a share."""

_SLACK = {"memory": 8 * 2**20, "handles": 4, "threads": 4}
"""What it may have more in any case: of a few handles, one more is a large share."""

_ARGS: dict[str, Any] = {
    "ingress": {"cpus": 0.5, "replicas": 2},
    "pools": [{"gpus": 0, "cpus": 1, "replicas": 2}],
    # Soon, so that replaced revisions are unloaded, and loaded anew.
    "control": {"poll_s": 0.5, "retire_after_s": 10.0},
}
_SEED = 20261126
_WARM_UP = 0.2

Say = Callable[[str], None]
Sample = dict[str, Any]


def measure(
    minutes: float, say: Say, *, clients: int = 4, look_s: float = 5.0, change_s: float = 60.0
) -> dict[str, Any]:
    """Runs the service under load for so long.

    Args:
        minutes: How long.
        say: Is told how it goes.
        clients: How many send at a time.
        look_s: Seconds between two looks at the processes.
        change_s: Seconds between two changes of a revision.

    Returns:
        JSON-ready: `machine`, `samples` (over time, by group of processes), what was asked and
        answered, and what `summary` says.
    """
    say("starting the service")
    with LiveService(demo_models("cosine"), args=_ARGS) as service:
        say(f"{minutes:g} minutes of load")
        samples: list[Sample] = []
        changes = 0
        with SoakLoad(service.url, clients, _SEED) as load:
            begun = time.monotonic()
            said = 0.0
            while (now := time.monotonic() - begun) < 60 * minutes:
                samples.append({"seconds": now, **service.process.groups()})
                if now >= (changes + 1) * change_s:
                    changes += 1
                    service.declare(demo_models("logit" if changes % 2 else "cosine"))
                if now - said >= 60:
                    said = now
                    say(f"{now / 60:.0f} min, {_told(samples[-1], load)}")
                time.sleep(look_s)
            took = time.monotonic() - begun
    return {
        "machine": describe_machine(),
        "seconds": took,
        "clients": clients,
        "changes": changes,
        "requests": load.requests,
        "requests_by_kind": {
            f"{kind}: {status or 'client gone'}": count
            for (kind, status), count in sorted(load.counts.items(), key=str)
        },
        "failures": load.failures,
        "unexpected": dict(load.unexpected),
        **summary(samples),
        "samples": samples,
    }


def summary(samples: Sequence[Sample]) -> dict[str, Any]:
    """What has grown, from samples over time; pure.

    The first fifth of the time does not count: caches fill and allocators settle. Of what is left,
    the median of the last fifth is compared with that of the first.

    Returns:
        `growth`: By group and measure, `first` and `last` (medians), `share`, and `flat`: whether
        that is within the bounds. `flat`: whether all of it is.
    """
    end = samples[-1]["seconds"]
    counted = [sample for sample in samples if sample["seconds"] >= _WARM_UP * end]
    fifth = max(1, len(counted) // 5)
    growth: dict[str, dict[str, dict[str, Any]]] = defaultdict(dict)
    for group in _groups(counted):
        for measured in MEASURES:
            first, last = (
                statistics.median(sample[group][measured] for sample in part if group in sample)
                for part in (counted[:fifth], counted[-fifth:])
            )
            more = last - first
            growth[group][measured] = {
                "first": first,
                "last": last,
                "share": more / first,
                "flat": more <= max(GROWTH[measured] * first, _SLACK[measured]),
            }
    flat = all(found["flat"] for figures in growth.values() for found in figures.values())
    return {"growth": dict(growth), "flat": flat}


def _groups(samples: Sequence[Sample]) -> list[str]:
    """Groups that were there from the beginning to the end."""
    names = [key for key in samples[0] if key != "seconds"]
    return [name for name in names if name in samples[-1]]


def _told(sample: Mapping[str, Any], load: SoakLoad) -> str:
    whole = sample["all"]
    return (
        f"{load.requests} requests, {load.failures} wrong answers, "
        f"{whole['memory'] / 2**20:.0f} MiB, {whole['handles']:.0f} handles, "
        f"{whole['threads']:.0f} threads"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    from rich.console import Console

    from serve_app.bench.soak_report import print_soak, write_soak_plot

    parser = argparse.ArgumentParser(prog="python -m serve_app.bench.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--output", type=Path, default=Path("bench-results/soak.json"))
    options = parser.parse_args(arguments)
    progress = Console(stderr=True)

    def say(what: str) -> None:
        progress.print(f"{time.strftime('%H:%M:%S')} {what}", highlight=False)

    report = measure(options.minutes, say, clients=options.clients)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    plot = options.output.with_suffix(".png")
    drawn = write_soak_plot(report, plot)
    del report["samples"]
    options.output.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print_soak(Console(), report)
    progress.print(f"Written: {options.output}" + (f" and {plot}" if drawn else ""))
    sys.exit(0 if report["flat"] and not report["failures"] else 1)


if __name__ == "__main__":
    main()
