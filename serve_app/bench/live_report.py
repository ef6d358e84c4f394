"""The report of `bench.live` as tables and as a picture; computes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

_COLOURS = {"swap": "#f2a65e", "rollback": "#e45756", "weights": "#72b7b2"}


def print_live(console: Console, report: Mapping[str, Any]) -> None:
    """Prints what was done, what it took, and the figures beside their goals."""
    steady, swap = report["steady"], report["swap"]
    console.print(
        f"{report['clients']} clients, {report['requests']} requests; steady p50 "
        f"{steady['p50_ms']:.0f} ms, p99 {steady['p99_ms']:.0f} ms; during swaps and rollbacks "
        f"p50 {swap['p50_ms']:.0f} ms, p99 {swap['p99_ms']:.0f} ms",
        highlight=False,
    )
    table = Table(title="What was done under load")
    table.add_column("what")
    for name in ("times", "median s", "slowest s", "failed requests"):
        table.add_column(name, justify="right")
    for event in report["events"]:
        table.add_row(
            event["kind"],
            str(event["count"]),
            f"{event['median_s']:.2f}",
            f"{event['slowest_s']:.2f}",
            str(event["failed_requests"]),
        )
    console.print(table)
    goals = Table(title="Beside the goals")
    goals.add_column("what")
    for name in ("figure", "goal", "reached"):
        goals.add_column(name, justify="right")
    for ratio in report["ratios"]:
        met = Text("yes", style="green") if ratio["met"] else Text("no", style="red")
        unit = ratio["unit"]
        goals.add_row(
            ratio["name"], f"{ratio['value']:.2f} {unit}", f"≤ {ratio['goal']:g} {unit}", met
        )
    console.print(goals)
    for fault in report["faults"]:
        console.print(Text(f"failed: {fault}", style="red"), soft_wrap=True)


def write_live_plot(report: Mapping[str, Any], path: Path) -> bool:
    """Draws each request by when it began and what it took, under the events.

    Args:
        report: With its `timeline`.
        path: A PNG file to write.

    Returns:
        Whether it was written; False where matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        return False
    timeline = report["timeline"]
    requests = timeline["requests"]
    start = min(begun for begun, *_ in requests)
    figure = Figure(figsize=(14, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    good = [row for row in requests if row[3] is None]
    for model in dict.fromkeys(row[2] for row in good):
        rows = [row for row in good if row[2] == model]
        times = [row[0] - start for row in rows]
        axes.scatter(times, [row[1] for row in rows], s=2, label=model)
    failed = [row for row in requests if row[3] is not None]
    if failed:
        times = [row[0] - start for row in failed]
        axes.scatter(times, [row[1] for row in failed], s=40, marker="x", color="red")
    for kind, begun, ended in timeline["events"]:
        if kind == "steady":
            continue
        colour = _COLOURS.get(kind, "#4c78a8")
        axes.axvspan(begun - start, ended - start, color=colour, alpha=0.4, linewidth=0)
        if kind.startswith("kill"):
            axes.text(begun - start, 0.98, kind, rotation=90, va="top", transform=_above(axes))
    axes.set_yscale("log")
    axes.set_xlabel("seconds; orange: swap, red: rollback, green: weights, blue: kill")
    axes.set_ylabel("milliseconds of each request")
    axes.legend(loc="upper left", markerscale=5)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png", dpi=120)
    return True


def _above(axes: Any) -> Any:
    """Seconds to the right, the height of the picture upwards."""
    return axes.get_xaxis_transform()
