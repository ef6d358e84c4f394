"""Measuring processes and how they talk: `ready`, then a line on stdin starts them, then `result`.

Every measurement runs in a process of its own, so that none carries the memory, the threads or the
caches of another. Preparation (loading, making requests) ends at `ready` and is never measured.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from types import TracebackType
from typing import IO, Any

from serve_app.config.child_environment import child_environment
from serve_app.errors import ServeAppError


def emit(message: dict[str, Any]) -> None:
    """Writes one JSON line to stdout; called in the child."""
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def wait_for_start(*, wait: bool) -> None:
    """Says `ready` and waits for the parent's line; without `wait` (run by hand) goes on."""
    if wait:
        emit({"event": "ready"})
        sys.stdin.readline()


class Measurement:
    """The parent's side of one measuring process; a context manager that ends it.

    Args:
        module: A module of `serve_app.bench` that follows the protocol.
        arguments: Its command line, without `--wait`.
        threads: Threads that OpenMP may use in it; None: the libraries' own default.
        ray_token: Token of the Ray cluster that it joins, if it does.
        deadline_s: Seconds until it is ended, whatever it does.
    """

    def __init__(
        self,
        module: str,
        arguments: Sequence[object],
        *,
        threads: int | None = None,
        ray_token: str | None = None,
        deadline_s: float = 600.0,
    ) -> None:
        self._module = module
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  # closed in __exit__
        self._process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                f"serve_app.bench.{module}",
                *(str(argument) for argument in arguments),
                "--wait",
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env=child_environment(threads=threads, ray_token=ray_token),
        )
        self._timer = threading.Timer(deadline_s, self._process.kill)
        self._timer.daemon = True
        self._timer.start()

    def __enter__(self) -> Measurement:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._timer.cancel()
        if self._process.poll() is None:
            self._process.kill()
        self._process.communicate()
        self._errors.close()

    def wait_ready(self) -> None:
        """Returns when the process has prepared everything.

        Raises:
            ServeAppError: It ended before; the message has the end of what it said.
        """
        self._expect("ready")

    def start(self) -> None:
        """Lets it begin to measure."""
        if self._process.stdin is None:
            raise ServeAppError("the measuring process has no stdin")
        self._process.stdin.write("start\n")
        self._process.stdin.flush()

    def result(self) -> dict[str, Any]:
        """Waits for its figures.

        Raises:
            ServeAppError: It ended without any; the message has the end of what it said.
        """
        return self._expect("result")

    def run(self) -> dict[str, Any]:
        """All three steps."""
        self.wait_ready()
        self.start()
        return self.result()

    def _expect(self, event: str) -> dict[str, Any]:
        if self._process.stdout is None:
            raise ServeAppError("the measuring process has no stdout")
        for line in self._process.stdout:
            if not line.startswith("{"):
                continue  # a library that talks on stdout
            message: dict[str, Any] = json.loads(line)
            if message.get("event") == event:
                return message
        code = self._process.wait()
        self._errors.seek(0)
        said = self._errors.read().decode("utf-8", "replace").strip()[-2000:]
        raise ServeAppError(
            f"The measurement `{self._module}` ended with code {code} before `{event}`. "
            f"It said:\n{said or '(nothing)'}"
        )
