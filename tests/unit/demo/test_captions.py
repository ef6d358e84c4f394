"""Captions: every one describes its scene, and every swap makes it false."""

import random
from dataclasses import replace

import pytest

from serve_app.demo import captions, wording
from serve_app.demo.scenes import COLOURS, Scene, Thing, sample
from serve_app.demo.wording import Claim, Phrase


def thing(shape, colour, x, y, radius=0.17):
    return Thing(shape, colour, COLOURS[colour][0], x, y, radius, False, None, 0)


def scene(*things):
    return Scene(things, 1.0, 1.0, ((255, 255, 255), (255, 255, 255)), 0)


RED_CIRCLE = Phrase("circle", "red")
BLUE_SQUARE = Phrase("square", "blue")
PAIR = scene(thing("circle", "red", 0.2, 0.5), thing("square", "blue", 0.8, 0.5))


@pytest.mark.parametrize(
    ("claim", "text"),
    [
        (Claim((RED_CIRCLE,)), "a red circle"),
        (Claim((RED_CIRCLE, BLUE_SQUARE), "left"), "a red circle left of a blue square"),
        (Claim((replace(RED_CIRCLE, count=2),)), "two red circles"),
        (
            Claim((Phrase("star", "green", "small"), Phrase("triangle", "blue", "large")), "above"),
            "a small green star above a large blue triangle",
        ),
        (Claim((Phrase("cross", "orange"),)), "an orange cross"),
        (Claim((RED_CIRCLE, BLUE_SQUARE)), "a red circle and a blue square"),
        (Claim((Phrase(None, "red"),)), "a red shape"),
    ],
)
def test_plain_wording(claim, text):
    assert wording.say(claim) == text


@pytest.mark.parametrize(
    ("claim", "truth"),
    [
        (Claim((RED_CIRCLE,)), True),
        (Claim((Phrase("circle", "blue"),)), False),
        (Claim((RED_CIRCLE, BLUE_SQUARE), "left"), True),
        (Claim((RED_CIRCLE, BLUE_SQUARE), "right"), False),
        (Claim((BLUE_SQUARE, RED_CIRCLE), "right"), True),
        (Claim((Phrase("square", "red"), Phrase("circle", "blue")), "left"), False),
        (Claim((replace(RED_CIRCLE, count=2),)), False),
        (Claim((Phrase(None, None, count=2),)), True),
        (Claim((replace(RED_CIRCLE, size="small"),)), False),
    ],
)
def test_truth(claim, truth):
    assert captions.is_true(claim, PAIR) is truth


def test_every_caption_describes_its_scene_and_its_twins_do_not():
    rng = random.Random(0)
    seen = set()
    for index in range(1500):
        drawn = sample("train", 0, index)
        for plain in (False, True):
            caption = captions.describe(drawn, rng, plain)
            assert captions.is_true(caption.claim, drawn), caption.text
            for kind, twin in captions.swaps(caption.claim, drawn).items():
                seen.add(kind)
                assert not captions.is_true(twin, drawn), (caption.text, wording.say(twin))
    assert seen == {"colour", "relation", "size", "count"}


def test_swaps_swap():
    twins = captions.swaps(Claim((RED_CIRCLE, BLUE_SQUARE), "left"), PAIR)
    assert {kind: wording.say(twin) for kind, twin in twins.items()} == {
        "colour": "a blue circle left of a red square",
        "relation": "a red circle right of a blue square",
    }
    single = captions.swaps(Claim((RED_CIRCLE,)), PAIR)
    assert wording.say(single["colour"]) == "a blue circle"
    assert captions.swap_relation(Claim((RED_CIRCLE, BLUE_SQUARE), "above")) == Claim(
        (RED_CIRCLE, BLUE_SQUARE), "below"
    )


def test_a_swap_that_changes_nothing_is_no_swap():
    same_colour = Claim((RED_CIRCLE, Phrase("square", "red")))
    assert captions.swap_colours(same_colour) is None
    same_shape = scene(thing("circle", "red", 0.2, 0.5), thing("circle", "blue", 0.8, 0.5))
    assert "colour" not in captions.swaps(Claim((RED_CIRCLE, Phrase("circle", "blue"))), same_shape)


def test_the_grammar_has_the_wordings_that_people_use():
    rng = random.Random(0)
    claim = Claim((RED_CIRCLE, BLUE_SQUARE), "left")
    texts = {wording.paraphrase(claim, rng) for _ in range(4000)}
    assert "a red circle left of a blue square" in texts
    assert "a red circle to the left of a blue square" in texts
    assert "a photo depicts a red circle left of a blue square" in texts
    assert "a red circle is to the left of a blue square" in texts
