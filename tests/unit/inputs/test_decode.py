"""Every kind of file a caller may send is decoded rightly, or refused with the right error."""

import io
import random
import resource
import struct
import tracemalloc
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image, ImageFile, ImageOps

from serve_app.errors import (
    ImageEmptyError,
    ImageFormatError,
    ImageTooLargeError,
    ImageUndecodableError,
    ItemError,
)
from serve_app.inputs.decode import DecodeLimits, decode_image, open_image

from .files import chunk, exif, picture, png, save

LIMITS = DecodeLimits(max_image_bytes=4_000_000, max_pixels=2_000_000)
FORMATS = ["JPEG", "PNG", "WEBP", "GIF", "AVIF", "BMP"]


def pixels(data: bytes, limits: DecodeLimits = LIMITS) -> np.ndarray:
    decoded = decode_image(data, limits)
    assert decoded.image.mode == "RGB"
    assert decoded.image.info == {}
    return np.asarray(decoded.image).astype(int)


def differs(data: bytes, expected: Image.Image) -> int:
    return int(np.abs(pixels(data) - np.asarray(expected.convert("RGB")).astype(int)).max())


# --- what is decoded -----------------------------------------------------------------------------


@pytest.mark.parametrize("image_format", FORMATS)
def test_supported_formats(image_format):
    data = save(picture(), image_format)
    opened = open_image(data, LIMITS)
    assert (opened.width, opened.height, opened.decoded_bytes) == (40, 24, 40 * 24 * 4)
    decoded = opened.decode()
    assert decoded.warnings == ()
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    np.testing.assert_array_equal(np.asarray(decoded.image), expected)


@pytest.mark.parametrize("options", [{"quality": 60}, {"progressive": True}, {"subsampling": 0}])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_jpeg_equals_pillow(options, mode):
    data = save(picture(301, 203).convert(mode), "JPEG", **options)
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    np.testing.assert_array_equal(pixels(data), expected)


def test_cmyk_jpeg_has_sane_colours():
    assert differs(save(picture().convert("CMYK"), "JPEG", quality=95), picture()) <= 12


def test_metadata_neither_changes_nor_breaks_a_jpeg():
    plain = save(picture(), "JPEG", quality=90)
    segments = b"".join(
        bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body
        for marker, body in [
            (0xE1, b"Exif\0\0MM broken"),
            (0xE2, b"ICC_PROFILE\0\x01\x01" + b"no profile"),
            (0xE2, b"MPF\0II*\0\x08\0\0\0 broken"),
            (0xED, b"Photoshop 3.0\0broken"),
            (0xFE, b"a comment " * 100),
        ]
    )
    np.testing.assert_array_equal(pixels(plain[:2] + segments + plain[2:]), pixels(plain))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP"])
def test_exif_orientation_is_applied(orientation, image_format):
    options = {"lossless": True} if image_format == "WEBP" else {}
    data = save(picture(), image_format, exif=exif(orientation), **options)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))
    assert (expected.shape == (40, 24, 3)) == (orientation >= 5)
    np.testing.assert_array_equal(pixels(data), expected)


def test_rotated_image_is_really_turned():
    # Orientation 6: the camera was held so that the picture's left edge (red) is its top.
    turned = pixels(save(picture(), "JPEG", exif=exif(6, ">")))
    assert turned[0, :, 0].mean() > 180 > 60 > turned[-1, :, 0].mean()


def test_avif_rotation_is_applied():
    data = save(picture(), "AVIF", quality=100, exif=exif(6))
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    assert expected.shape == (40, 24, 3)
    np.testing.assert_array_equal(pixels(data), expected)


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize(
    "block",
    [
        b"Exif\0\0",
        b"Exif\0\0II*\0\xff\xff\xff\xff",
        exif(1, entries=60_000),
        exif(9),
        exif(0),
        b"Exif\0\0nonsense" * 40,
    ],
)
def test_broken_exif_is_ignored(image_format, block):
    assert pixels(save(picture(), image_format, exif=block)).shape == (24, 40, 3)


@pytest.mark.parametrize(
    ("at", "broken"), [(0, b"nonsense"), (4, b"\x7f\xff\xff\xff"), (8, b"\xff\xff")]
)
def test_broken_exif_of_avif_is_ignored_and_its_rotation_is_not(at, broken):
    metadata = Image.Exif()
    metadata[0x010F] = "maker of cameras"
    metadata[0x0112] = 6
    data = save(picture(), "AVIF", exif=metadata)
    at += data.index(b"MM\0*")
    broken_file = data[:at] + broken + data[at + len(broken) :]
    np.testing.assert_array_equal(pixels(broken_file), pixels(data))
    assert pixels(data).shape == (40, 24, 3)


def test_16_bit_grey_is_scaled():
    gradient = np.linspace(0, 65535, 256).astype(np.uint16)[None, :].repeat(3, axis=0)
    data = save(Image.fromarray(gradient), "PNG")
    assert data[24] == 16
    np.testing.assert_array_equal(pixels(data), (gradient >> 8)[..., None].repeat(3, axis=2))
    assert pixels(data)[0, :, 0].tolist() == list(range(256))


def test_16_bit_colour_is_scaled():
    samples = np.array([[0, 0x8000, 0xFFFF], [0x1234, 0xABCD, 0x00FF]], ">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in samples)
    expected = [[[0, 0x80, 0xFF]], [[0x12, 0xAB, 0x00]]]
    assert pixels(png(1, 2, rows, bit_depth=16)).tolist() == expected


def test_palette():
    image = picture().quantize(16)
    for image_format in ("PNG", "GIF", "BMP"):
        assert differs(save(image, image_format), image) == 0


def test_palette_with_one_transparent_colour():
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putpixel((1, 0), 1)
    for image_format in ("PNG", "GIF"):
        data = save(image, image_format, transparency=1)
        assert pixels(data).tolist() == [[[255, 0, 0], [255, 255, 255]]]


def test_palette_with_alpha_for_every_colour():
    image = Image.new("P", (3, 1))
    image.putpalette([255, 0, 0, 0, 0, 255, 0, 0, 0])
    image.putdata([0, 1, 2])
    data = save(image, "PNG", transparency=bytes([255, 0, 128]))
    (row,) = pixels(data).tolist()
    assert row[:2] == [[255, 0, 0], [255, 255, 255]]
    assert row[2] == pytest.approx([127, 127, 127], abs=1)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
@pytest.mark.parametrize("image_format", ["PNG", "WEBP"])
def test_alpha_is_composited_on_white(mode, image_format):
    image = Image.new("RGBA", (30, 10), (0, 0, 0, 255))
    image.paste((0, 0, 0, 0), (10, 0, 20, 10))
    image.paste((0, 0, 0, 51), (20, 0, 30, 10))
    options = {"lossless": True} if image_format == "WEBP" else {}
    row = pixels(save(image.convert(mode), image_format, **options))[5, [5, 15, 25]]
    np.testing.assert_allclose(row, [[0] * 3, [255] * 3, [204] * 3], atol=1)


def test_transparent_colour_of_a_png_without_palette():
    red_blue = b"\0\xff\0\0\0\0\xff"
    data = png(2, 1, red_blue, before=chunk(b"tRNS", struct.pack(">HHH", 0, 0, 255)))
    assert pixels(data).tolist() == [[[255, 0, 0], [255, 255, 255]]]


@pytest.mark.parametrize(
    ("bit_depth", "row", "transparent", "expected"),
    [
        (1, b"\x40", 1, [0, 255]),
        (1, b"\x40", 0, [255, 255]),
        (2, b"\x60", 1, [255, 170]),
        (4, b"\x3f", 3, [255, 255]),
        (8, b"\x10\x20", 0x10, [255, 0x20]),
        (16, b"\x10\x01\x10\x02", 0x1001, [255, 0x10]),
    ],
)
def test_transparent_grey_of_every_depth(bit_depth, row, transparent, expected):
    trns = chunk(b"tRNS", struct.pack(">H", transparent))
    data = png(2, 1, b"\0" + row, bit_depth, colour=0, before=trns)
    assert pixels(data)[0, :, 0].tolist() == expected


def test_transparent_16_bit_colour():
    row = struct.pack(">6H", 0x1000, 0x2000, 0x3000, 0x4000, 0x5000, 0x6000)
    trns = chunk(b"tRNS", struct.pack(">HHH", 0x1000, 0x2000, 0x3000))
    data = png(2, 1, b"\0" + row, 16, before=trns)
    assert pixels(data).tolist() == [[[255, 255, 255], [0x40, 0x50, 0x60]]]


@pytest.mark.parametrize("mode", ["1", "L"])
@pytest.mark.parametrize("image_format", ["PNG", "BMP", "GIF"])
def test_black_and_white_and_grey(mode, image_format):
    image = picture().convert(mode)
    assert differs(save(image, image_format), image) == 0


@pytest.mark.parametrize("image_format", ["GIF", "WEBP", "PNG", "AVIF"])
def test_animation_gives_its_first_frame_and_a_warning(image_format):
    frames = [Image.new("RGB", (20, 20), colour) for colour in ("red", "green", "blue")]
    options = {"lossless": True} if image_format == "WEBP" else {}
    data = save(frames[0], image_format, save_all=True, append_images=frames[1:], **options)
    decoded = decode_image(data, LIMITS)
    assert [warning.code for warning in decoded.warnings] == ["animated_first_frame"]
    assert np.abs(np.asarray(decoded.image).astype(int) - [255, 0, 0]).max() <= 8


@pytest.mark.parametrize("chunks", [[0], [2, 2], [0x90000000]])
def test_invalid_animation_header_of_a_png_is_harmless(chunks):
    before = b"".join(chunk(b"acTL", struct.pack(">II", count, 0)) for count in chunks)
    assert pixels(png(1, 1, b"\0\x01\x02\x03", before=before)).tolist() == [[[1, 2, 3]]]


def test_huge_metadata_of_a_png_is_never_unpacked():
    bomb = zlib.compress(bytes(300_000_000), 9)
    before = chunk(b"zTXt", b"k\0\0" + bomb) + chunk(b"iCCP", b"p\0\0" + bomb)
    data = png(1, 1, b"\0\x01\x02\x03", before=before)
    tracemalloc.start()
    assert pixels(data).tolist() == [[[1, 2, 3]]]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10_000_000


# --- what is refused -----------------------------------------------------------------------------


def test_empty():
    with pytest.raises(ImageEmptyError):
        open_image(b"", LIMITS)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"just some text\n", "is text"),
        (b"BMW is a car maker, and this is text", "is text"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG.*convert it to PNG"),
        (b"\xef\xbb\xbf<?xml version='1.0'?>\n<!-- x -->\n<svg/>", "SVG.*convert it to PNG"),
        (b"<!DOCTYPE html><p>not found", "HTML"),
        (b"%PDF-1.7\n", "PDF"),
        (save(picture(), "TIFF"), "TIFF"),
        (save(picture(), "ICO"), "ICO"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC"),
        (b"\0\0\0\x18ftypisom\0\0\0\0isommp42", "video"),
        (bytes(range(200, 256)), "not in a known image format"),
        (b"\x89PN", "not in a known image format"),
    ],
)
def test_other_formats(data, says):
    with pytest.raises(ImageFormatError, match=says) as caught:
        open_image(data, LIMITS)
    assert "JPEG, PNG, WebP, GIF, AVIF, BMP" in caught.value.detail


def test_too_many_bytes():
    data = save(picture(), "PNG")
    open_image(data, DecodeLimits(len(data), 10**6))
    with pytest.raises(ImageTooLargeError, match="bytes"):
        open_image(data, DecodeLimits(len(data) - 1, 10**6))


@pytest.mark.parametrize("image_format", FORMATS)
def test_too_many_pixels(image_format):
    data = save(picture(), image_format)
    open_image(data, DecodeLimits(10**6, 40 * 24))
    with pytest.raises(ImageTooLargeError, match="40 x 24"):
        open_image(data, DecodeLimits(10**6, 40 * 24 - 1))


def test_100_megapixel_png_is_refused_before_it_is_decoded():
    packer = zlib.compressobj(9)
    row = bytes(1 + 10_000)
    packed = b"".join(packer.compress(row) for _ in range(10_000)) + packer.flush()
    header = struct.pack(">IIBBBBB", 10_000, 10_000, 8, 0, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", packed)
    data += chunk(b"IEND", b"")
    assert len(data) < 110_000
    limits = DecodeLimits(32 * 2**20, 50_000_000)
    tracemalloc.start()
    with pytest.raises(ImageTooLargeError, match="10000 x 10000"):
        open_image(data, limits)
    assert tracemalloc.get_traced_memory()[1] < 2_000_000
    tracemalloc.stop()


def test_enormous_headers():
    limits = DecodeLimits(10**6, 10**12)  # not even an absent limit lets these through
    webp = b"RIFF\0\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0" + b"\xff" * 6
    for data in (
        png(2**31 - 1, 2**31 - 1, b"\0"),
        png(70_000, 1, b"\0"),
        b"GIF89a\xff\xff\xff\xff\0\0\0",
        b"GIF89a\x01\0\x01\0\0\0\0,\xf0\xff\xf0\xff\xff\xff\xff\xff\0",
        webp,
    ):
        with pytest.raises(ImageTooLargeError):
            open_image(data, limits)


@pytest.mark.parametrize("image_format", FORMATS)
def test_truncated(image_format):
    data = save(Image.effect_noise((90, 90), 60).convert("RGB"), image_format)
    for keep in (20, len(data) // 4, len(data) // 2, len(data) * 3 // 4):
        with pytest.raises((ImageUndecodableError, ImageFormatError)) as caught:
            decode_image(data[:keep], LIMITS)
        if keep > 20:
            assert caught.type is ImageUndecodableError
            assert caught.value.detail.strip()


def test_opening_allocates_no_pixels():
    files = [save(Image.new("RGB", (1400, 1400)), image_format) for image_format in FORMATS[:-1]]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    opened = [open_image(data, LIMITS) for data in files for _ in range(40)]
    assert sum(image.decoded_bytes for image in opened) > 1_500_000_000
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # KiB


def test_jpeg_with_endless_scans_is_refused():
    data = save(picture(), "JPEG", progressive=True)
    at = data.rindex(b"\xff\xda")
    with pytest.raises(ImageUndecodableError, match="scans"):
        decode_image(data[:at] + data[at:-2] * 200 + data[-2:], LIMITS)


@pytest.mark.parametrize(
    "data",
    [
        b"\xff\xd8\xff\xe1\0\x02" + b"\xff\xe1\0\x02" * 300_000,
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", bytes(13)) + chunk(b"teXt", b"") * 300_000,
        b"GIF89a\x01\0\x01\0\0\0\0!\xfe" + b"\x01\0" * 300_000,
        b"GIF89a\x01\0\x01\0\0\0\0!\xfe" + b"\x01x" * 300_000,
    ],
)
def test_files_of_countless_parts_are_refused(data):
    with pytest.raises((ImageUndecodableError, ImageTooLargeError)):
        decode_image(data, LIMITS)


def test_run_length_encoded_bmp_is_refused():
    header = struct.pack("<IiiHHIIIIII", 40, 2, 2, 1, 8, 1, 4, 0, 0, 2, 0)
    body = b"\x02\0\x02\0\0\x01"
    offset = 14 + 40 + 8
    data = b"BM" + struct.pack("<IHHI", offset + len(body), 0, 0, offset) + header + bytes(4)
    with pytest.raises(ImageFormatError, match="run-length"):
        decode_image(data + b"\x10\x20\x30\0" + body, LIMITS)


# --- whatever comes ------------------------------------------------------------------------------


def seeds() -> list[bytes]:
    frames = [picture(16, 16), picture(16, 16).rotate(90)]
    animated = {"save_all": True, "append_images": frames[1:]}
    return [
        save(picture(), "JPEG", exif=exif(6)),
        save(picture(), "JPEG", progressive=True),
        save(picture().convert("CMYK"), "JPEG"),
        save(picture(), "PNG", exif=exif(3)),
        save(picture().convert("RGBA"), "PNG"),
        save(picture().quantize(8), "PNG", transparency=b"\0\x80\xff"),
        save(frames[0], "PNG", **animated),
        save(frames[0], "GIF", **animated),
        save(picture(), "WEBP", exif=exif(2)),
        save(frames[0], "WEBP", **animated),
        save(picture(), "AVIF", exif=exif(6)),
        save(picture().quantize(8), "BMP"),
    ]


def mutations(count: int) -> list[bytes]:
    rng = random.Random(20_240_607)
    sources = seeds()
    results = []
    for index in range(count):
        data = bytearray(sources[index % len(sources)])
        # Mostly in the header, where the structure is.
        reach = len(data) if index % 3 == 0 else min(len(data), 120)
        for _ in range(rng.choice([1, 2, 8])):
            at = rng.randrange(reach)
            kind = rng.randrange(5)
            if kind == 0:
                data[at] ^= 1 << rng.randrange(8)
            elif kind == 1:
                data[at] = rng.choice([0, 1, 0x7F, 0x80, 0xFF])
            elif kind == 2:
                del data[at : at + rng.randrange(1, 20)]
            elif kind == 3:
                data[at:at] = rng.randbytes(rng.randrange(1, 20))
            else:
                data[at : at + 4] = rng.choice(
                    [b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff"]
                )
            reach = max(1, min(reach, len(data)))
        results.append(bytes(data))
    return results


def test_mutated_files_decode_or_are_refused_without_a_word():
    outcomes = {"decoded": 0, "refused": 0}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for data in mutations(360):
            try:
                decoded = decode_image(data, LIMITS)
            except ItemError as error:
                assert error.detail
                outcomes["refused"] += 1
            else:
                assert decoded.image.mode == "RGB"
                outcomes["decoded"] += 1
    assert [str(warning.message) for warning in caught] == []
    assert min(outcomes.values()) > 60


def test_many_threads_get_what_one_gets():
    files = [data for data in seeds() for _ in range(4)]
    expected = [pixels(data) for data in files]
    with ThreadPoolExecutor(8) as pool:
        for got, wanted in zip(pool.map(pixels, files), expected, strict=True):
            np.testing.assert_array_equal(got, wanted)


def test_globals_of_pillow_stay_as_they_are():
    before = (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES)
    decode_image(save(picture(), "PNG"), LIMITS)
    assert before == (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES)
