"""The scenes and their drawing: reproducible, in bounds, and split for good."""

import random

import numpy as np
import pytest
from PIL import Image

from serve_app.demo.render import render
from serve_app.demo.sample import SAMPLE
from serve_app.demo.scenes import COLOURS, gap, sample, split_of
from serve_app.demo.shapes import SHAPES, outline

KINDS = {"single": {1}, "pair": {2}, "count": {2, 3}, "triple": {3}, "crowd": set(range(1, 7))}


def test_the_world_is_rich_enough():
    assert {"circle", "square", "triangle"} <= set(SHAPES)
    assert {"red", "green", "blue", "yellow"} <= set(COLOURS)
    assert len(SHAPES) >= 6
    assert len(COLOURS) >= 8
    assert len(SHAPES) * len(COLOURS) >= 64


def test_the_same_place_gives_the_same_scene_and_pixels():
    for index in range(40):
        scene = sample("train", 3, index)
        assert scene == sample("train", 3, index)
        assert np.array_equal(np.asarray(render(scene)), np.asarray(render(scene)))


def test_other_places_and_seeds_give_other_scenes():
    scenes = [sample("train", seed, index) for seed in range(3) for index in range(100)]
    assert len(set(scenes)) == 300


def test_no_scene_is_in_both_splits():
    train = [sample("train", seed, i) for seed in (0, 20_000) for i in range(150)]
    held_out = [sample("eval", seed, i) for seed in (0, 20_000) for i in range(150)]
    assert {split_of(s) for s in train} == {"train"}
    assert {split_of(s) for s in held_out} == {"eval"}
    assert not set(train) & set(held_out)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_things_lie_on_the_canvas_apart_and_stand_out(kind):
    for index in range(60):
        scene = sample("train", 1, index, kind)
        assert len(scene.things) in KINDS[kind]
        assert max(scene.width, scene.height) == 1
        for i, thing in enumerate(scene.things):
            assert thing.radius <= thing.x <= scene.width - thing.radius
            assert thing.radius <= thing.y <= scene.height - thing.radius
            assert all(gap(thing.rgb, ground) > 60 for ground in scene.background)
            for other in scene.things[:i]:
                apart = np.hypot(thing.x - other.x, thing.y - other.y)
                assert apart > thing.radius + other.radius


def test_both_sizes_and_many_canvases_occur():
    scenes = [sample("train", 2, i) for i in range(300)]
    assert {t.size for s in scenes for t in s.things} == {"small", "large", ""}
    assert min(s.width / s.height for s in scenes) < 0.6
    assert max(s.width / s.height for s in scenes) >= 2
    assert any(t.outlined for s in scenes for t in s.things)
    assert any(t.edge for s in scenes for t in s.things)


@pytest.mark.parametrize("shape", SHAPES)
def test_an_outline_reaches_about_one(shape):
    for seed in range(20):
        points = np.array(outline(shape, random.Random(seed)))
        reach = np.abs(points).max()
        assert 0.75 < reach < 1.35


def test_a_drawing_shows_its_colour_where_the_thing_is():
    image = render(SAMPLE, longest=640)
    assert image.size == (640, 480)
    assert image.mode == "RGB"
    for thing in SAMPLE.things:
        assert image.getpixel((round(thing.x * 640), round(thing.y * 640))) == thing.rgb


def test_the_sample_picture_is_the_committed_one(pytestconfig):
    path = pytestconfig.rootpath / "examples" / "red-circle-left-of-blue-square.jpg"
    with Image.open(path) as committed:
        drawn = np.asarray(render(SAMPLE, longest=640), dtype=float)
        # JPEG libraries differ in the last bit; the picture must not.
        assert np.abs(np.asarray(committed, dtype=float) - drawn).mean() < 2
