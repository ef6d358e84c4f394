"""Weights from another machine, in a running service."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from serve_app.config.defaults import WEIGHTS_FOLDER
from tests.integration.support import SWAPPED, TRUE, Deploy, drawing, uri
from tests.weights_server import WeightsServer, serving


@pytest.fixture
def server() -> Iterator[WeightsServer]:
    content = (WEIGHTS_FOLDER / "demo.safetensors").read_bytes()
    with serving({"/demo.safetensors": content}) as running:
        yield running


def test_two_replicas_download_once_and_serve(
    deploy: Deploy, server: WeightsServer, tmp_path: Path
) -> None:
    url = server.url("/demo.safetensors")
    sha256 = hashlib.sha256(server.files["/demo.safetensors"]).hexdigest()
    spec = {"architecture": str(WEIGHTS_FOLDER / "demo.json"), "pretrained": url, "sha256": sha256}
    running = deploy(
        {"pools": [{"gpus": 0, "replicas": 2}]},
        models={"far": spec},
        variables={"SIMILARITY_CACHE_DIR": str(tmp_path / "cache")},
    )
    body = {"images": [uri(drawing())], "texts": [TRUE, SWAPPED]}
    true, swapped = running.http.post("/v1/score", json=body).json()["results"]
    assert true["score"] > swapped["score"]
    assert server.gets == ["/demo.safetensors"]
    told = running.http.get("/v1/models/far").json()
    assert told["pretrained"] == url
    assert told["details"]["weights_sha256"] == sha256
    assert (tmp_path / "cache" / "blobs" / sha256 / "demo.safetensors").is_file()
