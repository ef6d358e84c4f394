"""Drawings by another hand: plain drawing calls that share no code with the training renderer.

They stand for what a person would draw to try the service out: pure colours on a white canvas of
everyday size, corners at round numbers, no noise. Knows no model.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from PIL import Image, ImageDraw

PURE: Final = {
    "red": "#ff0000",
    "green": "#00aa00",
    "blue": "#0000ff",
    "yellow": "#ffff00",
    "orange": "#ffa500",
    "purple": "#800080",
    "black": "#000000",
}
CANVASES: Final = ((800, 600), (640, 320), (512, 512), (400, 600))
UNRELATED: Final = ("a green triangle", "a yellow star", "a pink heart", "a black cross")


@dataclass(frozen=True, slots=True)
class Drawing:
    """A picture, what is true of it, and what is not.

    `colour_swapped` and `relation_swapped` use the true caption's words in a wrong arrangement.
    """

    image: Image.Image
    true: str
    colour_swapped: str
    relation_swapped: str


def drawings() -> Iterator[Drawing]:
    """Pairs of circles, squares and triangles in pure colours, on every canvas and each way."""
    pairs = (
        (("red", "circle"), ("blue", "square")),
        (("green", "triangle"), ("red", "square")),
        (("yellow", "circle"), ("black", "triangle")),
        (("orange", "square"), ("purple", "circle")),
        (("blue", "triangle"), ("orange", "circle")),
    )
    for size in CANVASES:
        for (colour, shape), (other_colour, other_shape) in pairs:
            for relation, opposite in (
                ("left of", "right of"),
                ("right of", "left of"),
                ("above", "below"),
                ("below", "above"),
            ):
                first, second = f"{colour} {shape}", f"{other_colour} {other_shape}"
                crossed = f"{other_colour} {shape}", f"{colour} {other_shape}"
                yield Drawing(
                    image=draw(size, first, second, relation),
                    true=_caption(first, relation, second),
                    colour_swapped=_caption(crossed[0], relation, crossed[1]),
                    relation_swapped=_caption(first, opposite, second),
                )


def draw(
    size: tuple[int, int], first: str, second: str, relation: str, outline: str | None = None
) -> Image.Image:
    """Draw two things, e.g. "red circle" and "blue square", one `left of` the other.

    Args:
        size: Width and height of the white canvas, in pixels.
        first: A colour of `PURE` and one of circle, square, triangle.
        second: The same for the other thing.
        relation: `left of`, `right of`, `above` or `below`: where the first stands.
        outline: Colour of a line of two pixels around each thing, or None.

    Returns:
        An RGB image.
    """
    width, height = size
    level = relation in ("left of", "right of")
    spots = (
        [(width // 4, height // 2), (3 * width // 4, height // 2)]
        if level
        else [(width // 2, height // 4), (width // 2, 3 * height // 4)]
    )
    if relation in ("right of", "below"):
        spots.reverse()
    reach = min(width // 6 if level else width // 4, height // 4 if level else height // 5)
    image = Image.new("RGB", size, "white")
    canvas = ImageDraw.Draw(image)
    for named, (x, y) in zip((first, second), spots, strict=True):
        colour, shape = named.split()
        fill = PURE[colour]
        if shape == "circle":
            canvas.ellipse((x - reach, y - reach, x + reach, y + reach), fill, outline, 2)
        elif shape == "square":
            canvas.rectangle((x - reach, y - reach, x + reach, y + reach), fill, outline, 2)
        else:
            corners = [(x, y - reach), (x + reach, y + reach), (x - reach, y + reach)]
            canvas.polygon(corners, fill, outline, 2)
    return image


def _caption(first: str, relation: str, second: str) -> str:
    return f"{_with_article(first)} {relation} {_with_article(second)}"


def _with_article(phrase: str) -> str:
    return ("an " if phrase[0] in "aeiou" else "a ") + phrase
