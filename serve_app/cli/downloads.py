"""A bar for each download, on standard error; knows no command."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from serve_app.weights.remote import Progress as Report

ProgressOf = Callable[[str], "Report"]
"""A `Progress` for what is downloaded under a name; its bar comes with the first byte."""


@contextmanager
def downloads() -> Iterator[ProgressOf]:
    """Shows downloads for the length of the block; nothing where there is none."""
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    from serve_app.cli.output import stderr

    console = stderr()
    bars = Progress(
        TextColumn("{task.fields[name]}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=console,
        # A log of thousands of bars is worse than one line.
        disable=not console.is_terminal,
    )

    def progress_of(name: str) -> Report:
        task = None

        def tell(done: int, total: int | None) -> None:
            nonlocal task
            if task is None:
                if not console.is_terminal:
                    console.print(f"Downloading {name}", markup=False)
                task = bars.add_task("", name=name, total=total)
            bars.update(task, completed=done, total=total)

        return tell

    with bars:
        yield progress_of
