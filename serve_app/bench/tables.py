"""The report as rich tables; knows its shape, and computes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

_MIB = 1 << 20
_MISSING = "-"


def print_report(console: Console, report: Mapping[str, Any]) -> None:
    """Prints machine, rates, latencies, ratios and notes."""
    machine = report["machine"]
    flags = [name for name, present in machine["flags"].items() if present]
    console.print(
        f"{machine['cpu']}, {machine['cores_usable']} cores ({', '.join(flags) or 'no flags'}), "
        f"{machine['memory_bytes'] / 2**30:.0f} GiB, {machine['gpu'] or 'no GPU'}, "
        f"torch {machine['versions']['torch']}",
        highlight=False,
    )
    if rows(report):
        console.print(_rates(report))
    if report["memory"]:
        console.print(_memory(report))
    console.print(_ratios(report))
    for note in report["notes"]:
        console.print(Text(f"Note: {note}", style="yellow"))
    for error in report["errors"]:
        console.print(Text(f"Not measured: {error['part']}: {error['detail']}", style="red"))


def rows(report: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any], Mapping[str, Any]]]:
    """Label, figures and latencies of everything that has a rate, in the order of the report."""
    found: list[tuple[str, Mapping[str, Any], Mapping[str, Any]]] = []
    for one in report["limit"]["variants"]:
        best = "limit: " if one["name"] == report["limit"]["best"] else ""
        found.append((f"{best}{one['name']}", one, {}))
    if report["in_process"]:
        one = report["in_process"]
        found.append(("in process, one by one", one, one["batch_latency"] or {}))
    if report["plain"]:
        one = report["plain"]
        found.append(("plain open_clip", one, one["latency"] or {}))
    for one in report["served"]:
        plural = "" if one["clients"] == 1 else "s"
        found.append((f"{one['transport']}, {one['clients']} client{plural}", one, one))
    return found


def _rates(report: Mapping[str, Any]) -> Table:
    precision = report["precision"]
    table = Table(
        title="1 image x 4 texts per request, never sent before",
        caption=f"Milliseconds; limit in {precision['limit'] or _MISSING}, "
        f"served in {precision['served'] or _MISSING}, plain open_clip in fp32.",
    )
    table.add_column("what", no_wrap=True)
    for name in ("req/s", "p50", "p95", "p99", "failed"):
        table.add_column(name, justify="right")
    for label, figures, latency in rows(report):
        table.add_row(
            label,
            _number(figures["requests_per_s"], 1),
            *(_number(latency.get(name), 1) for name in ("p50_ms", "p95_ms", "p99_ms")),
            str(figures.get("failures", _MISSING)),
        )
    return table


def _memory(report: Mapping[str, Any]) -> Table:
    table = Table(title=f"Memory after {report['memory']['requests']} requests")
    for name in ("replica of", "process", "PSS MiB"):
        table.add_column(name, justify="left" if name == "replica of" else "right")
    for replica in report["memory"]["replicas"]:
        pss = replica["pss_bytes"]
        table.add_row(
            replica["deployment"],
            str(replica["pid"]),
            _number(None if pss is None else pss / _MIB, 0),
        )
    return table


def _ratios(report: Mapping[str, Any]) -> Table:
    table = Table(title="Beside the goals")
    table.add_column("what")
    for name in ("figure", "goal", "reached"):
        table.add_column(name, justify="right")
    for ratio in report["ratios"]:
        sign = "≥" if ratio["comparison"] == ">=" else "≤"
        goal = _MISSING if ratio["goal"] is None else f"{sign} {ratio['goal']:g} {ratio['unit']}"
        digits = 2 if ratio["unit"] == "x" else 0
        value = ratio["value"]
        met = {True: Text("yes", style="green"), False: Text("no", style="red")}.get(
            ratio["met"], Text(_MISSING)
        )
        figure = _MISSING if value is None else f"{value:.{digits}f} {ratio['unit']}"
        table.add_row(ratio["name"], figure, goal, met)
    return table


def _number(value: float | None, digits: int) -> str:
    return _MISSING if value is None else f"{value:.{digits}f}"
