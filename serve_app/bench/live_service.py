"""A running service whose configuration is changed, and the load that goes on meanwhile."""

from __future__ import annotations

import json
import secrets
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml

from serve_app.bench.service import ServiceProcess
from serve_app.config.child_environment import child_environment
from serve_app.config.defaults import WEIGHTS_FOLDER
from serve_app.config.settings import ADMIN_TOKEN, MODELS_FILE, ROUTING_FILE, STATE_URL

_LOOK_S = 0.02


@dataclass(frozen=True, slots=True)
class Record:
    """One request.

    Attributes:
        begun: When it was sent, in seconds since 1970.
        ended: When it was answered.
        model: `name@revision` that answered; None where nothing did.
        arm: Of the experiment that chose it.
        fault: What was wrong; None where nothing was.
    """

    begun: float
    ended: float
    model: str | None
    arm: str | None
    fault: str | None

    @property
    def name(self) -> str | None:
        """Name of the model that answered."""
        return None if self.model is None else self.model.partition("@")[0]


def demo_models(primary: str = "cosine") -> dict[str, Any]:
    """The two models of the package, by name, as they are declared.

    Args:
        primary: The metric of `demo`: with another it is another revision, and costs the same.
    """

    def model(file: str, primary: str) -> dict[str, Any]:
        return {
            "architecture": str(WEIGHTS_FOLDER / f"{file}.json"),
            "pretrained": str(WEIGHTS_FOLDER / f"{file}.safetensors"),
            "primary": primary,
        }

    return {"demo": model("demo", primary), "lite": model("demo-lite", "cosine")}


class LiveLoad:
    """Clients in a process of their own that send one request after the other; a context manager.

    Args:
        url: Of the service.
        clients: How many.
        model: What they ask for; None: the service's default.
        pause_s: Between a client's requests.
    """

    def __init__(
        self, url: str, *, clients: int = 16, model: str | None = None, pause_s: float = 0.0
    ) -> None:
        command = [sys.executable, "-m", "serve_app.bench.live_load", "--url", url]
        command += ["--clients", str(clients), "--pause", str(pause_s)]
        if model is not None:
            command += ["--model", model]
        self._records: list[Record] = []
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=child_environment(threads=1),
        )
        self._reader = threading.Thread(target=self._read, daemon=True)

    def __enter__(self) -> LiveLoad:
        assert self._process.stdout is not None  # noqa: S101 - for the type checker
        self._process.stdout.readline()  # it has started
        self._reader.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def stop(self) -> list[Record]:
        """Lets the requests in progress end; returns all records."""
        if self._process.stdin is not None and not self._process.stdin.closed:
            self._process.stdin.close()
        try:
            self._process.wait(150)
        except subprocess.TimeoutExpired:
            self._process.kill()
        self._reader.join(10)
        if self._process.stdout is not None:
            self._process.stdout.close()
        return self.records()

    def records(self) -> list[Record]:
        """What has been recorded until now; some that are over may still be on their way."""
        return list(self._records)

    def _read(self) -> None:
        assert self._process.stdout is not None  # noqa: S101 - for the type checker
        for line in self._process.stdout:
            self._records.append(Record(**json.loads(line)))


class LiveService:
    """`serve-app serve` with models and routing in files, and an operator; a context manager.

    Args:
        models: What is declared at first: name to spec.
        routing: Which of them answers what; None: nothing is said about it.
        args: The application's arguments, as in `serve_config.yaml`.
    """

    def __init__(
        self,
        models: Mapping[str, Any],
        routing: Mapping[str, Any] | None = None,
        args: Mapping[str, Any] | None = None,
    ) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self.folder = Path(self._folder.name)
        self._token = secrets.token_hex(16)
        self.declare(models)
        environment = {
            MODELS_FILE: str(self.folder / "models" / "models.yaml"),
            ADMIN_TOKEN: self._token,
            STATE_URL: f"sqlite:///{self.folder}/state.db",
        }
        if routing is not None:
            self.route(routing)
            environment[ROUTING_FILE] = str(self.folder / "routing" / "routing.yaml")
        config = self.folder / "serve.yaml"
        application = {"import_path": "serve_app.app:build_app", "args": dict(args or {})}
        config.write_text(yaml.safe_dump({"applications": [application]}))
        self.process = ServiceProcess(config=config, environment=environment)
        self.url = self.process.url
        self.http = httpx.Client(base_url=self.url, timeout=120, trust_env=False)

    def __enter__(self) -> LiveService:
        self.process.__enter__()
        self.process.wait_ready()
        return self

    def __exit__(self, *exception: object) -> None:
        self.http.close()
        self.process.__exit__(None, None, None)
        self._folder.cleanup()

    def declare(self, models: Mapping[str, Any]) -> None:
        """Declares models, as the kubelet updates a mounted ConfigMap: by the swap of a link."""
        self._mount("models", "models.yaml", yaml.safe_dump(dict(models), sort_keys=False))

    def route(self, routing: Mapping[str, Any]) -> None:
        """Declares routing, likewise."""
        self._mount("routing", "routing.yaml", yaml.safe_dump(dict(routing), sort_keys=False))

    def write(self, volume: str, text: str | None) -> None:
        """Puts any text in place of a document; None takes the file away."""
        self._mount(volume, f"{volume}.yaml", text)

    def operate(self, kind: str, **body: Any) -> dict[str, Any]:
        """Does what an operator asks for; see docs/operations.md.

        Raises:
            httpx.HTTPStatusError: It was refused, or has failed.
        """
        body = {"who": "operator", "reason": "a rehearsal", **body}
        answer = self.http.post(f"/v1/admin/{kind}", json=body, headers=self.authorization)
        if answer.is_error:
            raise httpx.HTTPStatusError(answer.text, request=answer.request, response=answer)
        document: dict[str, Any] = answer.json()
        return document

    @property
    def authorization(self) -> dict[str, str]:
        """The header that admin routes ask for."""
        return {"Authorization": f"Bearer {self._token}"}

    def status(self) -> dict[str, Any]:
        """What the control plane says of itself."""
        answer = self.http.get("/v1/admin/status", headers=self.authorization)
        answer.raise_for_status()
        document: dict[str, Any] = answer.json()
        return document

    def can_operate(self) -> bool:
        """Whether the control plane answers."""
        return self.http.get("/v1/admin/status", headers=self.authorization).is_success

    def models(self) -> dict[str, Any]:
        """`GET /v1/models`."""
        document: dict[str, Any] = self.http.get("/v1/models").raise_for_status().json()
        return document

    def active(self, name: str) -> str | None:
        """The id that a name answers with."""
        for model in self.models()["data"]:
            if model["name"] == name and model["state"] == "active":
                return str(model["id"])
        return None

    def wait(self, what: str, true: Callable[[], Any], within_s: float = 60.0) -> Any:
        """Waits until something is so.

        Returns:
            What `true` returned.

        Raises:
            TimeoutError: It was not so in time.
        """
        until = time.monotonic() + within_s
        while not (found := true()):
            if time.monotonic() > until:
                raise TimeoutError(f"after {within_s:g} s: {what}; models: {self.models()}")
            time.sleep(_LOOK_S)
        return found

    def wait_replaced(self, name: str, before: str | None, within_s: float = 60.0) -> str:
        """Waits until a name answers with another revision; returns it."""

        def another() -> str | None:
            now = self.active(name)
            return now if now not in (None, before) else None

        return str(self.wait(f"{name} still answers with {before}", another, within_s))

    def _mount(self, volume: str, name: str, text: str | None) -> None:
        folder = self.folder / volume
        folder.mkdir(exist_ok=True)
        content = Path(tempfile.mkdtemp(prefix="..", dir=folder))
        if text is not None:
            (content / name).write_text(text)
        link = folder / "..data_tmp"
        link.symlink_to(content.name)
        link.replace(folder / "..data")
        if not (folder / name).is_symlink():
            (folder / name).symlink_to(f"..data/{name}")
