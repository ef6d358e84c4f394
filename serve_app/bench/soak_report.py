"""The report of `bench.soak` as tables and as a picture; computes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from serve_app.bench.soak import GROWTH, MEASURES


def print_soak(console: Console, report: Mapping[str, Any]) -> None:
    """Prints what has grown, beside what may, and what was answered wrongly."""
    console.print(
        f"{report['seconds'] / 60:.0f} minutes, {report['clients']} clients, "
        f"{report['requests']} requests, {report['changes']} changes of a revision",
        highlight=False,
    )
    table = Table(title="First fifth → last fifth, after the warm-up")
    table.add_column("processes")
    for measured in MEASURES:
        table.add_column(f"{measured} (≤ +{GROWTH[measured]:.0%})", justify="right")
    for group, figures in report["growth"].items():
        cells = []
        for measured in MEASURES:
            found = figures[measured]
            style = "green" if found["flat"] else "red"
            first, last = (_shown(measured, found[key]) for key in ("first", "last"))
            cells.append(Text(f"{first} → {last} {found['share']:+.1%}", style=style))
        table.add_row(group, *cells)
    console.print(table)
    style = "red" if report["failures"] else "green"
    console.print(Text(f"{report['failures']} answers were not the right one", style=style))
    for what, count in report["unexpected"].items():
        console.print(Text(f"  {what} ({count} times)", style="red"))


def write_soak_plot(report: Mapping[str, Any], path: Path) -> bool:
    """Draws memory, handles and threads over time, by group of processes.

    Args:
        report: With its `samples`.
        path: A PNG file to write.

    Returns:
        Whether it was written; False where matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        return False
    figure = Figure(figsize=(12, 10), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, measured in zip(figure.subplots(len(MEASURES), 1), MEASURES, strict=True):
        for group in report["growth"]:
            rows = [sample for sample in report["samples"] if group in sample]
            scale = 2**20 if measured == "memory" else 1
            axes.plot(
                [sample["seconds"] / 60 for sample in rows],
                [sample[group][measured] / scale for sample in rows],
                label=group,
                linewidth=1,
            )
        axes.set_ylabel("own memory, MiB" if measured == "memory" else measured)
        axes.set_ylim(bottom=0)
    axes.set_xlabel("minutes")
    lines, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(lines, labels, loc="outside upper center", ncols=len(labels))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png", dpi=110)
    return True


def _shown(measured: str, value: float) -> str:
    return f"{value / 2**20:.0f} MiB" if measured == "memory" else f"{value:.0f}"
