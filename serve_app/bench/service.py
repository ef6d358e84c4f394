"""The service as a user starts it: `serve-app serve` in a process of its own."""

from __future__ import annotations

import json
import secrets
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import psutil

from serve_app.config.child_environment import child_environment
from serve_app.config.ray_environment import free_ports
from serve_app.errors import NotReadyError

_STOP_WITHIN_S = 60.0
_PROBES = 10
_REPLICA = "ServeReplica:"
_ON_EACH_NODE = (
    "/raylet/raylet",
    "DashboardAgent",
    "RuntimeEnvAgent",
    "log_monitor.py",
    "ProxyActor",
    "HAProxyManager",
    "/haproxy ",
)
_ON_THE_HEAD = ("gcs_server", "dashboard.py", "monitor.py", "ServeController")


class ServiceProcess:
    """A running service; a context manager that stops it.

    Args:
        models: Text of `SIMILARITY_MODELS`; None: the demo models.
        config: A Serve config file; None: the defaults.
        environment: Further variables of the process.
    """

    def __init__(
        self,
        *,
        models: str | None = None,
        config: Path | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.port = free_ports(1)[0]
        self.url = f"http://127.0.0.1:{self.port}"
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  # closed in __exit__
        command = ["serve", "--port", str(self.port)]
        if config is not None:
            command += ["--config", str(config)]
        # A token of this run alone, so that the run's own jobs may join the service's Ray.
        self.ray_token = secrets.token_hex(32)
        self._started = time.monotonic()
        self._process = psutil.Popen(
            [sys.executable, "-m", "serve_app.cli", *command],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            env={
                **child_environment(models=models, ray_token=self.ray_token),
                **(environment or {}),
            },
        )

    def __enter__(self) -> ServiceProcess:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        family = self._family()
        if self._process.is_running():
            self._process.send_signal(signal.SIGINT)
        try:
            self._process.wait(_STOP_WITHIN_S)
        except psutil.TimeoutExpired:
            self._process.kill()
        # Ray's processes end by themselves when their driver has; those that hang do not.
        for process in psutil.wait_procs(family, timeout=10)[1]:
            process.kill()
        self._log.close()

    def wait_ready(self, within_s: float = 300.0) -> float:
        """Waits until `/readyz` says 200.

        Returns:
            Seconds since the process was started.

        Raises:
            NotReadyError: It ended, or the time did; the message has the end of what it said.
        """
        passed, ready_at = 0, 0.0
        while True:
            try:
                with urllib.request.urlopen(f"{self.url}/readyz", timeout=60):  # noqa: S310
                    passed += 1
            except OSError:  # refused, or 503: not yet
                passed = 0
            # The first counts; the others see that no older proxy takes connections any longer.
            ready_at = time.monotonic() - self._started if passed == 1 else ready_at
            if passed == _PROBES:
                return ready_at
            if passed:
                continue
            if self._process.poll() is not None:
                raise NotReadyError(f"The service ended. It said:\n{self._said()}")
            if time.monotonic() - self._started > within_s:
                raise NotReadyError(
                    f"The service was not ready after {within_s:.0f} s. It said:\n{self._said()}"
                )
            time.sleep(0.05)

    def model(self, name: str) -> dict[str, Any]:
        """What `/v1/models/{name}` says."""
        with urllib.request.urlopen(f"{self.url}/v1/models/{name}", timeout=30) as answer:  # noqa: S310
            document: dict[str, Any] = json.load(answer)
        return document

    def ray_address(self) -> str:
        """Address of the service's own Ray, read off its processes.

        `auto` might be another Ray on the same machine.
        """
        flag = "--gcs-address="
        for process in self._family():
            for argument in _command_line(process):
                if argument.startswith(flag):
                    return argument.removeprefix(flag)
        raise NotReadyError("The service's Ray cannot be found among its processes.")

    def replica_memory(self) -> list[dict[str, Any]]:
        """PSS (memory, shared pages divided by their users) of each deployment's replicas.

        Returns:
            Per replica `deployment`, `pid` and `pss_bytes`; `pss_bytes` is None where the system
            does not tell.
        """
        found = []
        for deployment, process in self._replicas():
            memory = process.memory_full_info()
            found.append(
                {
                    "deployment": deployment,
                    "pid": process.pid,
                    "pss_bytes": getattr(memory, "pss", None),
                }
            )
        return found

    def replica_pids(self, deployment: str) -> list[int]:
        """Process ids of a deployment's replicas that are alive now."""
        return [process.pid for name, process in self._replicas() if name == deployment]

    def groups(self) -> dict[str, dict[str, float]]:
        """Memory, open handles and threads of the service's processes.

        Memory is what is a process's own (anonymous, and its share of shared memory), in bytes:
        pages of files are counted by how many other processes of the machine have them too.

        Returns:
            By deployment, what of Ray and Serve is on each node (`node`), and on the head alone
            (`head`), for the process that started them (`driver`), and for `all`.
        """
        found: dict[str, dict[str, float]] = {}
        replicas = {process.pid: name for name, process in self._replicas()}
        for process in [self._process, *self._family()]:
            try:
                with process.oneshot():
                    figures = {
                        "memory": _own_memory(process),
                        "handles": process.num_fds(),
                        "threads": process.num_threads(),
                    }
            except (psutil.Error, OSError):  # it has just ended
                continue
            for group in (replicas.get(process.pid) or _part_of_ray(process), "all"):
                known = found.setdefault(group, dict.fromkeys(figures, 0.0))
                for name, figure in figures.items():
                    known[name] += figure
        return found

    def _replicas(self) -> list[tuple[str, psutil.Process]]:
        """Deployment and process of every replica."""
        found = []
        for process in self._family():
            title = " ".join(_command_line(process))
            if _REPLICA in title:
                # While it does something else, its title goes on with what that is.
                name = title.partition(_REPLICA)[2].split(":")[-1].split()[0].partition(".")[0]
                found.append((name, process))
        return found

    def _family(self) -> list[psutil.Process]:
        try:
            return list(self._process.children(recursive=True))
        except psutil.NoSuchProcess:
            return []

    def _said(self) -> str:
        self._log.seek(0)
        return self._log.read().decode("utf-8", "replace").strip()[-3000:] or "(nothing)"


def _own_memory(process: psutil.Process) -> int:
    rollup = Path(f"/proc/{process.pid}/smaps_rollup")
    if not rollup.exists():
        return int(process.memory_info().rss)
    wanted = ("Pss_Anon:", "Pss_Shmem:")
    lines = rollup.read_text(encoding="ascii", errors="replace").splitlines()
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith(wanted))


def _part_of_ray(process: psutil.Process) -> str:
    title = " ".join(_command_line(process))
    if any(part in title for part in _ON_EACH_NODE):
        return "node"
    return "head" if any(part in title for part in _ON_THE_HEAD) else "driver"


def _command_line(process: psutil.Process) -> list[str]:
    try:
        return list(process.cmdline())
    except psutil.Error:
        return []
