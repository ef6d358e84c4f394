"""Images with random damage: each is decoded or refused as an item, and memory stays flat."""

from __future__ import annotations

import io
import random

import psutil
import pytest
from PIL import Image, ImageDraw, features

from serve_app.errors import ItemError
from serve_app.inputs.decode import DecodeLimits, decode_image

FORMATS = [
    kind
    for kind, feature in (
        ("PNG", None),
        ("JPEG", "jpg"),
        ("WEBP", "webp"),
        ("GIF", None),
        ("BMP", None),
        ("TIFF", None),
        ("AVIF", "avif"),
    )
    if feature is None or features.check(feature)
]
LIMITS = DecodeLimits(2**20, 1_000_000)
CASES = 1000
ROUNDS = 4


def valid(kind: str) -> bytes:
    image = Image.effect_noise((96, 64), 60).convert("RGB")
    ImageDraw.Draw(image).ellipse((10, 10, 50, 50), fill="red")
    buffer = io.BytesIO()
    image.save(buffer, format=kind)
    return buffer.getvalue()


def mutated(original: bytes, chance: random.Random) -> bytes:
    """One to eight changes: bytes, cuts, insertions, repetitions, large numbers."""
    data = bytearray(original)
    for _ in range(chance.randint(1, 8)):
        # Half of them at the beginning, where sizes and offsets are.
        end = min(len(data), 64) if chance.random() < 0.5 else len(data)
        at = chance.randrange(max(1, end))
        kind = chance.randrange(6)
        if kind == 0:
            data[at : at + 1] = bytes([chance.randrange(256)])
        elif kind == 1:
            del data[at : at + chance.randint(1, 200)]
        elif kind == 2:
            data[at:at] = chance.randbytes(chance.randint(1, 64))
        elif kind == 3:
            data[at : at + 4] = chance.choice(
                (b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\0", b"\x80\0\0\0")
            )
        elif kind == 4:
            data += data[at : at + 500]
        else:
            del data[at:]
    return bytes(data)


def one_round(chance: random.Random, originals: list[bytes], count: int) -> tuple[int, int]:
    decoded = refused = 0
    for _ in range(count):
        try:
            decode_image(mutated(chance.choice(originals), chance), LIMITS)
            decoded += 1
        except ItemError as error:
            assert error.detail
            refused += 1
    return decoded, refused


@pytest.mark.slow
def test_damaged_images_are_decoded_or_refused_and_memory_stays_flat() -> None:
    originals = [valid(kind) for kind in FORMATS]
    chance = random.Random(2026)
    process = psutil.Process()
    decoded, refused = one_round(chance, originals, CASES)
    assert decoded + refused == CASES
    assert min(decoded, refused) > CASES // 20, "the damage is neither nothing nor everything"
    after_first = process.memory_info().rss
    for _ in range(ROUNDS):
        one_round(chance, originals, CASES)
    grown = process.memory_info().rss - after_first
    assert grown < 24 * 2**20, f"{grown / 2**20:.0f} MiB more after {ROUNDS * CASES} images"
