"""A service over real HTTP with admin routes: a real control plane, and members that follow it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn

from serve_app.config.access import ADMIN_TOKEN_NAME, Access, ApiKey, key_digest
from serve_app.config.args import Limits
from serve_app.control.sqlite_store import SqliteStateStore
from serve_app.engine.local import build_local_executor
from serve_app.serving.admin import add_admin
from serve_app.serving.api import create_api
from serve_app.serving.gate import Gate
from serve_app.serving.load import Load
from serve_app.serving.local_service import LocalService
from tests.unit.control.fleet import Fleet, Ingress, Replica, fleet, spec

TOKEN = "a token of twenty six chars"

TOKEN_ACCESS = Access((ApiKey(ADMIN_TOKEN_NAME, key_digest(TOKEN), "admin"),))

MODELS = {"fast": spec(1), "slow": spec(2)}
ROUTING = {
    "default": "fast",
    "aliases": {"cheap": "fast"},
    "experiments": {"split": {"arms": {"fast": 90, "slow": 10}}},
}


class Operated:
    """What a test sees of the service.

    Attributes:
        url: Its address.
        fleet: Control plane and members, in the service's thread.
        replica: The one replica.
    """

    def __init__(self) -> None:
        self.url = ""
        self.fleet: Fleet
        self.replica = Replica("r1")
        self.loop: asyncio.AbstractEventLoop

    def run(self, work: Any) -> Any:
        """Runs a coroutine where the control plane lives."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(30)

    def lose(self, model_id: str, why: str) -> None:
        """The replica does not hold a model any longer, and cannot load it again."""

        async def lose() -> None:
            self.replica.broken[model_id] = why
            del self.replica.states[model_id]
            self.replica.tell()

        self.run(lose())

    def declare(self, models: Mapping[str, Any]) -> None:
        self.run(self.fleet.declare(models))
        self.run(self.fleet.complete())


@contextmanager
def operated(
    state: Path, *, admin: bool = True, access: Access = TOKEN_ACCESS
) -> Iterator[Operated]:
    """Runs the service in a thread of its own."""
    made, started, stop = Operated(), threading.Event(), threading.Event()

    async def serve() -> None:
        made.loop = asyncio.get_running_loop()
        store = SqliteStateStore(f"sqlite:///{state}")
        async with fleet(MODELS, ROUTING, store=store) as members:
            made.fleet = members
            ingress = Ingress("i1")
            await members.add(made.replica, ingress)
            await members.complete()
            snapshot = await members.plane.current()
            service = LocalService(snapshot, build_local_executor(snapshot))
            ingress.took = lambda: service.update(ingress.snapshot)  # type: ignore[assignment,arg-type,method-assign]
            api = create_api(service, Limits(), Load(8, 2**29), gate=Gate(access))
            if admin:
                add_admin(api, members.plane)
            config = uvicorn.Config(api, host="127.0.0.1", port=0, log_level="error", ws="none")
            server = uvicorn.Server(config)
            serving = asyncio.ensure_future(server.serve())
            while not server.started:
                await asyncio.sleep(0.005)
            port = server.servers[0].sockets[0].getsockname()[1]
            made.url = f"http://127.0.0.1:{port}"
            started.set()
            await asyncio.to_thread(stop.wait)
            server.should_exit = True
            await serving
            await service.close()
        store.close()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    try:
        while not started.wait(0.05):
            assert thread.is_alive(), "the service ended"
        yield made
    finally:
        stop.set()
        thread.join(30)


__all__ = ["MODELS", "ROUTING", "TOKEN", "Operated", "operated", "spec"]
