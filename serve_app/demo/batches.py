"""Batches for training: pictures, what lies where in them, captions, and which are no negatives.

Scenes are drawn as they are needed and never used twice: drawing costs a tenth of a step, and
endless data leaves nothing to memorise. Knows no model and no loss.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from serve_app.demo import captions, network, scenes, wording
from serve_app.demo.captions import Caption
from serve_app.demo.lessons import UNCLEAR, Content, Pictures
from serve_app.demo.render import render
from serve_app.demo.scenes import COLOURS, Scene, Thing
from serve_app.demo.shapes import SHAPES
from serve_app.demo.wording import Claim, Phrase

Named = Thing | Phrase
"""What has a shape and a colour."""

_SIDES = ("left", "right", "above", "below")
_CLEAR = 0.06
"""So much further out, in longer sides of the canvas, is clear."""

_COLOUR_PLACES = {colour: place for place, colour in enumerate(COLOURS)}
_WORDS = {word: i for i, word in enumerate([*COLOURS, *SHAPES])}


@dataclass(frozen=True, slots=True)
class Batch:
    """One step's data.

    `pictures` are n; `tokens` is `int64` of shape (n + m, context), the n true captions in the
    pictures' order, then m swapped ones; `ignored` is `bool` of shape (n, n + m), true where a
    caption must not count as a negative; `shown` is the pictures' content, `claimed` the captions'.
    """

    pictures: Pictures
    tokens: torch.Tensor
    ignored: torch.Tensor
    shown: Content
    claimed: Content


class BatchMaker:
    """Makes the batches of one training run; the same arguments give the same batches.

    Args:
        tokenizer: open_clip's tokenizer.
        size: Pictures in a batch.
        seed: Which sequence of scenes and wordings.
        swapped: Add each scene's swapped captions as negatives, and let every false caption
            count. Without it a caption counts as a negative only if it has a colour or a shape
            that the picture lacks, so that nothing in the batch teaches what belongs to what.
    """

    def __init__(self, tokenizer: Any, size: int, seed: int, swapped: bool) -> None:
        self._tokenizer = tokenizer
        self._size = size
        self._seed = seed
        self._swapped = swapped

    def captions(self, step: int, size: int) -> tuple[torch.Tensor, Content]:
        """Captions without pictures, true and swapped ones: their tokens and what they claim.

        Args:
            step: The step, from 0.
            size: How many; at least that, and few more.
        """
        rng = random.Random(f"read/{self._seed}/{step}")
        said: list[Caption] = []
        while len(said) < size:
            scene = scenes.sample("train", self._seed, rng.getrandbits(32))
            claim = captions.describe(scene, rng).claim
            said += [
                Caption(c, wording.paraphrase(c, rng))
                for c in (claim, *_hardest(claim, scene, rng))
            ]
        tokens = self._tokenizer([caption.text for caption in said])
        return tokens, content_of_claims([caption.claim for caption in said])

    def batch(self, step: int) -> Batch:
        """The batch of one step, from 0."""
        rng = random.Random(f"words/{self._seed}/{step}")
        first = step * self._size
        drawn = [scenes.sample("train", self._seed, first + i) for i in range(self._size)]
        said = [captions.describe(scene, rng) for scene in drawn]
        if self._swapped:
            said = []
            twins: list[Caption] = []
            for scene in drawn:
                claim = captions.describe(scene, rng).claim
                wording_seed = rng.getrandbits(32)
                said.append(_word(claim, wording_seed))
                # The twin gets the same wording, so that only its meaning can give it away.
                twins += [_word(t, wording_seed) for t in _hardest(claim, scene, rng)]
            said += twins
        claims = [caption.claim for caption in said]
        return Batch(
            pictures=_pictures(drawn),
            tokens=self._tokenizer([caption.text for caption in said]),
            ignored=torch.from_numpy(_ignored(claims, drawn, self._swapped)),
            shown=content_of_scenes(drawn),
            claimed=content_of_claims(claims),
        )


def crowds(seed: int, step: int, size: int) -> Pictures:
    """Pictures full of things, to learn to see from; the same arguments give the same pictures."""
    first = step * size
    return _pictures([scenes.sample("train", seed, first + i, "crowd") for i in range(size)])


def _pictures(drawn: list[Scene]) -> Pictures:
    fit = network.preprocessing().transforms[:-2]
    pixels = []
    for scene in drawn:
        image = render(scene)
        for step in fit:
            image = step(image)
        pixels.append(np.asarray(image).transpose(2, 0, 1))
    shown = torch.from_numpy(np.stack([shown_in(scene) for scene in drawn]))
    return Pictures(torch.from_numpy(np.stack(pixels)), shown[:, 0], shown[:, 1])


def shown_in(scene: Scene) -> np.ndarray[Any, np.dtype[np.int64]]:
    """The shape and the colour in each cell, of shape (2, cells)."""
    centres = (np.arange(network.GRID) + 0.5) / network.GRID
    # The preprocessing puts the canvas into the middle of a square.
    x = centres[None, :] - (1 - scene.width) / 2
    y = centres[:, None] - (1 - scene.height) / 2
    shown = np.zeros((2, network.GRID, network.GRID), dtype=np.int64)
    for thing in scene.things:
        # A little less than its reach: a star's or a cross's corners are background.
        shown[:, np.hypot(x - thing.x, y - thing.y) < 0.9 * thing.radius] = [
            [1 + SHAPES.index(thing.shape)],
            [1 + _COLOUR_PLACES[thing.colour]],
        ]
    return shown.reshape(2, -1)


def _shown_sides(scene: Scene) -> list[Named | None]:
    """What is furthest left, right, up and down, where one thing clearly is."""
    ways: tuple[Callable[[Thing], float], ...] = (
        lambda thing: thing.x,
        lambda thing: -thing.x,
        lambda thing: thing.y,
        lambda thing: -thing.y,
    )
    sides: list[Named | None] = []
    for way in ways:
        first, *others = sorted(scene.things, key=way)
        clear = not others or way(others[0]) - way(first) > _CLEAR
        sides.append(first if clear else None)
    return sides


def content_of_scenes(drawn: list[Scene]) -> Content:
    """What pictures of these scenes show."""
    return _content([_shown_sides(scene) for scene in drawn], [s.things for s in drawn])


def content_of_claims(claims: list[Claim]) -> Content:
    """What captions with these claims say."""
    sides: list[list[Named | None]] = []
    for claim in claims:
        row: list[Named | None] = [None] * 4
        if claim.relation is not None:
            row[_SIDES.index(claim.relation)] = claim.phrases[0]
            row[_SIDES.index(captions.OPPOSITE[claim.relation])] = claim.phrases[1]
        sides.append(row)
    return _content(sides, [claim.phrases for claim in claims])


def _content(sides: list[list[Named | None]], named: Sequence[Sequence[Named]]) -> Content:
    places = np.full((len(sides), 4, 2), UNCLEAR, dtype=np.int64)
    for row, things in zip(places, sides, strict=True):
        for place, thing in zip(row, things, strict=True):
            if thing is not None and thing.shape is not None:
                place[0] = SHAPES.index(thing.shape)
            if thing is not None and thing.colour is not None:
                place[1] = _COLOUR_PLACES[thing.colour]
    there = np.zeros((len(sides), len(SHAPES) * len(COLOURS)), dtype=np.float32)
    for flags, together in zip(there, named, strict=True):
        for one in together:
            if one.shape is not None and one.colour is not None:
                flags[SHAPES.index(one.shape) * len(COLOURS) + _COLOUR_PLACES[one.colour]] = 1
    return Content(torch.from_numpy(places), torch.from_numpy(there))


def _word(claim: Claim, seed: int) -> Caption:
    return Caption(claim, wording.paraphrase(claim, random.Random(seed)))


def _hardest(claim: Claim, scene: Scene, rng: random.Random) -> list[Claim]:
    """At most two twins; colours and relations before sizes and counts."""
    twins = captions.swaps(claim, scene)
    chosen = [twins[kind] for kind in ("colour", "relation") if kind in twins]
    others = [twins[kind] for kind in ("size", "count") if kind in twins]
    if len(chosen) < 2 and others and rng.random() < 0.5:
        chosen.append(rng.choice(others))
    return chosen


def _ignored(
    claims: list[Claim], drawn: list[Scene], exact: bool
) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Which captions are no negatives: the true ones, or all that have only the picture's words."""
    held = _bags([[w for t in s.things for w in (t.colour, t.shape)] for s in drawn])
    needed = _bags([[w for p in c.phrases for w in (p.colour, p.shape) if w] for c in claims])
    # A caption whose words the picture has not can't be true of it: that decides most cases.
    candidates: np.ndarray[Any, np.dtype[np.bool_]] = (1 - held) @ needed.T == 0
    if exact:
        for i, j in zip(*np.nonzero(candidates), strict=True):
            candidates[i, j] = captions.is_true(claims[j], drawn[i])
    candidates[np.arange(len(drawn)), np.arange(len(drawn))] = False
    return candidates


def _bags(words: list[list[str]]) -> np.ndarray[Any, np.dtype[np.float32]]:
    bags = np.zeros((len(words), len(_WORDS)), dtype=np.float32)
    for row, listed in zip(bags, words, strict=True):
        row[[_WORDS[w] for w in listed]] = 1
    return bags
