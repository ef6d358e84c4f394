"""Writes dashboard.json, for Grafana, from the panels below: python monitoring/dashboard.py."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

_SOURCE = {"type": "prometheus", "uid": "${source}"}
_APP = 'application=~"$application"'
_MODEL = f'{_APP}, model=~"$model"'
_WIDTH, _HEIGHT = 8, 8


def _rate(name: str, labels: str, by: str, window: str = "$__rate_interval") -> str:
    return f"sum by ({by}) (rate({name}{{{labels}}}[{window}]))"


def _quantile(share: float, name: str, labels: str, by: str) -> str:
    return f"histogram_quantile({share}, {_rate(name, labels, f'{by}, le')})"


def _share(part: str, whole: str) -> str:
    """Zero where there is no series of the part: nothing of the kind has happened yet."""
    return f"({part} / ({whole}) or 0 * ({whole}))"


Panel = tuple[str, str, dict[str, str]]
"""Title, unit, and by legend what is drawn."""

ROWS: dict[str, list[Panel]] = {
    "Requests": [
        (
            "Requests by code",
            "reqps",
            {"{{code}}": _rate("ray_similarity_http_requests_total", _APP, "code")},
        ),
        (
            "Share that fails",
            "percentunit",
            {
                "failed": _share(
                    _rate(
                        "ray_similarity_http_requests_total",
                        f'{_APP}, status=~"5.."',
                        "application",
                    ),
                    _rate("ray_similarity_http_requests_total", _APP, "application"),
                )
            },
        ),
        (
            "Latency by route",
            "ms",
            {
                "p50 {{path}}": _quantile(
                    0.5, "ray_similarity_http_latency_ms_bucket", _APP, "path"
                ),
                "p95 {{path}}": _quantile(
                    0.95, "ray_similarity_http_latency_ms_bucket", _APP, "path"
                ),
            },
        ),
        (
            "Requests in progress",
            "short",
            {"{{replica}}": f"ray_similarity_http_in_progress{{{_APP}}}"},
        ),
        ("Bodies held", "bytes", {"{{replica}}": f"ray_similarity_body_bytes{{{_APP}}}"}),
        (
            "Not let in",
            "reqps",
            {"{{key}} {{code}}": _rate("ray_similarity_refused_total", _APP, "key, code")},
        ),
    ],
    "Models": [
        (
            "Requests by revision and arm",
            "reqps",
            {
                "{{model}}@{{revision}} {{experiment}} {{arm}}": _rate(
                    "ray_similarity_requests_total", _MODEL, "model, revision, experiment, arm"
                )
            },
        ),
        (
            "Errors by revision",
            "reqps",
            {
                "{{model}}@{{revision}} {{code}}": _rate(
                    "ray_similarity_errors_total", _MODEL, "model, revision, code"
                )
            },
        ),
        (
            "Latency at the 95th percentile",
            "ms",
            {
                "{{model}}@{{revision}}": _quantile(
                    0.95, "ray_similarity_latency_ms_bucket", _MODEL, "model, revision"
                )
            },
        ),
        (
            "Where the time goes (medians)",
            "ms",
            {
                f"{part} {{{{model}}}}": _quantile(
                    0.5, f"ray_similarity_{part}_ms_bucket", _MODEL, "model"
                )
                for part in ("decode", "queue", "model")
            },
        ),
        (
            "Pairs and embeddings with an error",
            "reqps",
            {
                "{{model}} {{code}}": _rate(
                    "ray_similarity_items_total", f'{_MODEL}, code!="ok"', "model, code"
                )
            },
        ),
        (
            "Scores: median and quartiles",
            "short",
            {
                f"{name} {{{{model}}}}@{{{{revision}}}} {{{{arm}}}} {{{{metric}}}}": _quantile(
                    share,
                    "ray_similarity_scores_total",
                    f'{_MODEL}, metric=~"$metric"',
                    "model, revision, arm, metric",
                )
                for name, share in (("25 %", 0.25), ("50 %", 0.5), ("75 %", 0.75))
            },
        ),
        (
            "Shadows",
            "reqps",
            {
                "{{experiment}} {{model}} {{outcome}}": _rate(
                    "ray_similarity_shadow_requests_total", _MODEL, "experiment, model, outcome"
                )
            },
        ),
    ],
    "Replicas": [
        (
            "Batch size (mean)",
            "short",
            {
                "{{model}} {{lane}}": _rate("ray_similarity_batch_size_sum", _MODEL, "model, lane")
                + " / "
                + _rate("ray_similarity_batch_size_count", _MODEL, "model, lane")
            },
        ),
        (
            "Waiting for the device",
            "short",
            {"{{pool}} {{replica}}": f"ray_similarity_waiting{{{_APP}}}"},
        ),
        (
            "Shared instead of computed",
            "percentunit",
            {
                "{{model}} {{cache}}": "1 - "
                + _share(
                    misses := _rate("ray_similarity_cache_misses_total", _MODEL, "model, cache"),
                    _rate("ray_similarity_cache_hits_total", _MODEL, "model, cache")
                    + f" + {misses} or {misses}",
                )
            },
        ),
        (
            "Loads in an hour",
            "short",
            {
                "{{model}} {{code}}": "sum by (model, code) "
                f"(increase(ray_similarity_loads_total{{{_MODEL}}}[1h]))"
            },
        ),
        (
            "Load and warm-up at the 95th percentile",
            "s",
            {
                "{{model}}": "histogram_quantile(0.95, sum by (model, le) "
                f"(increase(ray_similarity_load_seconds_bucket{{{_MODEL}}}[1h])))"
            },
        ),
        (
            "Models that are loaded",
            "bytes",
            {
                "{{pool}} {{replica}} {{model}}@{{revision}}": (
                    f"ray_similarity_resident_bytes{{{_MODEL}}}"
                )
            },
        ),
        (
            "GPU memory",
            "bytes",
            {"{{replica}} {{kind}}": f"ray_similarity_gpu_memory_bytes{{{_APP}}}"},
        ),
    ],
    "Configuration": [
        (
            "Snapshot in effect",
            "short",
            {"{{application}}": f"max by (application) (ray_similarity_config_snapshot{{{_APP}}})"},
        ),
        (
            "Faults, refusals, overrides",
            "short",
            {
                "faults": f"max by (application) (ray_similarity_config_faults{{{_APP}}})",
                "refused": "sum by (application) "
                f"(increase(ray_similarity_config_refused_total{{{_APP}}}[1h]))",
                "overridden": f"max by (application) (ray_similarity_config_overridden{{{_APP}}})",
            },
        ),
        (
            "Revisions by state",
            "short",
            {
                "{{model}} {{state}}": (
                    f"max by (model, state) (ray_similarity_revisions{{{_MODEL}}})"
                )
            },
        ),
        (
            "Rollouts: states that were reached in an hour",
            "short",
            {
                "{{model}} {{state}}": "sum by (model, state) "
                f"(increase(ray_similarity_model_states_total{{{_MODEL}}}[1h]))"
            },
        ),
    ],
}


def _variable(name: str, query: str, *, default: str = ".*") -> dict[str, Any]:
    return {
        "name": name,
        "type": "query",
        "datasource": _SOURCE,
        "query": {"query": query, "refId": name},
        "refresh": 2,
        "includeAll": True,
        "allValue": default,
        "multi": True,
        "current": {"text": "All", "value": "$__all"},
    }


def dashboard() -> dict[str, Any]:
    """The dashboard as Grafana imports it."""
    panels: list[dict[str, Any]] = []
    top = 0
    for row, drawn in ROWS.items():
        panels.append(
            {
                "id": len(panels) + 1,
                "type": "row",
                "title": row,
                "collapsed": False,
                "gridPos": {"x": 0, "y": top, "w": 24, "h": 1},
                "panels": [],
            }
        )
        top += 1
        for index, panel in enumerate(drawn):
            panels.append(
                _panel(len(panels) + 1, panel, (index % 3 * _WIDTH, top + index // 3 * _HEIGHT))
            )
        top += -(-len(drawn) // 3) * _HEIGHT
    return {
        "uid": "serve-app",
        "title": "Image-text similarity",
        "tags": ["serve-app"],
        "schemaVersion": 39,
        "time": {"from": "now-6h", "to": "now"},
        "refresh": "30s",
        "templating": {
            "list": [
                {"name": "source", "type": "datasource", "query": "prometheus"},
                _variable(
                    "application", "label_values(ray_similarity_config_snapshot, application)"
                ),
                _variable("model", "label_values(ray_similarity_requests_total, model)"),
                _variable("metric", "label_values(ray_similarity_scores_total, metric)"),
            ]
        },
        "panels": panels,
    }


def _panel(number: int, panel: Panel, corner: tuple[int, int]) -> dict[str, Any]:
    title, unit, queries = panel
    return {
        "id": number,
        "type": "timeseries",
        "title": title,
        "datasource": _SOURCE,
        "gridPos": {"x": corner[0], "y": corner[1], "w": _WIDTH, "h": _HEIGHT},
        "fieldConfig": {"defaults": {"unit": unit}, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}},
        "targets": [
            {
                "refId": chr(ord("A") + i),
                "datasource": _SOURCE,
                "expr": expr,
                "legendFormat": legend,
            }
            for i, (legend, expr) in enumerate(queries.items())
        ],
    }


if __name__ == "__main__":
    path = Path(__file__).with_name("dashboard.json")
    path.write_text(json.dumps(dashboard(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
