"""`serve-app record-parity`: golden scores of a model that is known to be right."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from serve_app.config.parity import AskedPairs, GoldenPair
    from serve_app.models.snapshot import ResolvedModel

_DIGITS = 6


def record_parity(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Name of a declared model.")],
    *,
    pairs: Annotated[
        Path,
        typer.Option(
            metavar="FILE",
            help="YAML or JSON with `pairs` of `image` and `text`; a file of golden pairs will do.",
        ),
    ],
    out: Annotated[
        Path, typer.Option(metavar="FILE", help="Where to write them: YAML, or JSON by its name.")
    ],
    metric: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="A metric to record, may be repeated; else those that a pair names, else the "
            "model's primary one.",
        ),
    ] = None,
    tolerance: Annotated[
        float | None,
        typer.Option(min=0, help="How far a score may be from the recorded one, absolute."),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(min=1, help="Threads to compute with; else one for each CPU."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print what was written as one JSON document.")
    ] = False,
) -> None:
    """Record the scores that a model must give from now on.

    Loads a model that the environment declares, in this process and without the golden scores that
    its spec may name already, scores the pairs and writes them down for `parity` in its spec. Do it
    with a model that is known to be right, in the precision in which it will serve.

    Example: `serve-app record-parity fast --pairs pairs.yaml --out fast-golden.yaml`
    """
    from serve_app.cli.local import quiet_libraries
    from serve_app.cli.output import print_json, stderr
    from serve_app.config.parity import read_asked_pairs

    asked = read_asked_pairs(pairs)
    resolved = _declared(model, threads)
    with quiet_libraries(), stderr().status("Loading the model and scoring …"):
        golden = _record(resolved, asked, pairs, tuple(dict.fromkeys(metric or ())))
    kept = asked.tolerance if tolerance is None else tolerance
    document = _document(golden, asked, kept, out)
    _write(out, document)
    if as_json:
        print_json({"model": resolved.id, "file": str(out), **document})
        return
    placement = resolved.placement
    typer.echo(
        f"{len(golden)} golden pairs of {resolved.id} ({placement.device} {placement.precision}) "
        f"are in {out}."
    )


def _declared(model: str, threads: int | None) -> ResolvedModel:
    """The model without its golden scores: their file may be what is to be written."""
    from dataclasses import replace

    from serve_app.cli.local import snapshot_here
    from serve_app.config.declaration import read_declaration

    document = read_declaration().models
    models = {
        name: {key: value for key, value in spec.items() if key != "parity"}
        if isinstance(spec, Mapping)
        else spec
        for name, spec in document.models.items()
    }
    return snapshot_here(replace(document, models=models), threads=threads).resolve(model)


def _record(
    resolved: ResolvedModel, asked: AskedPairs, file: Path, metrics: Sequence[str]
) -> list[GoldenPair]:
    from serve_app.config.declaration import cache_from_environment
    from serve_app.config.parity import GoldenPair, beside
    from serve_app.engine.loading import model_loader
    from serve_app.engine.parity import golden_scores
    from serve_app.models.factory import SimilarityModelFactory
    from serve_app.weights.cache import cache_of

    load = model_loader(SimilarityModelFactory(), cache_of(cache_from_environment()))
    loaded = load(resolved)
    try:
        primary = (loaded.info.capabilities.primary,)
        pairs = [
            GoldenPair(
                image=beside(file, pair.image),
                text=pair.text,
                scores=dict.fromkeys(metrics or pair.scores or primary, 0.0),
            )
            for pair in asked.pairs
        ]
        found = golden_scores(loaded.model, pairs, resolved.id)
    finally:
        loaded.unload()
    return [
        _with_scores(pair, scores, resolved.id) for pair, scores in zip(pairs, found, strict=True)
    ]


def _with_scores(pair: GoldenPair, scores: Mapping[str, float], model_id: str) -> GoldenPair:
    import math

    from serve_app.errors import ModelFailedError

    if not all(map(math.isfinite, scores.values())):
        raise ModelFailedError(f"{model_id} gives no finite score for {pair.text!r}.")
    rounded = {name: float(f"{score:.{_DIGITS}g}") for name, score in scores.items()}
    return pair.model_copy(update={"scores": rounded})


def _document(
    golden: Sequence[GoldenPair], asked: AskedPairs, tolerance: float | None, out: Path
) -> dict[str, Any]:
    document: dict[str, Any] = {} if tolerance is None else {"tolerance": tolerance}
    pairs = [
        pair.model_dump() | {"image": _image(out, written.image, pair.image)}
        for pair, written in zip(golden, asked.pairs, strict=True)
    ]
    return document | {"pairs": pairs}


def _image(out: Path, written: str, found: str) -> str:
    """An image as it is to be written into a file: what was a relative path is relative to that."""
    from serve_app.config.parity import is_path

    if not is_path(written) or Path(written).expanduser().is_absolute():
        return written
    relative = os.path.relpath(found, out.parent)
    return relative if is_path(relative) else f"./{relative}"


def _write(out: Path, document: Mapping[str, Any]) -> None:
    import json

    import yaml

    if out.suffix.lower() == ".json":
        text = json.dumps(document, indent=2, ensure_ascii=False) + "\n"
    else:
        text = yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=100)
    # Whole or not at all: a service may be about to read it.
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f".{out.name}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(out)
