"""What surrounds a request leaves nothing behind, and fails well."""

from __future__ import annotations

import gc
import http.client
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send

from serve_app.config.access import Access
from serve_app.serving.finished import FinishedRequest
from serve_app.serving.gate import Gate
from serve_app.serving.load import Load
from serve_app.serving.request_scope import RequestScope
from tests.http_service import serving
from tests.integration.support import TRUE, drawing, uri

FORM = """--X
Content-Disposition: form-data; name="text"

a red circle
--X
Content-Disposition: form-data; name="image"; filename="drawing.png"
Content-Type: image/png

IMAGE
--X--
"""


@contextmanager
def uncollected() -> Iterator[list[Any]]:
    """Gives, when the block is over, what only Python's collector can get rid of."""
    found: list[Any] = []
    gc.collect()
    gc.disable()
    try:
        yield found
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        found += gc.garbage
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


def post(address: str, path: str, body: bytes, media_type: str) -> int:
    """By the plainest of clients: others leave something behind themselves."""
    connection = http.client.HTTPConnection(address.removeprefix("http://"))
    connection.request("POST", path, body, {"Content-Type": media_type})
    answer = connection.getresponse()
    answer.read()
    connection.close()
    return answer.status


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/v1/score", {"images": ["IMAGE"], "texts": [TRUE]}, 200),
        ("/v1/score", {"images": ["IMAGE"], "texts": [TRUE], "model": "broken"}, 503),
        ("/v1/score", {"images": ["IMAGE"], "texts": [TRUE], "model": "nobody"}, 404),
        ("/v1/score", {"images": ["IMAGE"], "texts": [TRUE], "x": 1}, 422),
        ("/v1/score", {"images": ["IMAGE"[:-1]], "texts": [TRUE]}, 422),
        ("/v1/score", {"images": ["IMAGE", "IMA"], "texts": [TRUE, " "]}, 200),
        ("/v1/score", FORM, 200),
        ("/v1/score", FORM.replace("text", "nothing"), 422),
        ("/v1/embeddings", {"input": [{"image": "IMAGE"}]}, 200),
    ],
)
def test_nothing_is_left_for_the_collector(path: str, body: Any, status: int) -> None:
    """Under Ray Serve it comes by seldom, and what it finds late is memory until then."""
    image = drawing() + bytes(300_000)  # a PNG ends before what follows it
    if isinstance(body, str):
        media_type = "multipart/form-data; boundary=X"
        sent = body.replace("\n", "\r\n").encode().replace(b"IMAGE", image)
    else:
        media_type, sent = (
            "application/json",
            json.dumps(body).replace("IMAGE", uri(image)).encode(),
        )
    with serving() as address:
        assert post(address, path, sent, media_type) == status  # what is made once is made
        with uncollected() as found:
            for _ in range(3):
                assert post(address, path, sent, media_type) == status
    assert [type(one).__name__ for one in found] == []


async def answered(app: Any, told: list[FinishedRequest]) -> list[Message]:
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": "GET",
        "path": "/v1/models",
        "headers": [(b"x-request-id", b"one")],
    }
    surrounded = RequestScope(
        app,
        gate=Gate(Access()),
        load=Load(1, 1),
        answers_request_id=True,
        on_finished=(told.append,),
    )
    await surrounded(scope, receive, send)
    return sent


async def test_a_defect_is_a_problem_with_an_id(caplog: pytest.LogCaptureFixture) -> None:
    async def defect(scope: Scope, receive: Receive, send: Send) -> None:
        raise ZeroDivisionError

    told: list[FinishedRequest] = []
    with caplog.at_level(logging.ERROR):
        start, body = await answered(defect, told)
    assert start["status"] == 500
    assert dict(start["headers"])[b"x-request-id"] == b"one"
    assert json.loads(body["body"])["code"] == "internal_error"
    assert "ZeroDivisionError" in caplog.text and "request one" in caplog.text
    assert [(one.status, one.code) for one in told] == [(500, "internal_error")]


async def test_what_was_begun_cannot_become_a_problem() -> None:
    async def half(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise ZeroDivisionError

    told: list[FinishedRequest] = []
    with pytest.raises(RuntimeError, match="broken off"):
        await answered(half, told)
    assert [(one.status, one.code) for one in told] == [(200, "internal_error")]


async def test_what_is_no_request_goes_by() -> None:
    seen = []

    async def lifespan(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope["type"])

    surrounded = RequestScope(
        lifespan, gate=Gate(Access()), load=Load(1, 1), answers_request_id=True, on_finished=()
    )
    nothing: Any = None
    await surrounded({"type": "lifespan"}, nothing, nothing)
    assert seen == ["lifespan"]
