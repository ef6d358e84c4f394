"""A closed loop: every client sends its next request when its last one was answered.

Knows nothing of transports: a client is a coroutine that sends request number `i` and says what
was wrong with the answer.
"""

from __future__ import annotations

import asyncio
import gc
import math
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from serve_app.bench.figures import LATENCY_FIELDS, latency

Send = Callable[[int], Awaitable[str | None]]
"""Sends one request; returns None, or what was wrong with the answer."""


@dataclass(slots=True)
class _Answer:
    begun: float
    finished: float
    fault: str | None

    def share(self, begin: float, end: float) -> float:
        """How much of the request, 0 to 1, lay between two times."""
        overlap = min(self.finished, end) - max(self.begun, begin)
        return max(overlap, 0.0) / max(self.finished - self.begun, 1e-9)


async def closed_loop(
    clients: Sequence[Send], count: int, *, warm_up_s: float, seconds: float | None
) -> dict[str, Any]:
    """Runs the loop and sums up what was answered after the warm-up.

    Args:
        clients: One sender each.
        count: How many prepared requests there are; each is sent once at most.
        warm_up_s: Seconds before what counts.
        seconds: Seconds that count; None: until every request was sent.

    Returns:
        JSON-ready: `seconds` that count, `requests` (good answers) and their latencies (`p50_ms`
        and so on) of those whose middle lies there, `requests_per_s`; of the whole run `answered`,
        `failures` and `faults` (what was wrong, how often); `exhausted` (the requests ran out
        before the time) and `client_cpu_ms_per_request`, what this process itself took.
    """
    answers: list[_Answer] = []
    next_index = 0
    # The collector would stop all clients at once, in the middle of their latencies.
    gc.collect()
    gc.freeze()
    begin, begin_cpu = time.perf_counter(), time.process_time()
    end = math.inf if seconds is None else begin + warm_up_s + seconds
    ran_out: float | None = None

    async def run(send: Send) -> None:
        nonlocal next_index, ran_out
        while time.perf_counter() < end:
            if next_index >= count:
                # From here on fewer clients are busy: what follows is not the load asked for.
                ran_out = ran_out or time.perf_counter()
                return
            index, next_index = next_index, next_index + 1
            before = time.perf_counter()
            fault = await send(index)
            after = time.perf_counter()
            answers.append(_Answer(before, after, fault))

    await asyncio.gather(*(run(send) for send in clients))
    cpu = time.process_time() - begin_cpu
    gc.unfreeze()
    last = end if ran_out is None else min(end, ran_out)
    first = begin + warm_up_s
    measured_s = last - first
    good = [one for one in answers if one.fault is None]
    # Clients that wait for the same batch are answered together: to count answers would swing by
    # a whole batch with the moment of the end. So a request counts by the part of it inside.
    done = sum(one.share(first, last) for one in good)
    inside = [one for one in good if first <= (one.begun + one.finished) / 2 <= last]
    summary = latency([one.finished - one.begun for one in inside])
    faults = Counter(one.fault for one in answers if one.fault is not None)
    return {
        "clients": len(clients),
        "seconds": max(measured_s, 0.0),
        "requests": len(inside),
        "requests_per_s": done / measured_s if done and measured_s > 0 else None,
        **(asdict(summary) if summary else dict.fromkeys(LATENCY_FIELDS)),
        "answered": len(answers),
        "failures": sum(faults.values()),
        "faults": dict(faults.most_common(5)),
        "exhausted": seconds is not None and ran_out is not None,
        "client_cpu_ms_per_request": 1000 * cpu / len(answers) if answers else None,
    }
