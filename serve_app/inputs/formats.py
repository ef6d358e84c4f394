"""The file formats of images: which one bytes are in, and which are taken; decodes nothing."""

from __future__ import annotations

import string
from typing import Literal

from serve_app.errors import ImageFormatError

ImageFormat = Literal["JPEG", "PNG", "WebP", "GIF", "AVIF", "BMP"]

SUPPORTED = "JPEG, PNG, WebP, GIF, AVIF, BMP"

_MAGIC: tuple[tuple[bytes, ImageFormat], ...] = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
)
_BMP_HEADER_SIZES = {12, 40, 52, 56, 64, 108, 124}

_REFUSED_MAGIC: tuple[tuple[bytes, str], ...] = (
    (b"%PDF", "a PDF document"),
    (b"II*\0", "a TIFF image"),
    (b"MM\0*", "a TIFF image"),
    (b"II+\0", "a TIFF image"),
    (b"MM\0+", "a TIFF image"),
    (b"\xff\x0a", "a JPEG XL image"),
    (b"\0\0\0\x0cJXL ", "a JPEG XL image"),
    (b"\0\0\0\x0cjP  ", "a JPEG 2000 image"),
    (b"\xff\x4f\xff\x51", "a JPEG 2000 image"),
    (b"\0\0\x01\0", "an icon (ICO)"),
    (b"8BPS", "a Photoshop document"),
    (b"qoif", "a QOI image"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"\x1aE\xdf\xa3", "a Matroska or WebM video"),
)
_TEXT_BYTES = frozenset(string.printable.encode())


def detect(data: bytes) -> ImageFormat | None:
    """The supported format that the first bytes announce; None for anything else."""
    for magic, name in _MAGIC:
        if data.startswith(magic):
            return name
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WebP"
    if data[:2] == b"BM" and int.from_bytes(data[14:18], "little") in _BMP_HEADER_SIZES:
        return "BMP"
    if _brands(data) & {b"avif", b"avis"}:
        return "AVIF"
    return None


def describe(data: bytes) -> str | None:
    """What bytes in no supported format are instead, for a person; None if there is no telling."""
    for magic, name in _REFUSED_MAGIC:
        if data.startswith(magic):
            return name
    if brands := _brands(data):
        is_heif = any(brand[:3] in (b"hei", b"hev", b"mif") for brand in brands)
        return "a HEIC image" if is_heif else "a video"
    head = data[:4096].lstrip(b"\xef\xbb\xbf \t\r\n")
    if head.startswith(b"<"):
        if b"<svg" in head.lower():
            return "an SVG drawing"
        return "an HTML or XML document"
    if head and _TEXT_BYTES.issuperset(head[:512]):
        return "text"
    return None


def require_supported(data: bytes) -> ImageFormat:
    """The format of an image file.

    Raises:
        ImageFormatError: It is none of the supported ones; the detail says what it looks like.
    """
    found = detect(data)
    if found is not None:
        return found
    what = describe(data)
    if what == "an SVG drawing":
        raise ImageFormatError(
            f"SVG drawings are not rendered; convert it to PNG first. Supported: {SUPPORTED}."
        )
    looks = f"is {what}" if what else "is not in a known image format"
    raise ImageFormatError(f"The image {looks}. Supported formats: {SUPPORTED}.")


def _brands(data: bytes) -> set[bytes]:
    """Brands of an ISO base media file (AVIF, HEIC, MP4)."""
    if data[4:8] != b"ftyp":
        return set()
    end = min(int.from_bytes(data[:4], "big"), 512)
    # Bytes 12-15 are a version number, not a brand.
    return {data[at : at + 4] for at in (8, *range(16, end - 3, 4))} - {b""}
