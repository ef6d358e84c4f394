"""The report as a picture; needs the `bench` extra (matplotlib), and does without it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from serve_app.bench.report import SERVED_OVER_LIMIT
from serve_app.bench.tables import rows


def write_plot(report: Mapping[str, Any], path: Path) -> bool:
    """Draws rates and latencies.

    Args:
        report: See `build_report`.
        path: A PNG file to write.

    Returns:
        Whether it was written; False where matplotlib is not installed or there is nothing to
        draw.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        return False
    measured = [row for row in rows(report) if row[1]["requests_per_s"] is not None]
    if not measured:
        return False
    # Without pyplot: it would keep state, and look for a display.
    figure = Figure(figsize=(11, 1.5 + 0.9 * len(measured)), layout="constrained")
    FigureCanvasAgg(figure)
    rates, latencies = figure.subplots(2, 1)
    labels = [label for label, _, _ in measured]
    values = [figures["requests_per_s"] for _, figures, _ in measured]
    colours = ["#4c78a8" if "transport" in figures else "#bab0ac" for _, figures, _ in measured]
    bars = rates.barh(labels, values, color=colours)
    rates.bar_label(bars, fmt="%.1f", padding=3)
    rates.set_xlabel("requests per second")
    rates.invert_yaxis()
    best = [one for one in report["limit"]["variants"] if one["name"] == report["limit"]["best"]]
    if best:
        goal = SERVED_OVER_LIMIT * best[0]["requests_per_s"]
        rates.axvline(goal, linestyle="--", color="black", linewidth=1)
        rates.set_title(f"1 image x 4 texts per request; dashed: {SERVED_OVER_LIMIT} x the limit")
    timed = [(label, times) for label, _, times in measured if times.get("p50_ms") is not None]
    for percent, colour in (("p99_ms", "#e8cdb5"), ("p95_ms", "#f2a65e"), ("p50_ms", "#d1691c")):
        latencies.barh(
            [label for label, _ in timed],
            [times[percent] for _, times in timed],
            color=colour,
            label=percent.removesuffix("_ms"),
        )
    latencies.set_xlabel("milliseconds per request")
    latencies.invert_yaxis()
    latencies.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png", dpi=120)
    return True
