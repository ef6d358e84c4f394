"""The service over real HTTP, without Ray: the routes, the engine and fake models."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import uvicorn

from serve_app.config.args import Limits
from serve_app.config.document import Document
from serve_app.config.faults import Origin
from serve_app.config.routing_source import RoutingDocument
from serve_app.engine.local import build_local_executor
from serve_app.models.placement import PoolPlacement
from serve_app.models.registry import DynamicModelRegistry
from serve_app.serving.api import create_api
from serve_app.serving.finished import OnFinished
from serve_app.serving.gate import Gate
from serve_app.serving.load import Load
from serve_app.serving.local_service import LocalService

MODELS = {
    "fake": {"backend": "serve_app.testing:FakeDualEncoder", "architecture": "fake"},
    "pairs": {"backend": "serve_app.testing:FakePairScorer", "architecture": "fake"},
    "broken": {
        "backend": "serve_app.testing:FakeDualEncoder",
        "options": {"fail_load": "the disk is on fire"},
    },
}

ROUTING = {"experiments": {"trial": {"arms": {"broken": 0, "fake": 100}}}}
"""Splits nothing that names no model: its control is not the default."""


@contextmanager
def serving(
    limits: Limits | None = None, gate: Gate | None = None, on_finished: Sequence[OnFinished] = ()
) -> Iterator[str]:
    """Runs the service in a thread; gives its address."""
    limits = limits or Limits()
    registry = DynamicModelRegistry({"default": PoolPlacement()})
    routing = RoutingDocument(ROUTING, Origin("test"))
    snapshot = registry.update(Document(MODELS, Origin("test")), routing)
    service = LocalService(snapshot, build_local_executor(snapshot), limits)
    load = Load(64, limits.max_bodies_bytes)
    api = create_api(service, limits, load, gate=gate, on_finished=on_finished)
    config = uvicorn.Config(api, host="127.0.0.1", port=0, log_level="error", ws="none")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            thread.join(0.01)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
