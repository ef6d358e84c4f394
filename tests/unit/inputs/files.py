"""Image files for the tests, made with Pillow or by hand."""

import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image


def save(image: Image.Image, image_format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def picture(width: int = 40, height: int = 24) -> Image.Image:
    """A smooth picture whose corners all differ: red left, green right, more blue below."""
    across, down = np.linspace(0, 1, width), np.linspace(0, 1, height)
    pixels = np.zeros((height, width, 3))
    pixels[..., 0] = 230 * (1 - across)
    pixels[..., 1] = 230 * across
    pixels[..., 2] = (230 * down)[:, None]
    return Image.fromarray(pixels.astype(np.uint8))


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png(
    width: int,
    height: int,
    rows: bytes,
    bit_depth: int = 8,
    colour: int = 2,
    before: bytes = b"",
) -> bytes:
    """A PNG by hand; `rows` are its raw scan lines, each with its filter byte."""
    header = struct.pack(">IIBBBBB", width, height, bit_depth, colour, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + before
        + chunk(b"IDAT", zlib.compress(rows, 9))
        + chunk(b"IEND", b"")
    )


def exif(orientation: int, order: str = "<", entries: int = 1) -> bytes:
    """A minimal EXIF block; more `entries` than the one there is make it a broken one."""
    mark = b"II" if order == "<" else b"MM"
    head = mark + struct.pack(f"{order}HI", 42, 8)
    entry = struct.pack(f"{order}HHIHH", 0x0112, 3, 1, orientation, 0)
    return b"Exif\0\0" + head + struct.pack(f"{order}H", entries) + entry + b"\0" * 4
