"""The HTTP contract as the client sees it: requests as bytes, answers as responses or errors.

Does no input or output, so that the sync and the async transport share all of it.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import httpx

from serve_app.client.retry import TransientFailure
from serve_app.errors import (
    DeadlineExceededError,
    NotReadyError,
    ServeAppError,
    ServiceError,
    UnexpectedError,
    error_from_code,
)
from serve_app.types import (
    EmbedRequest,
    EmbedResponse,
    EmbedResult,
    ExperimentArm,
    ImageUrl,
    ItemFault,
    ItemWarning,
    PairResult,
    ScoreRequest,
    ScoreResponse,
)

_PASSING_CODES = ("overloaded", "not_ready")


_ACCEPTED = 202


@dataclass(frozen=True, slots=True)
class HttpCall:
    """A request, encoded once however often it is sent."""

    method: str
    path: str
    content: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class HttpReply:
    """A whole answer."""

    url: str
    status: int
    headers: Mapping[str, str]
    content: bytes


def score_call(path: str, request: ScoreRequest) -> HttpCall:
    """A grid goes as multipart, its files as they are; pairs have no such form and go as JSON."""
    options: dict[str, Any] = {
        "model": request.model,
        "routing_key": request.routing_key,
        "on_truncate": request.on_truncate,
        "metrics": list(request.metrics) if request.metrics else None,
    }
    options = {name: value for name, value in options.items() if value is not None}
    images = [_bytes(image) for image in request.images]
    headers = _identity(request.request_id)
    if request.pairs is not None:
        encoded = [base64.b64encode(image).decode("ascii") for image in images]
        pairs = [
            {"image": encoded[image], "text": request.texts[text]} for image, text in request.pairs
        ]
        return _json_call(path, {"pairs": pairs, **options}, headers)
    form = httpx.Request(
        "POST",
        "http://multipart",
        data={"text": list(request.texts), **options},
        files=[
            ("image", (f"{i}", image, "application/octet-stream")) for i, image in enumerate(images)
        ],
    )
    headers["content-type"] = form.headers["content-type"]
    return HttpCall("POST", path, form.read(), headers)


def embed_call(request: EmbedRequest) -> HttpCall:
    """Embeddings come back as base64: exact, and a fraction of the size of decimals."""
    items = [
        item if isinstance(item, str) else {"image": base64.b64encode(_bytes(item)).decode("ascii")}
        for item in request.inputs
    ]
    body: dict[str, Any] = {
        "input": items,
        "encoding_format": "base64",
        "on_truncate": request.on_truncate,
    }
    if request.model is not None:
        body["model"] = request.model
    if request.routing_key is not None:
        body["routing_key"] = request.routing_key
    return _json_call("/v1/embeddings", body, _identity(request.request_id))


def score_response(reply: HttpReply) -> ScoreResponse:
    """The response of `/v1/score` and `/v1/rank`; raises the error of a request that failed."""
    answer = _answer(reply, "results")
    try:
        return ScoreResponse(
            answer.get("id") or answer["request_id"],
            answer["model"],
            tuple(_pair_result(result) for result in answer["results"]),
            answer["timing_ms"],
            _experiment(answer),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise _foreign(reply) from error


def embed_response(reply: HttpReply) -> EmbedResponse:
    """The response of `/v1/embeddings`; raises the error of a request that failed."""
    answer = _answer(reply, "data")
    try:
        results = tuple(_embed_result(item) for item in answer["data"])
        sizes = [len(result.embedding) // 4 for result in results if result.embedding is not None]
        return EmbedResponse(
            answer.get("id") or answer["request_id"],
            answer.get("model", ""),
            sizes[0] if sizes else 0,
            results,
            answer.get("timing_ms", {}),
            _experiment(answer),
        )
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise _foreign(reply) from error


def models_response(reply: HttpReply) -> dict[str, Any]:
    """The document of `/v1/models`."""
    answer = _answer(reply)
    if not isinstance(answer.get("data"), list):
        raise _foreign(reply)
    return answer


def json_object(reply: HttpReply) -> dict[str, Any]:
    """The JSON object of a success; also of one that is not complete yet (202)."""
    return _answer(replace(reply, status=200) if reply.status == _ACCEPTED else reply)


def check_ready(reply: HttpReply) -> None:
    """Raises what `/readyz` says is missing."""
    _answer(reply)


def raise_if_passing(reply: HttpReply) -> None:
    """Raises `TransientFailure` for answers that say "not now"; leaves others to their parser."""
    if reply.status not in (429, 503):
        return
    error = _error(reply)
    seconds = reply.headers.get("retry-after", "")
    if error.code in _PASSING_CODES or seconds:
        raise TransientFailure(error, float(seconds) if seconds.isdecimal() else None)


def connection_failure(error: httpx.TransportError, url: str, timeout_s: float) -> ServeAppError:
    """What a broken connection means for the caller, said without library names."""
    if isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout)):
        return NotReadyError(f"Cannot reach {url} ({_reason(error)}); is the service running?")
    if isinstance(error, httpx.TimeoutException):
        return DeadlineExceededError(
            f"No answer from {url} within {timeout_s:g} s, the client's timeout."
        )
    return ServiceError(f"The connection to {url} broke ({_reason(error)}).")


def is_passing(error: httpx.TransportError) -> bool:
    """Whether a failure before the answer began is worth another try; a timeout is used up."""
    if isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout)):
        return True
    return isinstance(error, (httpx.NetworkError, httpx.RemoteProtocolError))


def _reason(error: httpx.TransportError) -> str:
    return str(error) or type(error).__name__


def _answer(reply: HttpReply, results: str | None = None) -> dict[str, Any]:
    """The JSON object of a success, or of a 422 that carries the failed items' `results`."""
    if reply.status != 200:
        document = _document(reply)
        if results is not None and document.get("code") == "all_items_failed":
            return document
        raise _error(reply)
    document = _document(reply)
    if not document:
        raise _foreign(reply)
    return document


def _document(reply: HttpReply) -> dict[str, Any]:
    try:
        document = json.loads(reply.content)
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


def _error(reply: HttpReply) -> ServeAppError:
    document = _document(reply)
    code, detail = document.get("code"), document.get("detail")
    if isinstance(code, str) and isinstance(detail, str):
        return error_from_code(code, detail)
    # Not from our routes: a proxy in between, or another program.
    said = " ".join(reply.content.decode("utf-8", "replace").split())[:200]
    detail = f"{reply.url} answered HTTP {reply.status}" + (f": {said}" if said else ".")
    return NotReadyError(detail) if reply.status == 503 else ServiceError(detail)


def _foreign(reply: HttpReply) -> UnexpectedError:
    return UnexpectedError(
        f"{reply.url} answered something else than this client understands; is it serve_app, and "
        "of the same version?"
    )


def _experiment(answer: Mapping[str, Any]) -> ExperimentArm | None:
    chosen = answer.get("experiment")
    return None if chosen is None else ExperimentArm(chosen["name"], chosen["arm"])


def _pair_result(result: Mapping[str, Any]) -> PairResult:
    return PairResult(
        result["image"],
        result["text"],
        result.get("score"),
        result.get("scores") or {},
        _warnings(result),
        _fault(result),
        result.get("rank"),
    )


def _embed_result(item: Mapping[str, Any]) -> EmbedResult:
    embedding = item.get("embedding")
    return EmbedResult(
        item["index"],
        None if embedding is None else base64.b64decode(embedding, validate=True),
        item.get("tokens", 0),
        _warnings(item),
        _fault(item),
    )


def _warnings(item: Mapping[str, Any]) -> tuple[ItemWarning, ...]:
    return tuple(
        ItemWarning(warning["code"], warning["detail"], warning.get("tokens"), warning.get("limit"))
        for warning in item.get("warnings") or ()
    )


def _fault(item: Mapping[str, Any]) -> ItemFault | None:
    error = item.get("error")
    return None if error is None else ItemFault(error["code"], error["detail"])


def _json_call(path: str, body: dict[str, Any], headers: dict[str, str]) -> HttpCall:
    headers["content-type"] = "application/json"
    content = json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()
    return HttpCall("POST", path, content, headers)


def _identity(request_id: str | None) -> dict[str, str]:
    return {} if request_id is None else {"x-request-id": request_id}


def _bytes(image: bytes | ImageUrl | ItemFault) -> bytes:
    if isinstance(image, ImageUrl):
        raise TypeError("URLs of images are for handles and for JSON; send the image's bytes")
    if isinstance(image, ItemFault):
        raise error_from_code(image.code, image.detail)
    return image
