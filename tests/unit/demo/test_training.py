"""Training lowers the loss and is reproducible; the renderer gives the same pixels each time."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from serve_app.demo import scenes
from serve_app.demo.render import render
from serve_app.demo.train import RECIPES, train


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
    recipe = replace(RECIPES[name], steps=40, warmup=10, batch=32)
    digests = []
    for run in ("first", "second"):
        losses: list[float] = []
        train(recipe, tmp_path / run, name, 0, lambda _, loss: losses.append(loss))  # noqa: B023
        assert np.mean(losses[-8:]) < np.mean(losses[:8]) - 0.3
        weights = (tmp_path / run / f"{name}.safetensors").read_bytes()
        digests.append(hashlib.sha256(weights).hexdigest())
    assert digests[0] == digests[1]
