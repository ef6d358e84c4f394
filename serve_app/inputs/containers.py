"""Walks an image file's structure and keeps what makes up its pixels; decodes none of them.

Metadata (comments, colour profiles, thumbnails, EXIF but its orientation) never reaches the
decoder. That is cheaper than to let Pillow parse it, and safer: what is left out can neither
expand (compressed text and profiles), nor warn (Pillow warns about broken metadata through a
global that threads cannot silence each for itself), nor make an intact picture unreadable.
Colour profiles are ignored everywhere, as in the preprocessing that models were trained with.
"""

from __future__ import annotations

import itertools
import re
import struct
from dataclasses import dataclass

from serve_app.errors import ImageUndecodableError
from serve_app.inputs.formats import ImageFormat

_MAX_JPEG_SCANS = 100
"""Progressive files have about ten; each further one costs a pass over all pixels."""
_MAX_PARTS = 200_000
"""Segments, chunks or blocks; many times what a real file of 32 MiB has. More cost only time."""

_PNG_KEPT = {b"PLTE", b"tRNS"}
_ORIENTATION_TAG = 0x0112
_SHORT = 3


@dataclass(frozen=True, slots=True)
class Container:
    """An image file without metadata.

    Attributes:
        data: The file, as the decoder gets it.
        size: Width and height, where they can be read here; None: the decoder's header parser
            tells, and it allocates nothing.
        animated: Whether there is more than one frame; None: the decoder tells.
        orientation: EXIF orientation, 1 to 8.
        bit_depth: Bits of a sample in the file; 8 where it does not matter.
    """

    data: bytes
    size: tuple[int, int] | None = None
    animated: bool | None = False
    orientation: int = 1
    bit_depth: int = 8


def read_container(image_format: ImageFormat, data: bytes) -> Container:
    """Takes a file of a known format apart.

    Raises:
        ImageUndecodableError: The structure is broken before the pixels begin.
    """
    try:
        if image_format == "JPEG":
            return _read_jpeg(data)
        if image_format == "PNG":
            return _read_png(data)
        if image_format == "GIF":
            return _read_gif(data)
        if image_format == "WebP":
            return _read_webp(data)
        if image_format == "AVIF":
            return _read_avif(data)
        return Container(data)
    except (IndexError, struct.error) as error:
        raise ImageUndecodableError(
            f"The {image_format} image is cut off: its header is not complete."
        ) from error


def read_orientation(exif: bytes) -> int:
    """The orientation in an EXIF block; 1 (upright) where there is none or the block is broken.

    Args:
        exif: A TIFF structure, with or without the leading `Exif` marker.
    """
    tiff = exif[6:] if exif.startswith(b"Exif\0\0") else exif
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    if order is None:
        return 1
    try:
        (start,) = struct.unpack_from(f"{order}I", tiff, 4)
        (count,) = struct.unpack_from(f"{order}H", tiff, start)
        for entry in range(count):
            tag, kind, _, value = struct.unpack_from(f"{order}HHIH", tiff, start + 2 + entry * 12)
            if tag == _ORIENTATION_TAG:
                return value if kind == _SHORT and 1 <= value <= 8 else 1
    except struct.error:
        pass  # cut off: the picture is none the worse for it
    return 1


def _check_parts(image_format: ImageFormat, parts: int) -> None:
    if parts > _MAX_PARTS:
        raise ImageUndecodableError(
            f"The {image_format} image has more than {_MAX_PARTS:,} parts; it is not decoded."
        )


def _read_jpeg(data: bytes) -> Container:
    kept: list[bytes] = [data[:2]]
    orientation, at = 1, 2
    for part in itertools.count():
        _check_parts("JPEG", part)
        at = data.find(b"\xff", at)
        if at < 0:
            raise ImageUndecodableError("The JPEG image is cut off before its pixels begin.")
        marker = data[at + 1]
        if marker in (0x00, 0xFF) or 0xD0 <= marker <= 0xD8:  # filler, or nothing follows
            at += 1 if marker == 0xFF else 2
            continue
        if marker == 0xD9:
            raise ImageUndecodableError("The JPEG image ends before its pixels begin.")
        if marker == 0xDA:
            break
        (length,) = struct.unpack_from(">H", data, at + 2)
        end = at + 2 + length
        # APP0 (JFIF) and APP14 (Adobe) say how colours are stored; the others are metadata.
        is_metadata = 0xE1 <= marker <= 0xEF and marker != 0xEE
        if not is_metadata and marker != 0xFE:
            kept.append(data[at:end])
        elif marker == 0xE1 and orientation == 1 and data.startswith(b"Exif\0\0", at + 4):
            orientation = read_orientation(data[at + 4 : end])
        at = end
    scans = data.count(b"\xff\xda", at)
    if scans > _MAX_JPEG_SCANS:
        raise ImageUndecodableError(
            f"The JPEG image has {scans} scans; no more than {_MAX_JPEG_SCANS} are decoded."
        )
    kept.append(data[at:])
    return Container(b"".join(kept), orientation=orientation)


def _read_png(data: bytes) -> Container:
    if data[12:16] != b"IHDR":
        raise ImageUndecodableError("The PNG image does not begin with its header.")
    width, height, bit_depth = struct.unpack_from(">IIB", data, 16)
    kept = [data[:33]]
    animated, orientation, pixels = False, 1, False
    at = 33
    for part in itertools.count():
        _check_parts("PNG", part)
        if at + 8 > len(data):
            break
        length, name = struct.unpack_from(">I4s", data, at)
        end = at + 12 + length
        if name == b"IDAT":
            pixels = True
            kept.append(data[at:end])
        elif name == b"IEND":
            kept.append(data[at:end])
            break
        elif not name.isalpha():
            break  # garbage; the decoder finds out whether it has all pixels by then
        elif name in _PNG_KEPT and not pixels:
            kept.append(data[at:end])
        elif name == b"acTL" and not pixels and length >= 4:
            animated = struct.unpack_from(">I", data, at + 8)[0] > 1
        elif name == b"eXIf":
            orientation = read_orientation(data[at + 8 : end - 4])
        at = end
    # An animation's other frames are chunks of their own kind, so what is kept is a plain PNG.
    return Container(b"".join(kept), (width, height), animated, orientation, bit_depth)


def _read_gif(data: bytes) -> Container:
    """Reads on to the second frame, if there is one; frames may reach beyond the canvas."""
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    at = 13 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
    frames = parts = 0
    try:
        while frames < 2:
            parts += 1
            _check_parts("GIF", parts)
            block = data[at]
            if block == 0x2C:
                frames += 1
                left, top, wide, high, flags = struct.unpack_from("<HHHHB", data, at + 1)
                if frames == 1:
                    width, height = max(width, left + wide), max(height, top + high)
                at += 10 + (3 << (flags & 7) + 1 if flags & 0x80 else 0) + 1
            elif block == 0x21:
                at += 2
            elif block == 0x3B:
                break
            else:
                at += 1
                continue
            while data[at]:
                parts += 1
                _check_parts("GIF", parts)
                at += data[at] + 1
            at += 1
    except (IndexError, struct.error):
        pass  # cut off; whether the first frame is complete is for the decoder to say
    return Container(data, (width, height), animated=frames > 1)


def _read_webp(data: bytes) -> Container:
    """Reads the canvas size here because libwebp allocates the canvas when it opens a file."""
    chunk = data[12:16]
    if chunk == b"VP8X":
        size = (
            int.from_bytes(data[24:27], "little") + 1,
            int.from_bytes(data[27:30], "little") + 1,
        )
    elif chunk == b"VP8L" and data[20] == 0x2F:
        (bits,) = struct.unpack_from("<I", data, 21)
        size = ((bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1)
    elif chunk == b"VP8 " and data[23:26] == b"\x9d\x01\x2a":
        width, height = struct.unpack_from("<HH", data, 26)
        size = (width & 0x3FFF, height & 0x3FFF)
    else:
        raise ImageUndecodableError("The WebP image has no valid header.")
    return Container(data, size, animated=None)


def _read_avif(data: bytes) -> Container:
    """Renames the EXIF item: the format forbids it to turn the picture, and Pillow parses it.

    The format's own rotation (`irot`, `imir`) is in the picture's properties.
    """
    # An item's entry: `infe`, version and flags, id (two or four bytes), protection, type.
    end = data.find(b"mdat")
    head = data[: end if end >= 0 else len(data)]
    renamed = re.sub(rb"(infe[\x02\x03].{3}(?:.{4}|.{6}))Exif", rb"\1skip", head, flags=re.DOTALL)
    if renamed == head:
        return Container(data, animated=None)
    return Container(renamed + data[len(head) :], animated=None)
