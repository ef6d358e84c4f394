"""Evaluation of the demo models: `python -m serve_app.demo.evaluate`.

Every scene comes from the `eval` split, which training cannot draw from: a checksum over the
scene's whole content says to which split it belongs (`scenes.split_of`), whatever the seed. Knows
models only through the service's own backend.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Final

import numpy as np
import torch
import typer
from PIL import Image
from rich.console import Console
from rich.table import Table

from serve_app.config.spec import ModelSpec
from serve_app.demo import MODEL_NAMES, WEIGHTS_DIR, captions, foreign, model_path, scenes, wording
from serve_app.demo.render import render
from serve_app.demo.scenes import Scene
from serve_app.demo.wording import Claim
from serve_app.errors import ModelLoadError
from serve_app.models.base import Embeddings, Placement
from serve_app.models.open_clip import OpenClipModel

CHOICES: Final = 64
_SEED: Final = 20_000


class Encoder:
    """The two towers of a demo model, as functions on pictures and texts.

    Args:
        name: `demo` or `demo-lite`.
        folder: Where its files lie.
    """

    def __init__(self, name: str, folder: Path = WEIGHTS_DIR) -> None:
        weights = folder / model_path(name).name
        spec = ModelSpec(architecture=str(weights.with_suffix(".json")), pretrained=str(weights))
        # The service's own backend: what is measured here is what is served.
        self._model = OpenClipModel(spec, Placement(threads=torch.get_num_threads()))
        self._model.load()

    def images(self, images: Sequence[Image.Image]) -> Embeddings:
        """Unit vectors of pictures, `float32` of shape (images, dimensions)."""
        return self._model.encode_images([self._model.preprocess.apply(image) for image in images])

    def texts(self, texts: Sequence[str]) -> Embeddings:
        """Unit vectors of texts, `float32` of shape (texts, dimensions)."""
        return self._model.encode_texts(texts).embeddings


@dataclass(frozen=True, slots=True)
class Scores:
    """What a model reaches: shares from 0 to 1, and cosines for the foreign drawings.

    `single` and `multiple` are retrieval of the one true caption out of 64, by picture; `colour`,
    `left_right` and `above_below` are how often the true caption beats its swapped twin. The
    `foreign_` shares are the same on drawings by other code; the cosines are their means.
    """

    single: float
    multiple: float
    colour: float
    left_right: float
    above_below: float
    foreign_colour: float
    foreign_relation: float
    foreign_cosine_true: float
    foreign_cosine_colour_swapped: float
    foreign_cosine_relation_swapped: float
    foreign_cosine_unrelated: float


def evaluate(encoder: Encoder, rounds: int = 16) -> Scores:
    """Measure a model on scenes that no training can have seen.

    Args:
        encoder: The model.
        rounds: Rounds of 64 pictures for each retrieval and each kind of swap; 16 make 1,024.

    Returns:
        The scores.
    """
    return Scores(
        single=_retrieval(encoder, "single", rounds),
        multiple=_retrieval(encoder, "pair", rounds),
        colour=_swaps(encoder, "colour", rounds),
        left_right=_swaps(encoder, "left_right", rounds),
        above_below=_swaps(encoder, "above_below", rounds),
        **_foreign(encoder),
    )


def _retrieval(encoder: Encoder, kind: str, rounds: int) -> float:
    """How often the true caption is the best of 64 that differ in what they claim."""
    hits = 0
    index = 0
    for turn in range(rounds):
        rng = random.Random(f"{kind}/{turn}")
        drawn: list[Scene] = []
        claims: list[Claim] = []
        while len(drawn) < CHOICES:
            scene = scenes.sample("eval", _SEED, index, kind)
            index += 1
            claim = captions.full_claim(scene, rng)
            # Exactly one of the 64 captions may be true of each picture.
            if any(captions.is_true(c, scene) for c in claims):
                continue
            if any(captions.is_true(claim, s) for s in drawn):
                continue
            drawn.append(scene)
            claims.append(claim)
        images = encoder.images([render(scene) for scene in drawn])
        texts = encoder.texts([wording.say(claim) for claim in claims])
        hits += int(((images @ texts.T).argmax(axis=1) == np.arange(CHOICES)).sum())
    return hits / (rounds * CHOICES)


def _swaps(encoder: Encoder, kind: str, rounds: int) -> float:
    """How often the true caption of a pair beats its swapped twin."""
    rng = random.Random(kind)
    pictures: list[Image.Image] = []
    true: list[str] = []
    false: list[str] = []
    index = 0
    while len(pictures) < rounds * CHOICES:
        scene = scenes.sample("eval", _SEED + 1, index, "pair")
        index += 1
        claim = captions.full_claim(scene, rng)
        level = claim.relation in ("left", "right")
        if claim.relation is None or (kind != "colour" and level != (kind == "left_right")):
            continue
        twin = captions.swaps(claim, scene).get("colour" if kind == "colour" else "relation")
        # Two things of one shape would make the colour swap a relation swap.
        if twin is None or (kind == "colour" and len({t.shape for t in scene.things}) == 1):
            continue
        pictures.append(render(scene))
        true.append(wording.say(claim))
        false.append(wording.say(twin))
    images = encoder.images(pictures)
    return float((_cosines(images, encoder, true) > _cosines(images, encoder, false)).mean())


def _foreign(encoder: Encoder) -> dict[str, float]:
    drawn = list(foreign.drawings())
    images = encoder.images([d.image for d in drawn])
    true = _cosines(images, encoder, [d.true for d in drawn])
    colour = _cosines(images, encoder, [d.colour_swapped for d in drawn])
    relation = _cosines(images, encoder, [d.relation_swapped for d in drawn])
    unrelated = images @ encoder.texts(foreign.UNRELATED).T
    for row, drawing in zip(unrelated, drawn, strict=True):
        for column, text in enumerate(foreign.UNRELATED):
            if text.removeprefix("a ") in drawing.true:
                row[column] = np.nan
    return {
        "foreign_colour": float((true > colour).mean()),
        "foreign_relation": float((true > relation).mean()),
        "foreign_cosine_true": float(true.mean()),
        "foreign_cosine_colour_swapped": float(colour.mean()),
        "foreign_cosine_relation_swapped": float(relation.mean()),
        "foreign_cosine_unrelated": float(np.nanmean(unrelated)),
    }


def _cosines(images: Embeddings, encoder: Encoder, texts: Sequence[str]) -> Embeddings:
    cosines: Embeddings = (images * encoder.texts(texts)).sum(axis=1)
    return cosines


_ROWS: Final = {
    "single": "retrieval, 1 thing, 1 of 64",
    "multiple": "retrieval, 2 things, 1 of 64",
    "colour": "colour swap told apart",
    "left_right": "left/right swap told apart",
    "above_below": "above/below swap told apart",
    "foreign_colour": "foreign drawings: colour swap",
    "foreign_relation": "foreign drawings: relation swap",
    "foreign_cosine_true": "foreign cosine: true caption",
    "foreign_cosine_colour_swapped": "foreign cosine: colours swapped",
    "foreign_cosine_relation_swapped": "foreign cosine: relation swapped",
    "foreign_cosine_unrelated": "foreign cosine: unrelated caption",
}


def _table(scores: dict[str, Scores], pictures: int) -> Table:
    table = Table(title=f"Demo models, {pictures} pictures a line, none seen in training")
    table.add_column("")
    for name in scores:
        table.add_column(name, justify="right")
    for field, label in _ROWS.items():
        values = [getattr(s, field) for s in scores.values()]
        cosine = "cosine" in field
        table.add_row(label, *(f"{v:.2f}" if cosine else f"{100 * v:.1f} %" for v in values))
    return table


def main(
    model: Annotated[str, typer.Option(help="demo, demo-lite, or all.")] = "all",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, not a table.")] = False,
    weights: Annotated[Path, typer.Option(help="Folder of the model files.")] = WEIGHTS_DIR,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of 64 pictures a line.")] = 16,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 1,
) -> None:
    """Measure the demo models on scenes that they were never trained on."""
    torch.set_num_threads(threads)
    names = MODEL_NAMES if model == "all" else (model,)
    scores = {}
    for name in names:
        try:
            encoder = Encoder(name, weights)
        except (ValueError, ModelLoadError) as error:
            raise typer.BadParameter(str(error)) from None
        scores[name] = evaluate(encoder, rounds)
    if as_json:
        typer.echo(json.dumps({name: asdict(s) for name, s in scores.items()}, indent=2))
        return
    Console().print(_table(scores, rounds * CHOICES))


if __name__ == "__main__":
    typer.run(main)
