"""`serve-app plan`: what applying manifests will do."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from serve_app.kubernetes.effects import Change
    from serve_app.kubernetes.plan import Plan

WARNED = 4
"""Exit code: something is not as somebody may expect, above all silently nothing."""

BEYOND = 5
"""Exit code: more happens than `--allow` allows."""

Allowed = Literal["nothing", "live-reload", "in-place", "rolling-restart", "new-cluster"]


def plan(
    old: Annotated[
        Path, typer.Argument(help="Rendered manifests that are in force: a file or folder.")
    ],
    new: Annotated[Path, typer.Argument(help="Rendered manifests that are to be applied.")],
    allow: Annotated[
        Allowed, typer.Option(help="The most that may happen; more exits with 5.")
    ] = "new-cluster",
    json_output: Annotated[bool, typer.Option("--json", help="Print the plan as JSON.")] = False,
) -> None:
    """Say, object by object, what applying NEW will do where OLD is in force.

    Nothing, a live reload, an update in place, a rolling restart or a new cluster (and how many
    GPUs that takes meanwhile). Asks no cluster. Exits with 0, 4 where there are warnings, or 5
    where more happens than --allow.
    """
    from serve_app.kubernetes.effects import Effect
    from serve_app.kubernetes.manifests import read_manifests
    from serve_app.kubernetes.plan import plan_changes

    made = plan_changes(read_manifests(old), read_manifests(new))
    if json_output:
        sys.stdout.write(json.dumps(_as_json(made), indent=2) + "\n")
    else:
        _print(made)
    if made.effect > Effect[allow.upper().replace("-", "_")]:
        raise typer.Exit(BEYOND)
    if made.warnings:
        raise typer.Exit(WARNED)


def _as_json(made: Plan) -> dict[str, object]:
    return {
        "effect": made.effect.label,
        "changes": [
            {**asdict(change), "key": str(change.key), "effect": change.effect.label}
            for change in made.changes
        ],
    }


def _print(made: Plan) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    if not made.changes:
        console.print("Nothing: the manifests are the same.")
        return
    table = Table(box=None, pad_edge=False, show_edge=False)
    table.add_column("effect", no_wrap=True)
    table.add_column("object", overflow="fold")
    table.add_column("what happens", overflow="fold", ratio=1)
    for change in made.changes:
        table.add_row(_styled(change), str(change.key), _told(change))
    console.print(table)
    console.print(f"\nThe most that happens: [bold]{made.effect.label}[/bold].")
    if made.warnings:
        count = len(made.warnings)
        console.print(f"[yellow]{count} warning{'s' if count > 1 else ''}.[/yellow]")


def _styled(change: Change) -> str:
    colours = ("dim", "green", "green", "yellow", "red")
    return f"[{colours[change.effect]}]{change.effect.label}[/]"


def _told(change: Change) -> str:
    from rich.markup import escape

    lines = [escape(change.detail)]
    if change.gpus:
        lines.append(f"Needs {change.gpus:g} GPUs meanwhile.")
    if change.warning:
        lines.append(f"[yellow]Warning: {escape(change.warning)}.[/yellow]")
    return "\n".join(lines)
