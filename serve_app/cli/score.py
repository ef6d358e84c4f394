"""`serve-app score`: images against texts, in this process or on a running service."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from serve_app.cli.failures import FAILED

if TYPE_CHECKING:
    from serve_app.cli.scoring import Scorer, Task
    from serve_app.types import ScoreResponse

_PROGRESS_FROM = 33
_TIMEOUT_S = 300.0


class _OnTruncate(StrEnum):
    WARN = "warn"
    ERROR = "error"


def score(
    images: Annotated[
        list[str],
        typer.Argument(
            metavar="IMAGE",
            help="Image files; folders (with what is below them) and patterns stand for theirs.",
            show_default=False,
        ),
    ],
    *,
    text: Annotated[
        list[str] | None,
        typer.Option("--text", "-t", metavar="TEXT", help="A text; may be repeated."),
    ] = None,
    texts_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Texts, one per line, in UTF-8; empty lines are passed over."
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model", "-m", metavar="NAME", help="Name, or name@revision; else the default model."
        ),
    ] = None,
    metric: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="A metric to show instead of the score; may be repeated."
        ),
    ] = None,
    on_truncate: Annotated[
        _OnTruncate,
        typer.Option(help="What to do with a text that is longer than the model's context."),
    ] = _OnTruncate.WARN,
    url: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Ask the service at this address instead."),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(min=1, help="Threads to compute with; else one for each CPU."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON document instead of a table.")
    ] = False,
) -> None:
    """Score images against texts.

    Every image is scored against every text, by the models that the environment declares, in this
    process and without Ray; with --url, by a running service. Exits with 1 if an item failed.

    Example: `serve-app score photos/ -t "a red circle" -t "a blue square"`
    """
    from serve_app.cli.image_files import expand_images
    from serve_app.cli.local import quiet_libraries
    from serve_app.cli.scoring import Task, score_all
    from serve_app.config.args import Limits

    texts = [*(text or []), *(_lines(texts_file) if texts_file is not None else [])]
    if not texts:
        raise typer.BadParameter("give at least one --text, or a --texts-file with texts")
    metrics = tuple(dict.fromkeys(metric)) if metric else None
    task = Task(expand_images(images), texts, model, metrics, on_truncate.value)
    limits = Limits()
    with (
        quiet_libraries(),
        contextlib.closing(_scorer(url, threads)) as scorer,
        _progress(task, url) as on_images,
    ):
        response = score_all(task, scorer, limits, on_images)
    if as_json:
        _print_json(task, response)
    else:
        from serve_app.cli.score_table import print_scores

        print_scores(task, response)
    if any(result.error is not None for result in response.results):
        raise typer.Exit(FAILED)


def _scorer(url: str | None, threads: int | None) -> Scorer:
    if url is not None:
        from serve_app.client.http import HttpTransport
        from serve_app.client.retry import RetryPolicy

        return HttpTransport(url, RetryPolicy(timeout_s=_TIMEOUT_S))
    from serve_app.cli.local import snapshot_here
    from serve_app.cli.scoring import LocalScorer
    from serve_app.config.args import Limits
    from serve_app.config.declaration import read_declaration

    declared = read_declaration()
    snapshot = snapshot_here(declared.models, threads=threads, routing=declared.routing)
    return LocalScorer(snapshot, Limits())


@contextlib.contextmanager
def _progress(task: Task, url: str | None) -> Iterator[Callable[[int], None]]:
    """A bar where there are many images, else a line that says what is being waited for."""
    from serve_app.cli.output import stderr

    console = stderr()
    doing = "Loading the model and scoring" if url is None else f"Asking {url}"
    if len(task.images) < _PROGRESS_FROM:
        with console.status(f"{doing} …"):
            yield lambda count: None
        return
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("Scoring images"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        bar = progress.add_task("score", total=len(task.images))
        yield lambda count: progress.advance(bar, count)


def _lines(path: Path) -> list[str]:
    from serve_app.errors import ConfigError, Fault

    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ConfigError((Fault(str(path), f"is not UTF-8: {error.reason}"),)) from error
    return [line.strip() for line in lines if line.strip()]


def _print_json(task: Task, response: ScoreResponse) -> None:
    from serve_app.cli.output import print_json
    from serve_app.serving.answers import score_answer

    answer: dict[str, Any] = score_answer(response)
    # The answer's indices mean these.
    answer["images"] = [str(path) for path in task.images]
    answer["texts"] = list(task.texts)
    print_json(answer)
