"""What commands share in how they print; knows no command."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


def stdout() -> Console:
    """The console for results."""
    from rich.console import Console

    return Console(highlight=False)


def stderr() -> Console:
    """The console for progress and remarks: whoever redirects results does not want them."""
    from rich.console import Console

    return Console(stderr=True, highlight=False)


def print_json(document: Any) -> None:
    """Prints one JSON document on stdout."""
    typer.echo(json.dumps(document, indent=2, ensure_ascii=False))


def new_table(*headers: str, numeric: Iterable[str] = ()) -> Table:
    """A table in the look of the house; columns in `numeric` are aligned to the right."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    right = set(numeric)
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False)
    for header in headers:
        # A header may be a text of the user's: never read as markup.
        table.add_column(
            Text(header), justify="right" if header in right else "left", overflow="fold"
        )
    return table


def shortened(value: str | None) -> str:
    """A path's last part, since the rest only pushes other columns away; other words whole."""
    if value is None:
        return "-"
    is_local = value.startswith(("/", "~", "."))
    return value.rstrip("/").rpartition("/")[2] if is_local else value
