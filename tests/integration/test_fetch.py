"""Fetching URLs in a running service: off unless it is turned on, and never inside."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from tests.integration.support import TRUE, Deploy

FAKE = {"fake": {"backend": "serve_app.testing:FakeDualEncoder"}}


@pytest.fixture
def inside() -> Iterator[tuple[int, list[str]]]:
    """A server on this machine, and what it was asked: nothing, if all is well."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_address[1], asked
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("on", [False, True])
def test_nothing_inside_is_reached(on: bool, deploy: Deploy, inside: tuple[int, list[str]]) -> None:
    port, asked = inside
    variables = {"SIMILARITY_FETCH_URLS": "true"} if on else {}
    http = deploy(models=FAKE, variables=variables).http
    urls = [
        f"https://127.0.0.1:{port}/a.png",
        f"http://127.0.0.1:{port}/a.png",
        f"https://localhost:{port}/a.png",
        "https://localhost/a.png",
        "https://169.254.169.254/latest/meta-data",
        "https://[::1]/a.png",
        "https://2130706433/a.png",
    ]
    answer = http.post("/v1/score", json={"images": urls, "texts": [TRUE]})
    assert answer.status_code == 422
    codes = {result["error"]["code"] for result in answer.json()["results"]}
    assert codes == ({"image_url_refused"} if on else {"image_url_disabled"})
    assert asked == []
    embedded = http.post("/v1/embeddings", json={"input": [{"image": urls[0]}, TRUE]}).json()
    assert embedded["data"][0]["error"]["code"] in codes
    assert embedded["data"][1]["embedding"] is not None
