"""Scores as a table for people; knows no transport."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from rich.text import Text

from serve_app.cli.output import new_table, stdout

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from rich.console import Console
    from rich.table import Table

    from serve_app.cli.scoring import Task
    from serve_app.types import PairResult, ScoreResponse

_MOST_COLUMNS = 6
_MOST_SUBJECTS = 3
_LONGEST_HEADER = 60
_LONGEST_NAME = 40
_BEST = "bold green"
_FAILED = "red"


def print_scores(task: Task, response: ScoreResponse, console: Console | None = None) -> None:
    """Prints a table of images and texts, and below it what there is to know about the scores."""
    console = console or stdout()
    names = _names(task.images)
    rows: list[list[PairResult]] = [[] for _ in task.images]
    for result in response.results:
        rows[result.image].append(result)
    wide = len(task.texts) <= _MOST_COLUMNS
    table = (_grid if wide else _list)(task, names, rows)
    console.print(table)
    shown = ", ".join(task.metrics) if task.metrics else "score"
    console.print(Text(f"{shown} · model {response.model}", style="dim"))
    _print_remarks(console, task, names, response)


def _grid(task: Task, names: list[str], rows: list[list[PairResult]]) -> Table:
    """A row per image, a column per text."""
    headers = [_cut(text, _LONGEST_HEADER) for text in task.texts]
    table = new_table("image", *headers, numeric=headers)
    _widen_names(table, names)
    for name, row in zip(names, rows, strict=True):
        best = _best(task, row)
        table.add_row(Text(name), *(_cell(task, result, result is best) for result in row))
    return table


def _list(task: Task, names: list[str], rows: list[list[PairResult]]) -> Table:
    """A row per pair, for more texts than fit beside each other; an image's best come first."""
    shown = task.metrics or ("score",)
    table = new_table("image", "text", *shown, numeric=shown)
    _widen_names(table, names)
    for name, row in zip(names, rows, strict=True):
        best = _best(task, row)
        ordered = sorted(row, key=lambda result: -_value(task, result))
        for position, result in enumerate(ordered):
            style = _BEST if result is best else ""
            values = [_cell_of(result, metric, result is best) for metric in shown]
            table.add_row(
                Text(name if position == 0 else ""),
                Text(task.texts[result.text], style=style),
                *values,
                end_section=position == len(ordered) - 1,
            )
    return table


def _widen_names(table: Table, names: list[str]) -> None:
    """Keeps file names in one piece: texts can be wrapped between words, names cannot."""
    table.columns[0].no_wrap = max(map(len, names)) <= _LONGEST_NAME


def _cell(task: Task, result: PairResult, is_best: bool) -> Text:
    if result.error is not None or not task.metrics or len(task.metrics) == 1:
        return _cell_of(result, task.metrics[0] if task.metrics else "score", is_best)
    lines = [
        Text(f"{name} ", style="dim").append(_cell_of(result, name, is_best))
        for name in task.metrics
    ]
    return Text("\n").join(lines)


def _cell_of(result: PairResult, name: str, is_best: bool) -> Text:
    if result.error is not None:
        return Text(result.error.code, style=_FAILED)
    value = result.score if name == "score" else result.scores.get(name)
    if value is None:
        return Text("-")
    cell = Text(_number(name, value), style=_BEST if is_best else "")
    return cell.append(" !", style="yellow") if result.warnings else cell


def _number(name: str, value: float) -> str:
    # Logits run into the tens; what else there is lies between -1 and a few.
    return f"{value:.2f}" if name == "logit" or abs(value) >= 100 else f"{value:.4f}"


def _best(task: Task, row: list[PairResult]) -> PairResult | None:
    scored = [result for result in row if result.error is None]
    if len(row) < 2 or not scored:
        return None
    return max(scored, key=lambda result: _value(task, result))


def _value(task: Task, result: PairResult) -> float:
    value = result.scores.get(task.metrics[0]) if task.metrics else result.score
    return float("-inf") if value is None else value


def _print_remarks(console: Console, task: Task, names: list[str], response: ScoreResponse) -> None:
    """Warnings and errors, each once however many pairs it is about."""
    errors: dict[tuple[str, str], list[PairResult]] = {}
    warnings: dict[tuple[str, str], list[PairResult]] = {}
    for result in response.results:
        if result.error is not None:
            errors.setdefault((result.error.code, result.error.detail), []).append(result)
        for warning in result.warnings:
            warnings.setdefault((warning.code, warning.detail), []).append(result)
    for kind, style, found in (("warning", "yellow", warnings), ("error", _FAILED, errors)):
        for (code, detail), results in found.items():
            line = Text(f"{kind}: ", style=style)
            line.append(f"{_subject(task, names, results, code)}: ")
            line.append(f"{detail} ({code})", style="")
            # One line each, for grep; a terminal wraps it by itself.
            console.print(line, soft_wrap=True)


def _subject(task: Task, names: list[str], results: list[PairResult], code: str) -> str:
    """What a remark is about: its images, its texts, or the pair; the code says which."""
    images = [names[index] for index in sorted({result.image for result in results})]
    texts = [_quoted(task.texts[index]) for index in sorted({result.text for result in results})]
    if code.startswith("image"):
        return _listed(images)
    if code.startswith("text"):
        return _listed(texts)
    return f"{_listed(images)} with {_listed(texts)}"


def _listed(subjects: list[str]) -> str:
    more = len(subjects) - _MOST_SUBJECTS
    listed = ", ".join(subjects[:_MOST_SUBJECTS])
    return f"{listed} and {more} more" if more > 0 else listed


def _quoted(text: str) -> str:
    return f'"{_cut(text, 40)}"'


def _cut(text: str, length: int) -> str:
    line = " ".join(text.split())
    return line if len(line) <= length else f"{line[: length - 1]}…"


def _names(images: Sequence[Path]) -> list[str]:
    """File names, with as much of their folders as tells them apart."""
    names = [path.name for path in images]
    if len(set(names)) == len(names):
        return names
    folder = os.path.commonpath([path.absolute().parent for path in images])
    return [os.path.relpath(path, folder) for path in images]
