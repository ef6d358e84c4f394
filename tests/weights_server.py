"""A server of files that can be made to fail, in a thread or as a process of its own."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class WeightsServer:
    """What is served, and how.

    Attributes:
        files: By path.
        gets: Paths that were asked for by GET, in order.
        cut: GETs that end after half of the bytes.
        fail: Requests that are answered with 503.
        pause_s: Between the parts of an answer, which are 64 KiB.
        tagged: Whether answers have an ETag.
        port: Where it listens.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    gets: list[str] = field(default_factory=list)
    cut: int = 0
    fail: int = 0
    pause_s: float = 0.0
    tagged: bool = True
    port: int = 0

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"


@contextmanager
def serving(files: dict[str, bytes] | None = None) -> Iterator[WeightsServer]:
    server = WeightsServer(dict(files or {}))
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self._head()

        def do_GET(self) -> None:
            with lock:
                server.gets.append(self.path)
                cut = server.cut > 0
                server.cut -= cut
            body = self._head()
            if body is None:
                return
            if cut:
                body = body[: len(body) // 2]
                self.close_connection = True
            try:
                for start in range(0, len(body), 65536):
                    self.wfile.write(body[start : start + 65536])
                    time.sleep(server.pause_s)
            except OSError:
                self.close_connection = True

        def _head(self) -> bytes | None:
            with lock:
                failing = server.fail > 0
                server.fail -= failing
            body = server.files.get(self.path)
            status = 503 if failing else 404 if body is None else 200
            found = body if status == 200 and body is not None else None
            self.send_response(status)
            self.send_header("Content-Length", str(len(found or b"")))
            if found is not None and server.tagged:
                self.send_header("ETag", hashlib.md5(found).hexdigest())
            self.end_headers()
            return found

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    running = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    running.daemon_threads = True
    server.port = running.server_address[1]
    threading.Thread(target=running.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        running.shutdown()
        running.server_close()
