"""Scenes as pixels; knows nothing of captions or models.

The drawing is varied on purpose (resolution, smoothing, noise, compression), so that a model
trained on it also reads pictures made by any other program.
"""

from __future__ import annotations

import io
import random
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw

from serve_app.demo.scenes import Colour, Scene, Thing
from serve_app.demo.shapes import Point, outline


def render(scene: Scene, longest: int | None = None) -> Image.Image:
    """Draw a scene.

    Args:
        scene: What to draw.
        longest: The longer side of a clean, smoothed picture, in pixels. If left out, the scene's
            own seed chooses a resolution of 72 to 176 and whether there is smoothing, noise and
            JPEG compression.

    Returns:
        An RGB image; the same scene always gives the same pixels.
    """
    rng = random.Random(scene.seed)
    if longest is not None:
        return _draw(scene, longest, 4)
    smooth = rng.random() < 0.6
    image = _draw(scene, rng.randint(72, 128 if smooth else 176), 2 if smooth else 1)
    if rng.random() < 0.5:
        image = _with_noise(image, rng)
    if rng.random() < 0.3:
        image = _with_jpeg(image, rng.randint(30, 95))
    return image


def _draw(scene: Scene, longest: int, oversample: int) -> Image.Image:
    scale = longest * oversample
    size = (
        max(1, round(scene.width * longest)) * oversample,
        max(1, round(scene.height * longest)) * oversample,
    )
    top, bottom = scene.background
    image = Image.new("RGB", size, top) if top == bottom else _gradient(size, top, bottom)
    draw = ImageDraw.Draw(image)
    for thing in scene.things:
        _draw_thing(draw, thing, scale)
    return image.reduce(oversample) if oversample > 1 else image


def _draw_thing(draw: ImageDraw.ImageDraw, thing: Thing, scale: float) -> None:
    rng = random.Random(thing.seed)
    points: list[Point] = [
        ((thing.x + thing.radius * x) * scale, (thing.y + thing.radius * y) * scale)
        for x, y in outline(thing.shape, rng)
    ]
    if thing.outlined:
        stroke = max(2, round(rng.uniform(0.22, 0.34) * thing.radius * scale))
        _stroke(draw, points, thing.rgb, stroke)
        return
    draw.polygon(points, fill=thing.rgb)
    if thing.edge is not None:
        _stroke(draw, points, thing.edge, max(1, round(rng.uniform(0.003, 0.012) * scale)))


def _stroke(draw: ImageDraw.ImageDraw, points: list[Point], rgb: Colour, width: int) -> None:
    draw.line([*points, points[0], points[1]], fill=rgb, width=width, joint="curve")


def _gradient(size: tuple[int, int], top: Colour, bottom: Colour) -> Image.Image:
    column = np.linspace(top, bottom, size[1])[:, None, :]
    pixels = np.broadcast_to(column, (size[1], size[0], 3)).round().astype(np.uint8)
    return Image.fromarray(np.ascontiguousarray(pixels))


def _with_noise(image: Image.Image, rng: random.Random) -> Image.Image:
    noise = _noise()
    width, height = image.size
    x, y = rng.randrange(noise.shape[1] - width), rng.randrange(noise.shape[0] - height)
    patch = noise[y : y + height, x : x + width] * np.float32(rng.uniform(1, 14))
    return Image.fromarray(np.clip(np.asarray(image) + patch, 0, 255).astype(np.uint8))


@lru_cache(maxsize=1)
def _noise() -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    # One sheet of noise, cut at random places: drawing fresh noise would cost most of the time.
    return np.random.default_rng(0).standard_normal((320, 320, 3), dtype=np.float32)


def _with_jpeg(image: Image.Image, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    buffer.seek(0)
    return Image.open(buffer).convert("RGB")
