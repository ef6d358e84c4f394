"""From a client's arguments to the engine's requests; the same for every transport."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, get_args

from serve_app.client.images import ImageInput, image_bytes
from serve_app.errors import InvalidRequestError, TextInvalidError
from serve_app.types import EmbedRequest, OnTruncate, ScoreRequest


def score_request(
    images: Iterable[ImageInput] | None,
    texts: Iterable[str] | None,
    pairs: Iterable[tuple[ImageInput, str]] | None,
    *,
    model: str | None,
    metrics: Iterable[str] | None,
    routing_key: str | None,
    on_truncate: OnTruncate,
) -> ScoreRequest:
    """The request of `score`: a grid of images and texts, or pairs.

    Raises:
        InvalidRequestError: Both forms or neither, or nothing to score.
        TypeError: An image or text is of a wrong type.
    """
    if (pairs is None) == (images is None and texts is None):
        raise InvalidRequestError("give either `pairs`, or `images` and `texts`")
    indices: tuple[tuple[int, int], ...] | None = None
    if pairs is not None:
        rows = list(pairs)
        if any(not isinstance(row, (tuple, list)) or len(row) != 2 for row in rows):
            raise TypeError("each of `pairs` must be an (image, text) tuple")
        images, texts = [row[0] for row in rows], [row[1] for row in rows]
        indices = tuple((index, index) for index in range(len(rows)))
        if not rows:
            raise InvalidRequestError("`pairs` is empty")
    elif images is None or texts is None:
        raise InvalidRequestError("give both `images` and `texts` (or `pairs`)")
    return ScoreRequest(
        _images(images),
        _texts(texts),
        indices,
        model or None,
        _metrics(metrics),
        routing_key,
        _on_truncate(on_truncate),
    )


def rank_request(
    text: str | None,
    images: Iterable[ImageInput] | None,
    image: ImageInput | None,
    texts: Iterable[str] | None,
    *,
    model: str | None,
    metrics: Iterable[str] | None,
    routing_key: str | None,
    on_truncate: OnTruncate,
) -> ScoreRequest:
    """The request of `rank`: one text's images, or one image's texts; raises as `score_request`."""
    names = ("text", "images", "image", "texts")
    values = (text, images, image, texts)
    given = {name for name, value in zip(names, values, strict=True) if value is not None}
    if given == {"text", "images"}:
        texts = [text]  # type: ignore[list-item]  # not None: it is given
    elif given == {"image", "texts"}:
        images = [image]  # type: ignore[list-item]
    else:
        raise InvalidRequestError("give either `text` and `images`, or `image` and `texts`")
    return score_request(
        images,
        texts,
        None,
        model=model,
        metrics=metrics,
        routing_key=routing_key,
        on_truncate=on_truncate,
    )


def embed_request(
    inputs: Iterable[str | ImageInput],
    *,
    model: str | None,
    on_truncate: OnTruncate,
    routing_key: str | None = None,
) -> EmbedRequest:
    """The request of `embed`: a `str` is a text, everything else an image."""
    items = [
        _text(item, index, "inputs") if isinstance(item, str) else image_bytes(item)
        for index, item in enumerate(_many(inputs, "inputs"))
    ]
    if not items:
        raise InvalidRequestError("`inputs` is empty")
    return EmbedRequest(
        tuple(items), model or None, _on_truncate(on_truncate), routing_key=routing_key
    )


def _images(images: Iterable[ImageInput]) -> tuple[bytes, ...]:
    encoded: dict[int, bytes] = {}
    # Kept while they are counted by identity: an iterator's items could else share an address.
    sources = list(_many(images, "images"))
    for source in sources:
        # One object in several pairs is read once (an open file could not be read twice), and
        # stays one object: pickling for a handle call then carries its bytes once.
        if id(source) not in encoded:
            encoded[id(source)] = image_bytes(source)
    if not sources:
        raise InvalidRequestError("`images` is empty")
    return tuple(encoded[id(source)] for source in sources)


def _texts(texts: Iterable[str]) -> tuple[str, ...]:
    checked = tuple(_text(text, index, "texts") for index, text in enumerate(_many(texts, "texts")))
    if not checked:
        raise InvalidRequestError("`texts` is empty")
    return checked


def _text(text: object, index: int, name: str) -> str:
    if not isinstance(text, str):
        raise TypeError(f"{name}[{index}] must be a str, not {type(text).__name__}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise TextInvalidError(
            f"{name}[{index}] is not valid Unicode: {error.reason} at character {error.start}"
        ) from None
    return text


def _metrics(metrics: Iterable[str] | None) -> tuple[str, ...] | None:
    if metrics is None:
        return None
    names = [metrics] if isinstance(metrics, str) else metrics
    return tuple(dict.fromkeys(names)) or None


def _on_truncate(value: OnTruncate) -> OnTruncate:
    if value not in get_args(OnTruncate):
        raise InvalidRequestError(f"on_truncate: must be 'warn' or 'error', not {value!r}")
    return value


def _many(values: Iterable[Any], name: str) -> Iterable[Any]:
    """Refuses one item where several belong: most single items would iterate, into nonsense."""
    single = isinstance(values, (str, bytes, bytearray, memoryview)) or hasattr(values, "read")
    if single or not isinstance(values, Iterable | Sequence):
        raise TypeError(f"`{name}` must be a list, not one {type(values).__name__}")
    if getattr(values, "ndim", 4) != 4:
        raise TypeError(f"`{name}` must be a list of arrays, or one array of shape (n, h, w, c)")
    return values
