"""The requests that are measured with: made from a seed and an index, no two of them alike.

Knows nothing of how a request is sent.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from PIL import Image

WIDTH, HEIGHT = 640, 480
TEXTS_PER_REQUEST = 4

_QUALITY = 90
_PICTURES = 12
_PATCH = 96
# Strength of noise by the size of its grain in pixels, coarse to fine: falls as in photographs,
# and gives files of 50 to 100 KB.
_OCTAVES = ((160, 1.0), (64, 0.6), (24, 0.35), (8, 0.2), (3, 0.11))
_GRAIN = 2.2
_WORDS = tuple(
    """
    amber autumn balcony basket beach bicycle bird black blue boat bridge bright brown cat chair
    child city cloud coat coffee crowd dark dog door evening fence field flower forest garden
    glass grass green grey harbour hat hill horse house kitchen lake lamp light market morning
    mountain old orange painted people purple quiet red river road shadow small street sunny
    table train tree water white window winter wooden yellow
    """.split()  # noqa: SIM905  # one literal per word would be a page
)
# The last words of a text are its number, in base `len(_WORDS)`: this is what makes texts differ.
_NUMBER_WORDS = 4
_NUMBERS = len(_WORDS) ** _NUMBER_WORDS


@dataclass(frozen=True, slots=True)
class BenchRequest:
    """One image (an encoded JPEG) and the texts it is scored against."""

    image: bytes
    texts: tuple[str, ...]


class Workload:
    """Requests by index; equal seeds and indexes give equal requests.

    Args:
        seed: Anything at least 0.
    """

    def __init__(self, seed: int = 0) -> None:
        self._seed = seed

    def requests(self, start: int, count: int) -> list[BenchRequest]:
        """The requests `start` to `start + count - 1`."""
        return [self.request(index) for index in range(start, start + count)]

    def request(self, index: int) -> BenchRequest:
        """One request; its pixels, its bytes and its texts occur at no other index.

        Args:
            index: From 0; texts repeat after millions.
        """
        random = np.random.default_rng((self._seed, 1, index))
        return BenchRequest(self._image(random), self._texts(random, index))

    def _image(self, random: np.random.Generator) -> bytes:
        picture = self._pictures[int(random.integers(_PICTURES))]
        shift = (int(random.integers(HEIGHT)), int(random.integers(WIDTH)))
        pixels = np.roll(picture, shift, axis=(0, 1))
        row, column = int(random.integers(HEIGHT - _PATCH)), int(random.integers(WIDTH - _PATCH))
        patch = Image.fromarray(random.integers(0, 256, (12, 12, 3), dtype=np.uint8))
        patch = patch.resize((_PATCH, _PATCH), Image.Resampling.BICUBIC)
        pixels[row : row + _PATCH, column : column + _PATCH] = np.asarray(patch)
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, format="JPEG", quality=_QUALITY)
        return buffer.getvalue()

    def _texts(self, random: np.random.Generator, index: int) -> tuple[str, ...]:
        texts = []
        for position in range(TEXTS_PER_REQUEST):
            # A multiplier prime to the modulus spreads neighbours, and lets no two meet.
            number = ((index * TEXTS_PER_REQUEST + position) * 7_368_787 + 4_000_037) % _NUMBERS
            length = int(random.integers(5, 13)) - _NUMBER_WORDS
            words = [_WORDS[int(word)] for word in random.integers(len(_WORDS), size=length)]
            for _ in range(_NUMBER_WORDS):
                number, word = divmod(number, len(_WORDS))
                words.append(_WORDS[word])
            texts.append(" ".join(words))
        return tuple(texts)

    @cached_property
    def _pictures(self) -> list[NDArray[np.uint8]]:
        return [
            _picture(np.random.default_rng((self._seed, 0, number))) for number in range(_PICTURES)
        ]


def _picture(random: np.random.Generator) -> NDArray[np.uint8]:
    """Smoothed noise of several grains, the three channels alike but for a little colour."""
    total = np.zeros((HEIGHT, WIDTH, 3), np.float32)
    for grain, strength in _OCTAVES:
        rows, columns = HEIGHT // grain + 2, WIDTH // grain + 2
        grey = random.normal(size=(rows, columns, 1))
        coarse = (grey + 0.35 * random.normal(size=(rows, columns, 3))).astype(np.float32)
        for channel in range(3):
            layer = Image.fromarray(np.ascontiguousarray(coarse[..., channel]))
            layer = layer.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
            total[..., channel] += strength * np.asarray(layer)
    pixels = 127 + 45 * total + _GRAIN * random.normal(size=(HEIGHT, WIDTH, 1))
    return np.clip(pixels, 0, 255).astype(np.uint8)
