"""This service's own API in this process, over HTTP, and a way to make it fail."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn
import yaml

from serve_app.cli.local import snapshot_here
from serve_app.config.args import Limits
from serve_app.config.declaration import read_declaration
from serve_app.config.ray_environment import free_ports
from serve_app.engine.local import build_local_executor
from serve_app.serving.api import create_api
from serve_app.serving.load import Load
from serve_app.serving.local_service import LocalService


@dataclass
class RemoteServer:
    """A server, and how it fails.

    Attributes:
        url: Where it is.
        asked: Method and path of each request, in order.
        headers: Of each request.
        bodies: Of each request, read.
        fail: Requests that are answered with `status`.
        status: Of those.
        retry_after: A header of those.
        hang_s: Seconds until a request is answered.
        replace: Answers with this body instead.
    """

    url: str = ""
    asked: list[str] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    bodies: list[Any] = field(default_factory=list)
    fail: int = 0
    status: int = 503
    retry_after: str | None = None
    hang_s: float = 0.0
    replace: bytes | None = None

    def reset(self) -> None:
        """As at first."""
        url = self.url
        self.__init__()  # type: ignore[misc]
        self.url = url


@contextmanager
def serving(models: Mapping[str, Any]) -> Iterator[RemoteServer]:
    """Serves these models, each a specification."""
    declared = read_declaration({"SIMILARITY_MODELS": yaml.safe_dump(dict(models))})
    snapshot = snapshot_here(declared.models, threads=1)
    service = LocalService(snapshot, build_local_executor(snapshot), Limits())
    api = create_api(service, Limits(), Load(100, 2**29), answers_request_id=True)
    server = RemoteServer()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await api(scope, receive, send)
            return
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        server.asked.append(f"{scope['method']} {scope['path']}")
        server.headers.append({k.decode(): v.decode() for k, v in scope["headers"]})
        server.bodies.append(json.loads(body) if body else None)
        await asyncio.sleep(server.hang_s)
        failing = server.fail > 0
        server.fail -= failing
        if failing or server.replace is not None:
            headers = [(b"content-type", b"application/json")]
            if server.retry_after is not None:
                headers.append((b"retry-after", server.retry_after.encode()))
            status = server.status if failing else 200
            await send({"type": "http.response.start", "status": status, "headers": headers})
            await send({"type": "http.response.body", "body": server.replace or b"{}"})
            return
        sent = False

        async def again() -> dict[str, Any]:
            nonlocal sent
            if sent:
                return {"type": "http.disconnect"}
            sent = True
            return {"type": "http.request", "body": body, "more_body": False}

        await api(scope, again, send)

    port = free_ports(1)[0]
    config = uvicorn.Config(app, "127.0.0.1", port, log_level="error", lifespan="off")
    running = uvicorn.Server(config)
    thread = threading.Thread(target=running.run, daemon=True)
    thread.start()
    until = time.monotonic() + 30
    while not running.started:
        assert time.monotonic() < until
        time.sleep(0.01)
    server.url = f"http://127.0.0.1:{port}"
    try:
        yield server
    finally:
        running.should_exit = True
        thread.join(10)
