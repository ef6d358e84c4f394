"""A command as a person runs it, in an environment without this process's Ray."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

from serve_app.config.ray_environment import free_ports
from serve_app.serving.guardian import end_processes

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent


def environment(**more: str) -> dict[str, str]:
    """A person's environment: none of what a Ray in this process has set."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    return {**kept, "RAY_USAGE_STATS_ENABLED": "0", **more}


@dataclass
class Started:
    """A command as a person runs it; all it prints goes to a file."""

    process: subprocess.Popen[bytes]
    log: Path

    @property
    def output(self) -> str:
        return self.log.read_text()

    def wait_for(self, text: str, seconds: float = 120) -> None:
        self._wait(lambda: text in self.output, f"{text!r} in the output", seconds)

    def wait_ready(self, url: str, seconds: float = 120) -> None:
        self._wait(lambda: answers(f"{url}/readyz"), f"an answer of {url}", seconds)

    def ends(self, seconds: float = 60) -> int:
        return self.process.wait(seconds)

    def _wait(self, done: Callable[[], bool], what: str, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not done():
            assert self.process.poll() is None, self.output
            assert time.monotonic() < deadline, f"no {what}: {self.output}"
            time.sleep(0.2)


def answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=2).status_code == 200
    except httpx.HTTPError:
        return False


@contextmanager
def started(*command: str, **more: str) -> Iterator[Started]:
    # Not pytest's folder: the path of Ray's sockets in it would be too long.
    with tempfile.TemporaryDirectory(prefix="t-", dir="/tmp", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        log = folder / "output"
        with (
            log.open("wb") as output,
            subprocess.Popen(
                [str(BIN / command[0]), *(part.format(folder=folder) for part in command[1:])],
                cwd=ROOT,
                env=environment(**more),
                stdout=output,
                stderr=subprocess.STDOUT,
            ) as process,
        ):
            try:
                yield Started(process, log)
            finally:
                if process.poll() is None:
                    family = psutil.Process(process.pid).children(recursive=True)
                    process.kill()
                    end_processes(set(family))


@contextmanager
def deployed(config: Path, url: str, cpus: int, **more: str) -> Iterator[Started]:
    """A Ray of its own, to which a Serve config was given by `serve deploy`; ready at `url`."""
    gcs, dashboard, agent = free_ports(3)
    # Ray asks for a token by default; both ends must have the same.
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    with started(
        "ray",
        "start",
        "--head",
        "--block",
        f"--num-cpus={cpus}",
        f"--port={gcs}",
        f"--dashboard-port={dashboard}",
        f"--dashboard-agent-listen-port={agent}",
        "--temp-dir={folder}/r",
        **more,
        **token,
    ) as head:
        head.wait_for("Ray runtime started")
        command = [str(BIN / "serve"), "deploy", "-a", f"http://127.0.0.1:{dashboard}", str(config)]
        deadline = time.monotonic() + 120
        while True:
            done = subprocess.run(
                command, cwd=ROOT, env=environment(**token), capture_output=True, text=True
            )
            if done.returncode == 0:
                break
            assert time.monotonic() < deadline and head.process.poll() is None, done.stderr
            time.sleep(2)
        head.wait_ready(url)
        yield head
