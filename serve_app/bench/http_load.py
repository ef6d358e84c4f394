"""Load over HTTP: one keep-alive connection per client, written and read by hand.

A full HTTP library would take a tenth of the two cores that it shares with the service. Bodies are
encoded before the start, as `SimilarityClient` encodes them (or as JSON with data URIs).
Run by hand: `python -m serve_app.bench.http_load --url http://127.0.0.1:8000 --clients 16`.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Sequence
from urllib.parse import urlsplit

from serve_app.bench.load import load_parser, prepared_requests, run_load, score_fault
from serve_app.bench.workload import BenchRequest
from serve_app.client.http_codec import score_call
from serve_app.types import ScoreRequest

_PATH = "/v1/score"
_BUFFER_BYTES = 1 << 20


class HttpClient:
    """One connection; opened at the first request, and again after a failure.

    Args:
        host: Host to connect to.
        port: Port to connect to.
        requests: Whole requests (head and body), as bytes.
        texts: Texts in each: as many scores must come back.
    """

    def __init__(self, host: str, port: int, requests: Sequence[bytes], texts: int) -> None:
        self._address = (host, port)
        self._requests = requests
        self._texts = texts
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def send(self, index: int) -> str | None:
        """Sends one request; returns what was wrong with the answer, or None."""
        answer = await self.exchange(self._requests[index])
        if isinstance(answer, str):
            return answer
        status, body = answer
        if status != 200:
            return f"HTTP {status}: {body[:200].decode('utf-8', 'replace')}"
        results = json.loads(body)["results"]
        return score_fault([result.get("score") for result in results], self._texts)

    async def exchange(self, request: bytes) -> tuple[int, bytes] | str:
        """Sends a whole request; returns status and body, or what was wrong with the connection."""
        try:
            if self._streams is None:
                self._streams = await asyncio.open_connection(*self._address, limit=_BUFFER_BYTES)
            reader, writer = self._streams
            writer.write(request)
            await writer.drain()
            status, body, keep = await _read_answer(reader)
        except (OSError, EOFError, ValueError, asyncio.LimitOverrunError) as error:
            await self.close()
            return f"connection: {type(error).__name__}"
        if not keep:
            await self.close()
        return status, body

    async def close(self) -> None:
        """Closes the connection, if there is one."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


async def _read_answer(reader: asyncio.StreamReader) -> tuple[int, bytes, bool]:
    """Status, body, and whether the connection can be used again."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
    status_line, _, rest = head.partition("\r\n")
    fields = dict(line.split(": ", 1) for line in rest.strip().split("\r\n") if ": " in line)
    if fields.get("transfer-encoding") == "chunked":
        body = b""
        while size := int((await reader.readline()).split(b";")[0], 16):
            body += (await reader.readexactly(size + 2))[:-2]
        await reader.readline()
    else:
        body = await reader.readexactly(int(fields.get("content-length", "0")))
    return int(status_line.split(" ")[1]), body, fields.get("connection") != "close"


def encode_request(request: BenchRequest, body: str, host: str, model: str | None) -> bytes:
    """A whole HTTP request.

    Args:
        request: Image and texts.
        body: `multipart` or `json`.
        host: Value of the `Host` header.
        model: Model to ask for; None for the service's default.
    """
    if body == "json":
        uri = "data:image/jpeg;base64," + base64.b64encode(request.image).decode("ascii")
        document = {"images": [uri], "texts": list(request.texts)}
        content = json.dumps(document if model is None else document | {"model": model}).encode()
        content_type = "application/json"
    else:
        call = score_call(_PATH, ScoreRequest((request.image,), request.texts, model=model))
        content, content_type = call.content, call.headers["content-type"]
    head = (
        f"POST {_PATH} HTTP/1.1\r\nHost: {host}\r\nContent-Type: {content_type}\r\n"
        f"Content-Length: {len(content)}\r\n\r\n"
    )
    return head.encode("ascii") + content


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = load_parser("http_load", __doc__)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--body", choices=("multipart", "json"), default="multipart")
    options = parser.parse_args(arguments)
    url = urlsplit(options.url)
    requests = prepared_requests(options)
    texts = len(requests[0].texts)
    encoded = [encode_request(one, options.body, url.netloc, options.model) for one in requests]
    del requests

    async def load() -> None:
        host, port = url.hostname or "127.0.0.1", url.port or 80
        clients = [HttpClient(host, port, encoded, texts) for _ in range(options.clients)]
        try:
            await run_load(options, [client.send for client in clients])
        finally:
            for client in clients:
                await client.close()

    asyncio.run(load())


if __name__ == "__main__":
    main()
