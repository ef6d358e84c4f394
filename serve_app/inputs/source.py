"""What a caller's strings are: an image's bytes, or why not; a text that can be scored, or why not.

Decides by the characters alone: it never opens a file or a connection. Whether the bytes are an
image that can be decoded is for `decode` to say.
"""

from __future__ import annotations

import binascii
import re
from urllib.parse import unquote_to_bytes

from serve_app.errors import (
    ImageEmptyError,
    ImageEncodingError,
    ImagePathRefusedError,
    ImageTooLargeError,
    ItemError,
    TextEmptyError,
    TextInvalidError,
    TextTooLargeError,
)
from serve_app.inputs import formats
from serve_app.types import ImageUrl, ItemFault

_URL = re.compile(r"(?:[a-z][a-z0-9+.-]*://|www\.)", re.IGNORECASE)
_FILE_URI = re.compile(r"file:", re.IGNORECASE)
_PATH = re.compile(
    r"""(?: [/~\\]              # /etc/passwd, ~/x, \\server\share
        |   \.{1,2}[/\\]        # ./a, ../a
        |   [A-Za-z]:[/\\]      # C:\x
        )
      | .*[^/\\]\.[A-Za-z][A-Za-z0-9]{0,5}$   # a.png
    """,
    re.VERBOSE,
)
_LONGEST_PATH = 4096  # Linux's PATH_MAX: what is longer is data

_URLSAFE_TO_STANDARD = bytes.maketrans(b"-_", b"+/")
_WHITESPACE = b" \t\r\n\f\v"


def fault(error: ItemError) -> ItemFault:
    """The fault that an item carries in the answer for this error."""
    return ItemFault(error.code, error.detail)


def parse_image_string(value: str, max_image_bytes: int) -> bytes | ImageUrl | ItemFault:
    """Takes the encoded image out of a string of a JSON request.

    Accepts a data URI (`data:image/png;base64,...`; the declared media type is ignored, the bytes
    decide) and bare base64, standard or URL-safe, with or without padding and white space. A
    string that is base64 of a known image is taken as such even where it could be a path: every
    JPEG begins with `/9j/`.

    Args:
        value: The string.
        max_image_bytes: Most bytes of an encoded image.

    Returns:
        The image file's bytes, at least one; a URL, which nobody has looked at yet; or the fault,
        one of `image_empty`, `image_encoding_invalid`, `image_path_refused`, `image_too_large`.
    """
    try:
        return _read(value.strip(), max_image_bytes)
    except ItemError as error:
        return fault(error)


def check_text(value: str, max_characters: int) -> ItemFault | None:
    """Whether a text can be scored at all, whatever the model.

    Args:
        value: The text; NUL and any script or emoji are fine.
        max_characters: Most characters (code points) of a text.

    Returns:
        None if it can; else `text_too_large`, `text_invalid` or `text_empty`.
    """
    if len(value) > max_characters:
        return fault(
            TextTooLargeError(
                f"The text has {len(value):,} characters; the limit is {max_characters:,}."
            )
        )
    if not value.strip():
        return fault(TextEmptyError("The text is empty; there is nothing to score."))
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        return fault(
            TextInvalidError(
                f"The text is not valid Unicode: half a surrogate pair at character {error.start}."
            )
        )
    return None


def _read(text: str, max_image_bytes: int) -> bytes | ImageUrl:
    if not text:
        raise ImageEmptyError("The image string is empty.")
    if text[:5].lower() == "data:":
        return _read_data_uri(text, max_image_bytes)
    if _FILE_URI.match(text):
        raise _path_refused(text)
    if _URL.match(text):
        return ImageUrl(text)
    path_like = len(text) <= _LONGEST_PATH and _PATH.match(text) is not None
    try:
        data = _decode_base64(text.encode("ascii", "replace"), max_image_bytes)
    except ImageEncodingError:
        if path_like:
            raise _path_refused(text) from None
        raise
    if path_like and formats.detect(data) is None:
        raise _path_refused(text)
    return data


def _read_data_uri(text: str, max_image_bytes: int) -> bytes:
    header, comma, payload = text.partition(",")
    if not comma or header.rpartition(";")[2].strip().lower() != "base64":
        raise ImageEncodingError(
            "The data URI is not base64; write data:image/png;base64,... with the image's bytes."
        )
    if not payload.strip():
        raise ImageEmptyError("The data URI has no bytes after the comma.")
    encoded = payload.encode("ascii", "replace")
    if b"%" in encoded:
        encoded = unquote_to_bytes(encoded)
    return _decode_base64(encoded, max_image_bytes)


def _decode_base64(encoded: bytes, max_image_bytes: int) -> bytes:
    compact = encoded.translate(_URLSAFE_TO_STANDARD, _WHITESPACE)
    body = compact.rstrip(b"=")
    if not body:
        raise ImageEmptyError("The image's base64 has no bytes.")
    if len(body) * 3 // 4 > max_image_bytes:  # before the memory for the bytes is taken
        raise ImageTooLargeError(
            f"The image has about {len(body) * 3 // 4:,} bytes; the limit is {max_image_bytes:,}."
        )
    if len(body) % 4 == 1 or len(compact) - len(body) > 2:
        raise ImageEncodingError(
            "The image is not valid base64: its length is wrong; was it cut off?"
        )
    try:
        return binascii.a2b_base64(body + b"=" * (-len(body) % 4), strict_mode=True)
    except binascii.Error as error:
        raise ImageEncodingError(
            "The image is neither a data URI nor valid base64: it has characters that do not "
            "belong there."
        ) from error


def _path_refused(text: str) -> ImagePathRefusedError:
    return ImagePathRefusedError(
        f"{_shown(text)} is a local path, and this service never reads files for a caller; send "
        "the image's bytes as a data URI, base64 or multipart."
    )


def _shown(text: str) -> str:
    return repr(text if len(text) <= 80 else text[:77] + "...")
