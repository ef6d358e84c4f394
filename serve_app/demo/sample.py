"""The sample picture of the README: `python -m serve_app.demo.sample`; knows no model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import typer

from serve_app.demo.render import render
from serve_app.demo.scenes import Scene, Thing

SAMPLE: Final = Scene(
    things=(
        Thing("circle", "red", (220, 30, 40), 0.28, 0.39, 0.17, False, (70, 10, 15), 8),
        Thing("square", "blue", (35, 80, 215), 0.72, 0.37, 0.17, False, (15, 25, 80), 3),
    ),
    width=1.0,
    height=0.75,
    background=((252, 250, 244), (236, 236, 240)),
    seed=0,
)
"""A red circle left of a blue square, on paper."""


def main(
    output: Annotated[Path, typer.Argument(help="The JPEG to write.")] = Path(
        "examples/red-circle-left-of-blue-square.jpg"
    ),
) -> None:
    """Draw the sample picture, 640 x 480 pixels."""
    output.parent.mkdir(parents=True, exist_ok=True)
    render(SAMPLE, longest=640).save(output, "JPEG", quality=92)
    typer.echo(f"written to {output}")


if __name__ == "__main__":
    typer.run(main)
