"""What is in a scene and where; knows neither how it is drawn nor how it is described.

A scene is a value: the same (split, seed, index) gives the same scene on every machine. Lengths
are fractions of the canvas's longer side, so that a scene has no resolution of its own.
"""

from __future__ import annotations

import math
import random
import zlib
from dataclasses import dataclass
from typing import Final, Literal

from serve_app.demo.shapes import SHAPES

Colour = tuple[int, int, int]
Split = Literal["train", "eval"]

COLOURS: Final[dict[str, tuple[Colour, ...]]] = {
    # Corners between which a colour's specimens lie: pure, web-named and softer ones.
    "red": ((255, 0, 0), (220, 20, 40), (200, 30, 20), (240, 60, 50)),
    "green": ((0, 255, 0), (0, 128, 0), (40, 170, 60), (60, 200, 90)),
    "blue": ((0, 0, 255), (20, 40, 180), (40, 90, 240), (30, 70, 200)),
    "yellow": ((255, 255, 0), (250, 230, 20), (245, 215, 40), (255, 240, 80)),
    "orange": ((255, 165, 0), (255, 128, 0), (240, 140, 30), (250, 120, 20)),
    "purple": ((128, 0, 128), (140, 30, 200), (110, 40, 160), (150, 60, 190)),
    "pink": ((255, 192, 203), (255, 105, 180), (255, 140, 190), (245, 130, 170)),
    "cyan": ((0, 255, 255), (0, 200, 220), (60, 220, 230), (40, 210, 210)),
    "black": ((0, 0, 0), (25, 25, 25), (10, 10, 20), (35, 35, 35)),
}
"""Every colour of the demo world, as corners in sRGB 0-255."""

SMALL: Final = (0.12, 0.15)
LARGE: Final = (0.2, 0.28)
"""Radii (fractions of the longer side) that are called small and large; between them, neither."""

_EVAL_SHARE: Final = 8
_CROWD: Final = 6
_ASPECTS: Final = (1.0, 1.0, 1.0, 4 / 3, 4 / 3, 3 / 2, 16 / 9, 2.0, 3 / 4, 2 / 3, 9 / 16)


@dataclass(frozen=True, slots=True)
class Thing:
    """One drawn object: `x`, `y` its centre, `radius` its reach, in longer sides of the canvas."""

    shape: str
    colour: str
    rgb: Colour
    x: float
    y: float
    radius: float
    outlined: bool
    edge: Colour | None
    seed: int

    @property
    def size(self) -> str:
        """`"small"`, `"large"`, or empty where nobody would say either."""
        if self.radius <= SMALL[1]:
            return "small"
        return "large" if self.radius >= LARGE[0] else ""


@dataclass(frozen=True, slots=True)
class Scene:
    """Things on a canvas of `width` x `height` (the longer is 1) before a background.

    `background` holds two colours, top and bottom; they are equal where it is flat. `seed` feeds
    the drawing (noise, compression), never the content.
    """

    things: tuple[Thing, ...]
    width: float
    height: float
    background: tuple[Colour, Colour]
    seed: int


def sample(split: Split, seed: int, index: int, kind: str | None = None) -> Scene:
    """The scene at one place of an endless, reproducible sequence.

    No scene of the `eval` split can ever be in the `train` split, whatever the seeds: a checksum
    over the whole scene says to which of the two it belongs, and the other one refuses it.

    Args:
        split: `train` (7 of 8 scenes) or `eval`.
        seed: Which sequence.
        index: The place in it, from 0.
        kind: `single`, `pair`, `count` or `triple`; a mixture of them if left out. `crowd` has as
            many things as find room, at most six: it has no caption, and many shapes to look at.

    Returns:
        The scene.
    """
    rng = random.Random(f"{split}/{seed}/{index}/{kind}")
    while True:
        scene = _draw(rng, kind)
        if split_of(scene) == split:
            return scene


def split_of(scene: Scene) -> Split:
    """To which split a scene belongs, by its content alone."""
    return "eval" if zlib.crc32(repr(scene).encode()) % _EVAL_SHARE == 0 else "train"


def gap(a: Colour, b: Colour) -> float:
    """How far two colours lie apart in sRGB, 0 to 442."""
    return math.dist(a, b)


def shade(colour: str, rng: random.Random) -> Colour:
    """One specimen of a named colour: often a pure corner, else somewhere between two."""
    corners = COLOURS[colour]
    if rng.random() < 0.25:
        return corners[0]
    a, b = rng.choice(corners), rng.choice(corners)
    t = rng.random()
    mixed = [round(p + t * (q - p) + rng.uniform(-8, 8)) for p, q in zip(a, b, strict=True)]
    red, green, blue = (min(255, max(0, v)) for v in mixed)
    return (red, green, blue)


def _draw(rng: random.Random, kind: str | None) -> Scene:
    kind = kind or rng.choices(("single", "pair", "count", "triple"), (32, 46, 10, 12))[0]
    while True:
        aspect = rng.choice(_ASPECTS)
        width, height = (1.0, 1 / aspect) if aspect >= 1 else (aspect, 1.0)
        spots = _spots(rng, kind, width, height)
        if spots is not None:
            break
    named = _names(rng, kind, len(spots))
    shades = {name: shade(name, rng) for _, name in named}
    background = _background(rng, list(shades.values()))
    style = rng.random()
    things = []
    for (shape, colour), (x, y, radius) in zip(named, spots, strict=True):
        # Thinner than two pixels of the model's, a red outline on white is pink: small things are
        # always filled.
        outlined = radius > SMALL[1] and style < 0.3 and rng.random() < 0.5
        edged = not outlined and style > 0.8
        things.append(
            Thing(
                shape=shape,
                colour=colour,
                rgb=shades[colour],
                x=round(x, 4),
                y=round(y, 4),
                radius=round(radius, 4),
                outlined=outlined,
                edge=_edge(rng) if edged else None,
                seed=rng.getrandbits(32),
            )
        )
    return Scene(tuple(things), round(width, 4), round(height, 4), background, rng.getrandbits(32))


def _names(rng: random.Random, kind: str, count: int) -> list[tuple[str, str]]:
    shapes, colours = list(SHAPES), list(COLOURS)
    if kind == "crowd":
        return [(rng.choice(shapes), rng.choice(colours)) for _ in range(count)]
    if kind == "count":
        return [(rng.choice(shapes), rng.choice(colours))] * count
    while True:
        named = [(rng.choice(shapes), rng.choice(colours)) for _ in range(count)]
        if len(set(named)) == count:
            return named


def _spots(
    rng: random.Random, kind: str, width: float, height: float
) -> list[tuple[float, float, float]] | None:
    """Centres and radii of things that stay on the canvas and apart, or None if none was found."""
    if kind == "crowd":
        return _crowd(rng, width, height)
    count = {"single": 1, "pair": 2, "triple": 3}.get(kind) or rng.choice((2, 2, 3))
    across = rng.random() < 0.5
    for _ in range(20):
        spots: list[tuple[float, float, float]] = []
        for _ in range(count):
            radius = _radius(rng, count)
            pad = radius * 1.08 + 0.01
            if pad > min(width, height) / 2:
                break
            x, y = rng.uniform(pad, width - pad), rng.uniform(pad, height - pad)
            if any(math.dist((x, y), s[:2]) < 1.12 * (radius + s[2]) for s in spots):
                break
            spots.append((x, y, radius))
        if len(spots) < count:
            continue
        if kind == "pair":
            dx, dy = abs(spots[0][0] - spots[1][0]), abs(spots[0][1] - spots[1][1])
            # A pair stands clearly side by side or clearly one above the other.
            if (dy > 0.6 * dx) if across else (dx > 0.6 * dy):
                continue
        return spots
    return None


def _crowd(
    rng: random.Random, width: float, height: float
) -> list[tuple[float, float, float]] | None:
    spots: list[tuple[float, float, float]] = []
    for _ in range(40):
        radius = rng.uniform(SMALL[0], LARGE[0])
        pad = radius * 1.08 + 0.01
        if pad > min(width, height) / 2:
            continue
        x, y = rng.uniform(pad, width - pad), rng.uniform(pad, height - pad)
        if all(math.dist((x, y), s[:2]) >= 1.12 * (radius + s[2]) for s in spots):
            spots.append((x, y, radius))
        if len(spots) == _CROWD:
            break
    return spots or None


def _radius(rng: random.Random, count: int) -> float:
    small, large = (0.3, 0.4) if count < 3 else (0.5, 0.1)
    draw = rng.random()
    if draw < small:
        return rng.uniform(*SMALL)
    if draw < small + large:
        return rng.uniform(LARGE[0], LARGE[1] if count < 2 else 0.23)
    return rng.uniform(SMALL[1], LARGE[0])


def _background(rng: random.Random, shades: list[Colour]) -> tuple[Colour, Colour]:
    """A ground that everything stands out from; white ever more often where that is hard."""
    for attempt in range(12):
        draw = rng.random()
        if draw < 0.45 or attempt == 11:
            grounds = ((255, 255, 255), (255, 255, 255))
        elif draw < 0.75:
            flat = _grey(rng, 200, 255, 25)
            grounds = (flat, flat)
        elif draw < 0.88:
            flat = _grey(rng, 20, 200, 20)
            grounds = (flat, flat)
        else:
            grounds = (_grey(rng, 150, 255, 30), _grey(rng, 190, 255, 30))
        if all(gap(s, g) > (75 if draw < 0.45 else 110) for s in shades for g in grounds):
            break
    return grounds


def _grey(rng: random.Random, low: int, high: int, tint: int) -> Colour:
    level = rng.randint(low, high)
    red, green, blue = (min(255, max(0, level + rng.randint(-tint, tint))) for _ in range(3))
    return (red, green, blue)


def _edge(rng: random.Random) -> Colour:
    level = rng.choice((0, 0, rng.randint(0, 90)))
    return (level, level, level)
