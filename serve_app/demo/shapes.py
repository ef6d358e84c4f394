"""Outlines: what a circle, a star or a heart is as a polygon; knows no colour and no canvas.

An outline is a list of (x, y) points about the origin, y pointing down, reaching to about 1.
"""

from __future__ import annotations

import math
import random
from typing import Final

Point = tuple[float, float]

SHAPES: Final = (
    "circle",
    "square",
    "triangle",
    "star",
    "cross",
    "heart",
    "diamond",
    "crescent",
)
"""Every shape of the demo world, in the order that evaluation tables use."""

_ROUND = 40


def outline(shape: str, rng: random.Random) -> list[Point]:
    """Draw one specimen of a shape: proportions vary a little, as between drawing programs.

    Args:
        shape: One of `SHAPES`.
        rng: The source of the variation.

    Returns:
        The polygon's points, in order; the last is joined to the first.
    """
    vary = rng.random()
    points = _OUTLINES[shape](vary)
    if shape == "triangle" and rng.random() < 0.1:
        points = [(x, -y) for x, y in points]
    turn = math.radians(rng.uniform(-9, 9)) if rng.random() < 0.6 else 0.0
    # A square may not be stretched far, or it stops being one.
    widen = rng.uniform(0.9, 1.1) if rng.random() < 0.5 else 1.0
    cos, sin = math.cos(turn), math.sin(turn)
    return [(widen * (x * cos - y * sin), (x * sin + y * cos) / widen) for x, y in points]


def _circle(vary: float) -> list[Point]:
    return [_polar(i / _ROUND, 0.96 + 0.04 * vary) for i in range(_ROUND)]


def _square(vary: float) -> list[Point]:
    half = 0.8 + 0.15 * vary
    return [(-half, -half), (half, -half), (half, half), (-half, half)]


def _triangle(vary: float) -> list[Point]:
    half = 0.82 + 0.18 * vary
    # Half of them equilateral-like, half the "box" triangle that plain drawing code makes.
    top, bottom = (-0.95, 0.75) if vary < 0.5 else (-0.95, 0.95)
    return [(0.0, top), (half, bottom), (-half, bottom)]


def _star(vary: float) -> list[Point]:
    inner = 0.36 + 0.12 * vary
    return [_polar(i / 10 - 0.25, 1.0 if i % 2 == 0 else inner) for i in range(10)]


def _cross(vary: float) -> list[Point]:
    arm = 0.22 + 0.14 * vary
    end = 0.95
    quarter = [(-arm, -end), (arm, -end), (arm, -arm)]
    points: list[Point] = []
    for _ in range(4):
        points += quarter
        quarter = [(-y, x) for x, y in quarter]
    return points


def _heart(vary: float) -> list[Point]:
    points = []
    for i in range(_ROUND):
        t = 2 * math.pi * i / _ROUND
        x = math.sin(t) ** 3
        y = 13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)
        points.append((x, -y / 16 - 0.1 + 0.06 * vary))
    return points


def _diamond(vary: float) -> list[Point]:
    half = 0.62 + 0.2 * vary
    return [(0.0, -1.0), (half, 0.0), (0.0, 1.0), (-half, 0.0)]


def _crescent(vary: float) -> list[Point]:
    # A disc less a smaller one that lies to the right of it: two arcs between the same two tips.
    tip = 0.13 + 0.02 * vary
    outer = [_polar(tip + i / _ROUND * (1 - 2 * tip), 1.0) for i in range(_ROUND + 1)]
    top, bottom = outer[-1], outer[0]
    centre = top[0] + 0.1
    radius = math.hypot(top[0] - centre, top[1])
    opening = math.atan2(bottom[1], bottom[0] - centre)
    turn = 2 * math.pi - 2 * opening
    inner = [_polar_rad(-opening - turn * i / _ROUND, radius) for i in range(1, _ROUND)]
    return [(x + 0.15, y) for x, y in outer + [(centre + x, y) for x, y in inner]]


def _polar(turn: float, radius: float) -> Point:
    return _polar_rad(2 * math.pi * turn, radius)


def _polar_rad(angle: float, radius: float) -> Point:
    return (radius * math.cos(angle), radius * math.sin(angle))


_OUTLINES: Final = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "cross": _cross,
    "heart": _heart,
    "diamond": _diamond,
    "crescent": _crescent,
}
