"""Batches for training: pictures, captions, and which captions are no fair negatives.

Scenes are drawn as they are needed and never used twice: drawing costs a tenth of a step, and
endless data leaves nothing to memorise. Knows no model and no loss.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from serve_app.demo import captions, network, scenes, wording
from serve_app.demo.captions import Caption
from serve_app.demo.render import render
from serve_app.demo.scenes import COLOURS, Scene
from serve_app.demo.shapes import SHAPES
from serve_app.demo.wording import Claim

_WORDS = {word: i for i, word in enumerate([*COLOURS, *SHAPES])}


@dataclass(frozen=True, slots=True)
class Batch:
    """One step's data.

    `pixels` is `uint8` of shape (n, 3, size, size), 0-255; `tokens` is `int64` of shape
    (n + m, context), the n true captions in the pictures' order, then m swapped ones; `ignored`
    is `bool` of shape (n, n + m), true where a caption must not count as a negative.
    """

    pixels: torch.Tensor
    tokens: torch.Tensor
    ignored: torch.Tensor


class BatchMaker:
    """Makes the batches of one training run; the same arguments give the same batches.

    Args:
        tokenizer: open_clip's tokenizer.
        size: Pictures in a batch.
        seed: Which sequence of scenes and wordings.
        swapped: Add each scene's swapped captions as negatives, and let every false caption
            count. Without it a caption counts as a negative only if it has a colour or a shape
            that the picture lacks, so that nothing in the batch teaches what belongs to what.
        single_steps: So many steps at the beginning have scenes of one thing only: shapes are
            learnt several times sooner from those.
    """

    def __init__(
        self, tokenizer: Any, size: int, seed: int, swapped: bool, single_steps: int = 0
    ) -> None:
        self._tokenizer = tokenizer
        self._size = size
        self._seed = seed
        self._swapped = swapped
        self._single_steps = single_steps
        self._fit = network.preprocessing().transforms[:-2]

    def batch(self, step: int) -> Batch:
        """The batch of one step, from 0."""
        rng = random.Random(f"words/{self._seed}/{step}")
        first = step * self._size
        kind = "single" if step < self._single_steps else None
        drawn = [scenes.sample("train", self._seed, first + i, kind) for i in range(self._size)]
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
            pixels=torch.from_numpy(np.stack([self._pixels(scene) for scene in drawn])),
            tokens=self._tokenizer([caption.text for caption in said]),
            ignored=torch.from_numpy(_ignored(claims, drawn, self._swapped)),
        )

    def _pixels(self, scene: Scene) -> np.ndarray[Any, np.dtype[np.uint8]]:
        image = render(scene)
        for step in self._fit:
            image = step(image)
        return np.asarray(image).transpose(2, 0, 1)


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
