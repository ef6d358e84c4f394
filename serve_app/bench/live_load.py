"""Steady load that is recorded request by request, while somebody else changes what is served.

Runs until its standard input closes; each line on standard output is one request. The clock is
that of the wall, so that the process that makes the changes can tell what came before and after.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import sys
import time
from collections.abc import Sequence
from urllib.parse import urlsplit

from serve_app.bench.child import emit
from serve_app.bench.http_load import HttpClient, encode_request
from serve_app.bench.workload import BenchRequest

_DISTINCT = 8
_AFTER_FAILURE_S = 0.05


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m serve_app.bench.live_load", description=__doc__
    )
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--model", default=None, help="model to ask for; default: the service's")
    parser.add_argument("--pause", type=float, default=0.0, help="seconds between two requests")
    options = parser.parse_args(arguments)
    asyncio.run(_load(options))


async def _load(options: argparse.Namespace) -> None:
    url = urlsplit(options.url)
    host, port = url.hostname or "127.0.0.1", url.port or 80
    requests = [
        encode_request(_small_request(index), "json", url.netloc, options.model)
        for index in range(_DISTINCT)
    ]
    stop = asyncio.Event()
    emit({"event": "started"})

    async def client(number: int) -> None:
        connection = HttpClient(host, port, (), 1)
        count = number
        while not stop.is_set():
            begun = time.time()
            answer = await connection.exchange(requests[count % _DISTINCT])
            record = {"begun": begun, "ended": time.time(), **_told(answer)}
            sys.stdout.write(json.dumps(record) + "\n")
            count += 1
            if record["fault"] is not None:
                await asyncio.sleep(_AFTER_FAILURE_S)  # not a flood of what fails at once
            elif options.pause:
                await asyncio.sleep(options.pause)
        await connection.close()

    clients = [asyncio.ensure_future(client(number)) for number in range(options.clients)]
    await asyncio.to_thread(sys.stdin.read)
    stop.set()
    await asyncio.gather(*clients)
    sys.stdout.flush()


def _told(answer: tuple[int, bytes] | str) -> dict[str, str | None]:
    """Which model answered, or what was wrong."""
    if isinstance(answer, str):
        return {"model": None, "arm": None, "fault": answer}
    status, body = answer
    if status != 200:
        said = body[:300].decode("utf-8", "replace")
        return {"model": None, "arm": None, "fault": f"HTTP {status}: {said}"}
    document = json.loads(body)
    experiment = document["experiment"] or {}
    wrong = [result for result in document["results"] if "score" not in result]
    fault = f"no score: {wrong[0]}" if wrong else None
    return {"model": document["model"], "arm": experiment.get("arm"), "fault": fault}


def _small_request(index: int) -> BenchRequest:
    """A small picture of one colour, and a text."""
    from PIL import Image

    buffer = io.BytesIO()
    shade = 255 * index // _DISTINCT
    Image.new("RGB", (64, 64), (shade, 64, 255 - shade)).save(buffer, format="JPEG")
    return BenchRequest(buffer.getvalue(), (f"a red square, number {index}",))


if __name__ == "__main__":
    main()
