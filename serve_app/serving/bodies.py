"""Request bodies: read within a bound, and turned into the engine's requests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from typing import TypeVar

from pydantic import BaseModel, ValidationError
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from serve_app.config.args import Limits
from serve_app.errors import (
    BodyTimeoutError,
    BodyTooLargeError,
    ClientGoneError,
    InvalidJsonError,
    InvalidRequestError,
    TooManyPairsError,
    UnsupportedMediaTypeError,
)
from serve_app.inputs.source import parse_image_string
from serve_app.serving.load import RequestLoad
from serve_app.serving.schemas import EmbeddingsBody, RankBody, ScoreBody
from serve_app.types import EmbedRequest, ImageUrl, ItemFault, ScoreRequest

BodyT = TypeVar("BodyT", bound=BaseModel)
Image = bytes | ImageUrl | ItemFault

_SCALARS = ("model", "routing_key", "on_truncate")


async def read_body(request: Request, max_bytes: int, timeout_s: float) -> bytes:
    """Reads a body; what is declared too large is refused unread.

    Args:
        request: Of our middleware, which knows when it is over.
        max_bytes: Most bytes that are taken.
        timeout_s: Seconds within which all of it must be here.

    Raises:
        BodyTooLargeError: It is larger.
        BodyTimeoutError: It did not come in time.
        OverloadedError: There is no room for it, or for more work.
    """
    try:
        async with asyncio.timeout(timeout_s):
            return await _read(request, max_bytes)
    except ClientDisconnect:  # nobody hears this; it is no failure of the service
        raise ClientGoneError("The connection ended before the body did.") from None
    except TimeoutError:
        raise BodyTimeoutError(f"The body did not come within {timeout_s:g} s.") from None


async def _read(request: Request, max_bytes: int) -> bytes:
    load: RequestLoad = request.state.load
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > max_bytes:
        raise BodyTooLargeError(f"The body has {declared} bytes; at most {max_bytes} are taken.")
    chunks: list[bytes] = []
    total = 0
    async for chunk in request.stream():
        total += len(chunk)
        if total > max_bytes:
            raise BodyTooLargeError(f"The body has more than {max_bytes} bytes, the limit.")
        load.hold(len(chunk))
        chunks.append(chunk)
    load.begin()
    return b"".join(chunks)


def media_type(request: Request) -> str:
    """The body's media type without parameters, in lower case."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def parse_json(body: bytes, schema: type[BodyT]) -> BodyT:
    """Validates a JSON body; the error names every field that is wrong."""
    try:
        return schema.model_validate_json(body)
    except ValidationError as error:
        faults = error.errors(include_url=False, include_context=False, include_input=False)
        if faults and faults[0]["type"] == "json_invalid":
            raise InvalidJsonError(f"The body is not JSON in UTF-8: {faults[0]['msg']}.") from None
        lines = [
            f"{'.'.join(str(part) for part in fault['loc']) or 'body'}: "
            f"{fault['msg'].removeprefix('Value error, ')}"
            for fault in faults[:20]
        ]
        raise InvalidRequestError("; ".join(lines)) from None


async def parse_multipart(
    request: Request, body: bytes, limits: Limits
) -> tuple[list[bytes], dict[str, list[str]]]:
    """Splits a multipart body into the files named `image` and the other fields."""

    async def stream() -> AsyncIterator[bytes]:
        yield body

    # The body is bounded already. How many items and how long a text may be is for the pipeline to
    # say, in the same words as for JSON; these bounds only keep the parser's own tables small.
    parser = MultiPartParser(
        request.headers,
        stream(),  # type: ignore[arg-type]  # any async iterator will do
        max_files=16 * limits.max_pairs,
        max_fields=16 * limits.max_pairs + 64,
        max_part_size=len(body),
    )
    try:
        form = await parser.parse()
    except (MultiPartException, KeyError) as error:
        reason = getattr(error, "message", None) or str(error)
        raise InvalidRequestError(f"The multipart body cannot be read: {reason}") from None
    images: list[bytes] = []
    fields: dict[str, list[str]] = {}
    for name, value in form.multi_items():
        if isinstance(value, UploadFile):
            if name != "image":
                raise InvalidRequestError(f"{name}: files are taken in the field `image` only")
            images.append(await value.read())
        elif name == "image":
            raise InvalidRequestError("image: must be a file (give the part a filename)")
        else:
            # The parser reads what is not UTF-8 as Latin-1; its bytes then are not in the body.
            if value.encode() not in body:
                raise InvalidRequestError(f"{name}: is not UTF-8")
            fields.setdefault(name, []).append(value)
    await form.close()
    return images, fields


async def score_request(
    request: Request, limits: Limits, request_id: str, schema: type[ScoreBody] | type[RankBody]
) -> ScoreRequest:
    """The engine's request of a JSON or multipart body of `/v1/score` or `/v1/rank`."""
    body = await read_body(request, limits.max_body_bytes, limits.body_timeout_s)
    kind = media_type(request)
    if kind == "multipart/form-data":
        images, fields = await parse_multipart(request, body, limits)
        return replace(_from_form(images, fields, request_id), headers=_headers(request))
    if kind not in ("application/json", ""):
        raise UnsupportedMediaTypeError(
            f"Content-Type is {kind!r}; send application/json or multipart/form-data."
        )

    def build() -> ScoreRequest:
        parsed = parse_json(body, schema)
        if isinstance(parsed, ScoreBody):
            return _from_score_body(parsed, limits, request_id)
        return _from_rank_body(parsed, limits, request_id)

    return replace(await _off_loop(build, len(body)), headers=_headers(request))


async def embed_request(
    request: Request, limits: Limits, request_id: str
) -> tuple[EmbedRequest, str]:
    """The engine's request of a body of `/v1/embeddings`, and its `encoding_format`."""
    body = await read_body(request, limits.max_body_bytes, limits.body_timeout_s)
    kind = media_type(request)
    if kind not in ("application/json", ""):
        raise UnsupportedMediaTypeError(f"Content-Type is {kind!r}; send application/json.")

    def build() -> tuple[EmbedRequest, str]:
        parsed = parse_json(body, EmbeddingsBody)
        items = parsed.input if isinstance(parsed.input, list) else [parsed.input]
        _check_count(items, limits)
        inputs = tuple(
            item
            if isinstance(item, str)
            else parse_image_string(item.image, limits.max_image_bytes)
            for item in items
        )
        embed = EmbedRequest(
            inputs,
            parsed.model,
            parsed.on_truncate,
            request_id,
            parsed.routing_key,
            _headers(request),
        )
        return embed, parsed.encoding_format

    return await _off_loop(build, len(body))


def _headers(request: Request) -> dict[str, str]:
    """By lower-case name; of a repeated one the first."""
    return dict(request.headers)


ResultT = TypeVar("ResultT")


async def _off_loop(build: Callable[[], ResultT], size: int) -> ResultT:
    # A small body parses faster than a thread takes over; a large one would stall the loop.
    if size < 1 << 20:
        return build()
    return await asyncio.to_thread(build)


def _from_score_body(body: ScoreBody, limits: Limits, request_id: str) -> ScoreRequest:
    pairs: tuple[tuple[int, int], ...] | None = None
    if body.pairs is not None:
        images = [pair.image for pair in body.pairs]
        texts = [pair.text for pair in body.pairs]
        pairs = tuple((index, index) for index in range(len(images)))
    else:
        images, texts = body.images or [], body.texts or []
    _check_count(images, limits)
    _check_count(texts, limits)
    return ScoreRequest(
        _images(images, limits),
        tuple(texts),
        pairs,
        body.model,
        _metrics(body.metrics),
        body.routing_key,
        body.on_truncate,
        request_id,
    )


def _from_rank_body(body: RankBody, limits: Limits, request_id: str) -> ScoreRequest:
    images = body.images if body.images is not None else [body.image or ""]
    texts = body.texts if body.texts is not None else [body.text or ""]
    _check_count(images, limits)
    _check_count(texts, limits)
    return ScoreRequest(
        _images(images, limits),
        tuple(texts),
        None,
        body.model,
        _metrics(body.metrics),
        body.routing_key,
        body.on_truncate,
        request_id,
    )


def _from_form(images: list[bytes], fields: dict[str, list[str]], request_id: str) -> ScoreRequest:
    known = {"text", "metrics", *_SCALARS}
    unknown = sorted(set(fields) - known)
    if unknown:
        raise InvalidRequestError(
            f"unknown fields: {', '.join(unknown)} (known: image, {', '.join(sorted(known))})"
        )
    repeated = [name for name in _SCALARS if len(fields.get(name, [])) > 1]
    if repeated:
        raise InvalidRequestError(f"{', '.join(repeated)}: given more than once")
    on_truncate = fields.get("on_truncate", ["warn"])[0]
    if on_truncate not in ("warn", "error"):
        raise InvalidRequestError("on_truncate: must be 'warn' or 'error'")
    if not images or not fields.get("text"):
        raise InvalidRequestError("give at least one file field `image` and one field `text`")
    metrics = [name for value in fields.get("metrics", []) for name in value.split(",") if name]
    return ScoreRequest(
        tuple(images),
        tuple(fields["text"]),
        None,
        fields.get("model", [None])[0] or None,
        _metrics(metrics or None),
        fields.get("routing_key", [None])[0],
        "error" if on_truncate == "error" else "warn",
        request_id,
    )


def _check_count(items: Sequence[object], limits: Limits) -> None:
    # Before any item is looked at: a small body can hold a million empty ones.
    if len(items) > limits.max_pairs:
        raise TooManyPairsError(
            f"The request has {len(items)} items; at most {limits.max_pairs} pairs are scored in "
            "one request. Split it."
        )


def _images(values: list[str], limits: Limits) -> tuple[Image, ...]:
    return tuple(parse_image_string(value, limits.max_image_bytes) for value in values)


def _metrics(names: list[str] | None) -> tuple[str, ...] | None:
    return None if names is None else tuple(dict.fromkeys(names))
