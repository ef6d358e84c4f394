"""Every metric that the service exports, in one table; counts nothing.

Ray exports them for Prometheus, where their names begin with `ray_`. docs/http-api.md describes
each, and alerts and dashboard use no others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

REQUEST_LABELS = ("model", "revision", "experiment", "arm", "code")
MODEL_LABELS = ("model", "revision")

_MS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 30_000, 120_000)
_BATCH = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
_LOAD_S = (0.1, 0.3, 1, 3, 10, 30, 60, 120, 300, 600)

SCORE_BOUNDS = (
    *(-20.0, -10.0, -5.0, -2.0, -1.0, -0.5, -0.2, -0.1),
    *(0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0),
    *(1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 25.0, 30.0, 35.0, 40.0, 60.0, 100.0),
)
"""Upper bounds of `similarity_scores`: fine for cosines and probabilities, coarse for logits."""


@dataclass(frozen=True, slots=True)
class Instrument:
    """One metric.

    Attributes:
        kind: A `counter` goes up, a `gauge` up and down, a `histogram` counts by size.
        help: What it is.
        labels: What it is told by; values are few (see `BoundedLabel`).
        bounds: Upper bounds of a histogram's buckets.
    """

    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()
    bounds: tuple[float, ...] = ()


INSTRUMENTS: dict[str, Instrument] = {
    # Of an ingress: every request over HTTP.
    "similarity_http_requests": Instrument(
        "counter",
        "Requests over HTTP, by route, status and code.",
        ("method", "path", "status", "code"),
    ),
    "similarity_http_latency_ms": Instrument(
        "histogram",
        "Milliseconds from a request's arrival in the ingress to its answer.",
        ("method", "path"),
        _MS,
    ),
    "similarity_http_in_progress": Instrument("gauge", "Requests that are worked on."),
    "similarity_body_bytes": Instrument("gauge", "Bytes of bodies that are held."),
    "similarity_refused": Instrument(
        "counter",
        "Requests that a key was missing for, or that went beyond what it may ask for.",
        ("key", "code"),
    ),
    # Of an ingress: requests that reached a model, however they came.
    "similarity_requests": Instrument("counter", "Requests that reached a model.", REQUEST_LABELS),
    "similarity_errors": Instrument("counter", "Requests that the service failed.", REQUEST_LABELS),
    "similarity_latency_ms": Instrument(
        "histogram",
        "Milliseconds from a request's beginning in the pipeline to its end.",
        REQUEST_LABELS,
        _MS,
    ),
    "similarity_decode_ms": Instrument(
        "histogram",
        "Milliseconds in which the images of a request were decoded and fitted.",
        MODEL_LABELS,
        _MS,
    ),
    "similarity_items": Instrument(
        "counter", "Pairs and embeddings, by what became of them.", (*MODEL_LABELS, "code")
    ),
    "similarity_scores": Instrument(
        "counter",
        "Scores up to each bound `le`: a histogram that may have bounds below zero.",
        (*MODEL_LABELS, "experiment", "arm", "metric", "le"),
    ),
    "similarity_shadow_requests": Instrument(
        "counter",
        "Requests that a shadow model should score too, by what became of them.",
        ("model", "experiment", "outcome"),
    ),
    # Of a replica.
    "similarity_queue_ms": Instrument(
        "histogram", "Milliseconds in which a request waited for the model.", MODEL_LABELS, _MS
    ),
    "similarity_model_ms": Instrument(
        "histogram", "Milliseconds in which a batch was computed.", MODEL_LABELS, _MS
    ),
    "similarity_batch_size": Instrument(
        "histogram", "Items of a batch.", (*MODEL_LABELS, "lane"), _BATCH
    ),
    "similarity_cache_hits": Instrument(
        "counter",
        "What was not done again: items that were in the batch already (`batch`), weights that "
        "were on the node already (`weights`).",
        (*MODEL_LABELS, "cache"),
    ),
    "similarity_cache_misses": Instrument(
        "counter",
        "What had to be done: items that were computed (`batch`), weights that were downloaded "
        "(`weights`).",
        (*MODEL_LABELS, "cache"),
    ),
    "similarity_waiting": Instrument("gauge", "Items that wait for the device.", ("pool",)),
    "similarity_loads": Instrument(
        "counter",
        "Loads of models: `ok`, or the code of the error.",
        (*MODEL_LABELS, "pool", "code"),
    ),
    "similarity_load_seconds": Instrument(
        "histogram", "Seconds in which a model was loaded and warmed up.", MODEL_LABELS, _LOAD_S
    ),
    "similarity_resident_bytes": Instrument(
        "gauge", "Bytes that a model takes which is loaded.", (*MODEL_LABELS, "pool")
    ),
    "similarity_gpu_memory_bytes": Instrument(
        "gauge",
        "Memory of the replica's GPU: `allocated` and `reserved` by torch, `free` and `total` of "
        "the device.",
        ("pool", "kind"),
    ),
    # Of the control plane.
    "similarity_config_faults": Instrument(
        "gauge", "Faults because of which the last change is refused."
    ),
    "similarity_config_refused": Instrument(
        "counter", "Changes of the configuration that were refused."
    ),
    "similarity_config_snapshot": Instrument(
        "gauge", "Number of the configuration snapshot in effect."
    ),
    "similarity_config_overridden": Instrument(
        "gauge", "1 while an operator's overrides are in force."
    ),
    "similarity_model_states": Instrument(
        "counter", "Revisions that came into a state of the rollout.", ("model", "state")
    ),
    "similarity_revisions": Instrument(
        "gauge", "Revisions of a model that are in a state of the rollout.", ("model", "state")
    ),
}
"""By name."""


def exported(name: str) -> tuple[str, ...]:
    """Names under which an instrument's series appear in Prometheus."""
    match INSTRUMENTS[name].kind:
        case "counter":
            return (f"ray_{name}_total",)
        case "gauge":
            return (f"ray_{name}",)
        case _:
            return tuple(f"ray_{name}_{part}" for part in ("bucket", "sum", "count"))
