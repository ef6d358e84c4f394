"""Requests of many kinds, good and bad, without end; a table says what may be answered to them."""

from __future__ import annotations

import base64
import io
import json
import random
import socket
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpx

_WORDS = ("red", "blue", "green", "circle", "square", "star", "left", "right", "of", "a", "above")
_LARGEST = 640


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of request.

    Attributes:
        share: How often, relative to the others.
        statuses: What it may be answered with.
        send: Sends one; returns the status.
    """

    share: int
    statuses: frozenset[int]
    send: Callable[[httpx.Client, random.Random], int]


class SoakLoad:
    """Clients that never stop; a context manager.

    Every image and text is new, so that nothing that is kept could answer.

    Args:
        url: Of the service.
        clients: How many.
        seed: Of what they send.

    Attributes:
        counts: Requests by kind and status; a string where there was no answer.
        unexpected: Examples of what was not in the table.
    """

    def __init__(self, url: str, clients: int, seed: int) -> None:
        self.counts: Counter[tuple[str, int | str]] = Counter()
        self.unexpected: Counter[str] = Counter()
        self._url = url
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._threads = [
            threading.Thread(target=self._run, args=(random.Random(f"{seed} {number}"),))
            for number in range(clients)
        ]

    def __enter__(self) -> SoakLoad:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    @property
    def requests(self) -> int:
        """How many there were until now."""
        return sum(self.counts.values())

    @property
    def failures(self) -> int:
        """Those of them whose answer is not in the table."""
        return sum(self.unexpected.values())

    def _run(self, chance: random.Random) -> None:
        kinds = tuple(KINDS.items())
        shares = [kind.share for _, kind in kinds]
        with httpx.Client(base_url=self._url, timeout=60, trust_env=False) as http:
            while not self._stop.is_set():
                [(name, kind)] = chance.choices(kinds, shares)
                status: int | str
                try:
                    status = kind.send(http, chance)
                except (httpx.HTTPError, OSError) as error:
                    status = type(error).__name__
                with self._lock:
                    self.counts[name, status] += 1
                    if status not in kind.statuses:
                        self.unexpected[f"{name}: {status}"] += 1


def _image(chance: random.Random, largest: int = _LARGEST) -> bytes:
    from PIL import Image

    size = (chance.randint(16, largest), chance.randint(16, largest))
    colours = chance.randbytes(3 * 64)
    picture = Image.frombytes("RGB", (8, 8), colours).resize(size)
    buffer = io.BytesIO()
    picture.save(buffer, format=chance.choice(("JPEG", "PNG", "WEBP")))
    return buffer.getvalue()


def _text(chance: random.Random) -> str:
    return f"{' '.join(chance.choices(_WORDS, k=chance.randint(1, 12)))} {chance.getrandbits(32)}"


def _uri(data: bytes) -> str:
    return "data:image/any;base64," + base64.b64encode(data).decode()


def _json(path: str, body: Callable[[random.Random], Any]) -> Any:
    return lambda http, chance: http.post(path, json=body(chance)).status_code


def _multipart(http: httpx.Client, chance: random.Random) -> int:
    data = {"text": [_text(chance) for _ in range(4)]}
    return http.post("/v1/score", data=data, files=[("image", _image(chance))]).status_code


def _cut(http: httpx.Client, chance: random.Random) -> int:
    """A client that goes away before its body is there, without a word."""
    url = urlsplit(str(http.base_url))
    with socket.create_connection((url.hostname or "", url.port or 80), timeout=60) as connection:
        connection.sendall(
            b"POST /v1/score HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Content-Length: 100000\r\n\r\n" + b"{" * chance.randint(1, 50_000)
        )
    return 0


def _given_up(http: httpx.Client, chance: random.Random) -> int:
    """A client that goes away while it is scored."""
    body = json.dumps({"images": [_uri(_image(chance))], "texts": [_text(chance)]}).encode()
    url = urlsplit(str(http.base_url))
    with socket.create_connection((url.hostname or "", url.port or 80), timeout=60) as connection:
        connection.sendall(
            b"POST /v1/score HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n" % len(body) + body
        )
    return 0


def _broken(chance: random.Random) -> bytes:
    image = bytearray(_image(chance))
    for _ in range(chance.randint(1, 20)):
        image[chance.randrange(len(image))] = chance.randrange(256)
    return bytes(image[: chance.randint(1, len(image))])


_OK, _ANY = frozenset({200}), frozenset({200, 422})

KINDS: dict[str, Kind] = {
    "score": Kind(
        30,
        _OK,
        _json(
            "/v1/score",
            lambda chance: {
                "pairs": [
                    {"image": _uri(_image(chance)), "text": _text(chance)}
                    for _ in range(chance.randint(1, 4))
                ]
            },
        ),
    ),
    "multipart": Kind(30, _OK, _multipart),
    "grid": Kind(
        5,
        _OK,
        _json(
            "/v1/score",
            lambda chance: {
                "images": [_uri(_image(chance)) for _ in range(4)],
                "texts": [_text(chance) for _ in range(8)],
                "metrics": ["cosine", "clipscore"],
            },
        ),
    ),
    "rank": Kind(
        5,
        _OK,
        _json(
            "/v1/rank",
            lambda chance: {
                "text": _text(chance),
                "images": [_uri(_image(chance)) for _ in range(3)],
            },
        ),
    ),
    "embeddings": Kind(
        10,
        _OK,
        _json(
            "/v1/embeddings",
            lambda chance: {"input": [_text(chance), {"image": _uri(_image(chance))}]},
        ),
    ),
    "damaged image": Kind(
        5,
        _ANY,
        _json(
            "/v1/score",
            lambda chance: {"images": [_uri(_broken(chance))], "texts": [_text(chance)]},
        ),
    ),
    "unknown model": Kind(
        2,
        frozenset({404}),
        _json(
            "/v1/score",
            lambda chance: {
                "images": [_uri(_image(chance, 64))],
                "texts": [_text(chance)],
                "model": f"made-up-{chance.getrandbits(32)}",
            },
        ),
    ),
    "unknown path": Kind(
        2,
        frozenset({404}),
        lambda http, chance: http.get(f"/made/up/{chance.getrandbits(32)}").status_code,
    ),
    "not JSON": Kind(
        2,
        frozenset({400}),
        lambda http, chance: (
            http.post(
                "/v1/score",
                content=chance.randbytes(chance.randint(1, 10_000)),
                headers={"content-type": "application/json"},
            ).status_code
        ),
    ),
    "models": Kind(3, _OK, lambda http, chance: http.get("/v1/models").status_code),
    "ready": Kind(1, _OK, lambda http, chance: http.get("/readyz").status_code),
    "cut": Kind(3, frozenset({0}), _cut),
    "given up": Kind(3, frozenset({0}), _given_up),
}
"""By name."""
