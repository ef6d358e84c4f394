"""The report: every figure of a run in one JSON-ready document, with the ratios that matter.

Knows what was measured, not how; a goal that is missed is told, and is no failure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from serve_app.bench.figures import Ratio, divided

SCHEMA_VERSION = 1

SERVED_OVER_LIMIT = 0.65
SERVED_OVER_PLAIN = 3.0
P50_OVER_IN_PROCESS = 1.3
MIB_OVER_WEIGHTS = 900.0
START_UP_S = 30.0

_MIB = 1 << 20
_BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}


@dataclass(slots=True)
class Measurements:
    """What a run has measured so far; what is empty or None was not measured.

    Attributes:
        start_up_s: Seconds from the start of the demo service to a good `/readyz`.
        limit: Variants of the in-process limit, each with `name` and `requests_per_s`.
        in_process: One request at a time in process, with a replica's threads.
        plain: open_clip as its README uses it.
        served: Load on the service, each with `transport` and `clients`.
        model: What the service says of the model that was loaded.
        memory: `requests` answered before, and `replicas` with their `pss_bytes`.
        errors: Parts that could not be measured, and why.
    """

    start_up_s: float | None = None
    limit: list[dict[str, Any]] = field(default_factory=list)
    in_process: dict[str, Any] | None = None
    plain: dict[str, Any] | None = None
    served: list[dict[str, Any]] = field(default_factory=list)
    model: dict[str, Any] | None = None
    memory: dict[str, Any] | None = None
    errors: list[dict[str, str]] = field(default_factory=list)

    @property
    def best_limit(self) -> dict[str, Any] | None:
        """The variant of the limit with the most requests per second."""
        return max(self.limit, key=lambda one: float(one["requests_per_s"]), default=None)

    def load(self, transport: str, clients: int) -> Mapping[str, Any]:
        """The figures of one load; empty where it was not measured."""
        for one in self.served:
            if one["transport"] == transport and one["clients"] == clients:
                return one
        return {}


def build_report(
    settings: Mapping[str, Any], machine: Mapping[str, Any], measured: Measurements, created: str
) -> dict[str, Any]:
    """Puts everything into one document.

    Args:
        settings: What the run was asked to do.
        machine: See `describe_machine`.
        measured: The figures.
        created: When, ISO 8601.
    """
    best = measured.best_limit
    return {
        "schema_version": SCHEMA_VERSION,
        "created": created,
        "settings": dict(settings),
        "machine": dict(machine),
        "precision": {
            "limit": best["precision"] if best else None,
            "served": measured.model.get("precision") if measured.model else None,
        },
        "limit": {"variants": measured.limit, "best": best["name"] if best else None},
        "in_process": measured.in_process,
        "plain": measured.plain,
        "served": measured.served,
        "model": measured.model,
        "memory": measured.memory,
        "start_up_s": measured.start_up_s,
        "ratios": [ratio.as_json() for ratio in ratios(measured)],
        "notes": _notes(machine, measured),
        "errors": measured.errors,
    }


def ratios(measured: Measurements) -> list[Ratio]:
    """The figures that have goals, and those of the handle beside them."""
    best = measured.best_limit["requests_per_s"] if measured.best_limit else None
    plain = measured.plain["requests_per_s"] if measured.plain else None
    alone = measured.in_process["batch_latency"]["p50_ms"] if measured.in_process else None
    http, handle = measured.load("http-multipart", 16), measured.load("handle", 16)
    http_alone, handle_alone = measured.load("http-multipart", 1), measured.load("handle", 1)
    rate, p50 = "requests_per_s", "p50_ms"
    return [
        Ratio(
            "HTTP, 16 clients / in-process limit",
            divided(http.get(rate), best),
            ">=",
            SERVED_OVER_LIMIT,
            "x",
        ),
        Ratio(
            "HTTP, 16 clients / plain open_clip",
            divided(http.get(rate), plain),
            ">=",
            SERVED_OVER_PLAIN,
            "x",
        ),
        Ratio(
            "HTTP, p50 at 1 client / in process",
            divided(http_alone.get(p50), alone),
            "<=",
            P50_OVER_IN_PROCESS,
            "x",
        ),
        Ratio(
            "Handle, 16 callers / in-process limit",
            divided(handle.get(rate), best),
            ">=",
            None,
            "x",
        ),
        Ratio(
            "Handle, p50 at 1 caller / in process",
            divided(handle_alone.get(p50), alone),
            "<=",
            None,
            "x",
        ),
        Ratio(
            "Replica's PSS over its weights",
            _mib_over_weights(measured.memory, weights_bytes(measured.model)),
            "<=",
            MIB_OVER_WEIGHTS,
            "MiB",
        ),
        Ratio("Start-up of the demo service", measured.start_up_s, "<=", START_UP_S, "s"),
    ]


def weights_bytes(model: Mapping[str, Any] | None) -> int | None:
    """Bytes of the weights in the precision used; None where the service does not tell."""
    if model is None or not model.get("parameters") or model.get("precision") not in _BYTES:
        return None
    return int(model["parameters"]) * _BYTES[model["precision"]]


def _mib_over_weights(memory: Mapping[str, Any] | None, weights: int | None) -> float | None:
    if memory is None or weights is None:
        return None
    pss = [
        int(replica["pss_bytes"])
        for replica in memory["replicas"]
        if replica["pss_bytes"] is not None and replica["deployment"].startswith("pool-")
    ]
    return (max(pss) - weights) / _MIB if pss else None


def _notes(machine: Mapping[str, Any], measured: Measurements) -> list[str]:
    """What a reader must know before believing the figures."""
    notes = []
    busy = machine.get("cpu_busy_percent_before")
    if busy is not None and busy > 10:
        notes.append(
            f"The machine was not idle before the run (CPU {busy:.0f} % busy): "
            "the figures are too low, and the ratios unsafe."
        )
    best = measured.best_limit
    if best and measured.model and measured.model.get("precision") != best["precision"]:
        notes.append(
            f"The service computes in {measured.model.get('precision')}, "
            f"the limit in {best['precision']}."
        )
    for one in measured.served:
        where = f"{one['transport']}, {one['clients']} clients"
        if one["failures"]:
            notes.append(f"{where}: {one['failures']} requests failed ({_faults(one['faults'])}).")
        if one["exhausted"]:
            notes.append(
                f"{where}: the prepared requests were used up after {one['seconds']:.1f} s."
            )
    return notes


def _faults(faults: Mapping[str, int] | Sequence[str]) -> str:
    return "; ".join(faults)
