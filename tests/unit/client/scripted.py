"""A real HTTP server that answers each request as the test wrote it down, and keeps them."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

DROP = "drop"
"""Closes the connection without a byte."""

CUT = "cut"
"""Announces a body and closes the connection in the middle of it."""

HANG = "hang"
"""Never answers, until the server stops."""


@dataclass
class Scripted:
    """What was asked so far."""

    url: str
    requests: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)


@dataclass(frozen=True)
class Say:
    status: int
    body: object
    headers: tuple[tuple[str, str], ...] = ()


def problem(status: int, code: str, **headers: str) -> Say:
    body = {"code": code, "detail": f"because of {code}", "status": status, "request_id": "1"}
    return Say(status, body, tuple((k.replace("_", "-"), v) for k, v in headers.items()))


SCORED = Say(
    200,
    {
        "id": "1",
        "model": "demo@12345678",
        "experiment": None,
        "results": [{"image": 0, "text": 0, "score": 0.5, "scores": {"cosine": 0.5}}],
        "timing_ms": {"total": 1.0},
    },
)


@contextmanager
def scripted_server(*script: Say | str) -> Iterator[Scripted]:
    """Serves the script, one step per request, the last step for all further ones."""
    stopped = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.answer()

        def do_POST(self) -> None:
            self.answer()

        def answer(self) -> None:
            content = self.rfile.read(int(self.headers.get("content-length", 0)))
            log.requests.append((self.path, dict(self.headers), content))
            step = script[min(len(log.requests), len(script)) - 1]
            self.close_connection = True
            if step == HANG:
                stopped.wait(30)
            elif step == CUT:
                self.send_response(200)
                self.send_header("content-length", "100")
                self.end_headers()
                self.wfile.write(b"{")
            elif isinstance(step, Say):
                body = step.body if isinstance(step.body, bytes) else json.dumps(step.body).encode()
                self.send_response(step.status)
                self.send_header("content-length", str(len(body)))
                for name, value in step.headers:
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    log = Scripted(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield log
    finally:
        stopped.set()
        server.shutdown()
        server.server_close()
        thread.join()
