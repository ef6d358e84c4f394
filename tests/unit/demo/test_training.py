"""Training lowers the loss and is reproducible; the renderer gives the same pixels each time."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from serve_app.demo import batches, scenes
from serve_app.demo.lessons import UNCLEAR
from serve_app.demo.network import GRID
from serve_app.demo.render import render
from serve_app.demo.scenes import COLOURS, Scene, Thing
from serve_app.demo.shapes import SHAPES
from serve_app.demo.train import RECIPES, train
from serve_app.demo.wording import Claim, Phrase


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def test_a_scene_always_gives_the_same_pixels() -> None:
    for index in range(20):
        first = render(scenes.sample("train", 0, index))
        second = render(scenes.sample("train", 0, index))
        assert np.array_equal(np.asarray(first), np.asarray(second))


def test_evaluation_scenes_are_never_training_scenes() -> None:
    for index in range(200):
        assert scenes.split_of(scenes.sample("train", 0, index)) == "train"
        assert scenes.split_of(scenes.sample("eval", 0, index)) == "eval"


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_a_short_training_learns_and_is_reproducible(tmp_path: Path, name: str) -> None:
    recipe = replace(
        RECIPES[name], seeing_steps=60, reading_steps=40, steps=30, warmup=20, batch=24
    )
    reading = recipe.reading_steps if recipe.swapped else 0
    digests = []
    for run in ("first", "second"):
        losses: list[float] = []
        train(recipe, tmp_path / run, name, 0, lambda _, loss: losses.append(loss))  # noqa: B023
        assert len(losses) == recipe.all_steps == 60 + reading + 30
        lessons = [losses[:60], losses[60 : 60 + reading], losses[60 + reading :]]
        for lesson in filter(None, lessons):
            assert np.mean(lesson[-8:]) < np.mean(lesson[:8]) - 0.2
        weights = (tmp_path / run / f"{name}.safetensors").read_bytes()
        digests.append(hashlib.sha256(weights).hexdigest())
    assert digests[0] == digests[1]


def test_cells_and_contents_tell_what_scenes_and_captions_say() -> None:
    circle = Thing("circle", "red", (255, 0, 0), 0.25, 0.5, 0.2, False, None, 0)
    square = Thing("square", "blue", (0, 0, 255), 0.75, 0.5, 0.2, False, None, 1)
    scene = Scene((circle, square), 1.0, 1.0, ((255, 255, 255), (255, 255, 255)), 0)
    shown = batches.shown_in(scene)
    assert shown.shape == (2, GRID * GRID)
    middle = shown.reshape(2, GRID, GRID)[:, GRID // 2]
    assert middle[0, GRID // 4] == 1 + SHAPES.index("circle")
    assert middle[1, 3 * GRID // 4] == 1 + list(COLOURS).index("blue")
    assert (shown[:, 0] == 0).all()

    red, blue = list(COLOURS).index("red"), list(COLOURS).index("blue")
    first, second = [SHAPES.index("circle"), red], [SHAPES.index("square"), blue]
    open_side = [UNCLEAR, UNCLEAR]
    content = batches.content_of_scenes([scene])
    assert content.sides[0].tolist() == [first, second, open_side, open_side]
    claim = Claim((Phrase("circle", "red"), Phrase("square", "blue")), "above")
    claimed = batches.content_of_claims([claim, Claim((Phrase(None, "red"),))])
    assert claimed.sides[0].tolist() == [open_side, open_side, first, second]
    assert claimed.sides[1].tolist() == [open_side] * 4
    assert claimed.named.sum(dim=1).tolist() == [2, 0]
    assert content.named[0].equal(claimed.named[0])
