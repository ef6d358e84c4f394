"""The command line that every load generator shares, and the requests it prepares."""

from __future__ import annotations

import argparse
import asyncio
import math
from collections.abc import Sequence
from typing import Any

from serve_app.bench.child import emit, wait_for_start
from serve_app.bench.closed_loop import Send, closed_loop
from serve_app.bench.workload import BenchRequest, Workload


def load_parser(module: str, description: str | None) -> argparse.ArgumentParser:
    """Options about how much load there is; where it goes is the module's own."""
    parser = argparse.ArgumentParser(
        prog=f"python -m serve_app.bench.{module}", description=description
    )
    parser.add_argument("--model", default=None, help="model to ask for; default: the service's")
    parser.add_argument("--clients", type=int, default=1)
    parser.add_argument("--warm-up", type=float, default=2.0, help="seconds that do not count")
    parser.add_argument("--seconds", type=float, default=None, help="default: until all are sent")
    parser.add_argument("--count", type=int, default=200, help="requests to prepare")
    parser.add_argument("--start", type=int, default=0, help="index of the first request")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--wait", action="store_true", help="wait for a line on stdin to start")
    return parser


def prepared_requests(options: argparse.Namespace) -> list[BenchRequest]:
    """The requests that the options ask for, in memory."""
    return Workload(options.seed).requests(options.start, options.count)


async def run_load(options: argparse.Namespace, clients: Sequence[Send]) -> dict[str, Any]:
    """Waits for the start, runs the closed loop, emits its figures and returns them."""
    # Nothing else runs on this loop until the start.
    await asyncio.to_thread(wait_for_start, wait=options.wait)
    figures = await closed_loop(
        clients, options.count, warm_up_s=options.warm_up, seconds=options.seconds
    )
    emit({"event": "result", **figures})
    return figures


def score_fault(scores: Sequence[object], texts: int) -> str | None:
    """What is wrong with the scores of one request: there is one for each text, and a number."""
    if len(scores) != texts:
        return f"{len(scores)} scores for {texts} texts"
    if not all(isinstance(score, float) and math.isfinite(score) for score in scores):
        return "a result without a score"
    return None
