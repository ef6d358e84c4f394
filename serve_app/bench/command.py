"""`serve-app bench`: from options to a run, its table and its files."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import typer

_QUICK = {"seconds": 3.0, "warm_up": 1.0, "requests": 50}


def bench_command(
    *,
    output: Annotated[Path, typer.Option(help="JSON file to write; the plot goes beside it.")] = (
        Path("bench-results/bench.json")
    ),
    quick: Annotated[bool, typer.Option("--quick", help="A short run; its figures vary.")] = False,
    seconds: Annotated[
        float | None, typer.Option(min=0.1, help="Seconds per measurement (20; quick: 3).")
    ] = None,
    warm_up: Annotated[
        float | None, typer.Option(min=0, help="Seconds of load before them (5; quick: 1).")
    ] = None,
    requests: Annotated[
        int | None,
        typer.Option(min=1, help="Requests per replica before its memory is read (1000)."),
    ] = None,
    replicas: Annotated[int, typer.Option(min=1, help="Replicas of the pool.")] = 2,
    threads: Annotated[int, typer.Option(min=1, help="Torch threads per replica.")] = 1,
    architecture: Annotated[
        str, typer.Option(help="An open_clip architecture with a causal text tower.")
    ] = "ViT-B-32",
    precision: Annotated[
        Literal["auto", "fp32", "bf16"], typer.Option(help="Of the limit and of the service.")
    ] = "auto",
    config: Annotated[
        Path | None,
        typer.Option(help="A Serve config file to serve with, instead of --replicas, --threads."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of requests and weights.")] = 0,
    only: Annotated[
        list[str] | None,
        typer.Option(help="Measure only this part; repeatable. See docs/benchmarks.md."),
    ] = None,
    json_output: Annotated[
        bool, typer.Option("--json", help="Print the report as JSON instead of tables.")
    ] = False,
) -> None:
    """Measure the served rate and latency against the machine's own limit, and plain open_clip.

    Needs an otherwise idle machine. Goals that are missed are told, and are no failure.
    """
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
    )

    from serve_app.bench.plot import write_plot
    from serve_app.bench.run import PARTS, Bench, BenchOptions
    from serve_app.bench.tables import print_report

    unknown = sorted(set(only or ()) - set(PARTS))
    if unknown:
        raise typer.BadParameter(f"{', '.join(unknown)}: choose from {', '.join(PARTS)}")
    options = BenchOptions(
        replicas=replicas,
        threads=threads,
        architecture=architecture,
        precision=precision,
        seed=seed,
        config=config,
        parts=tuple(part for part in PARTS if not only or part in only),
    )
    given = {"seconds": seconds, "warm_up": warm_up, "requests": requests}
    chosen = (_QUICK if quick else {}) | {k: v for k, v in given.items() if v is not None}
    options = replace(options, **chosen)  # type: ignore[arg-type]  # the keys are fields

    console = Console(stderr=True)
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
    ) as progress:
        task = progress.add_task("")
        steps = -1

        def begins(what: str) -> None:
            nonlocal steps
            steps += 1
            progress.update(task, description=what, completed=steps)
            if not console.is_terminal:
                console.print(what)

        bench = Bench(options, begins)
        progress.update(task, total=bench.steps)
        report = bench.run()
        progress.update(task, description="Measured", completed=bench.steps)

    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    plot = output.with_suffix(".png")
    has_plot = write_plot(report, plot)
    if json_output:
        sys.stdout.write(json.dumps(report, indent=2) + "\n")
    else:
        print_report(Console(), report)
    console.print(f"Written: {output}" + (f" and {plot}" if has_plot else ""), highlight=False)
