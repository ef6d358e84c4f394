"""Runs the application on a Ray of its own until it is stopped; knows nothing of terminals."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from serve_app.config.args import AppArgs, Autoscaling
from serve_app.config.ray_environment import set_ray_environment
from serve_app.errors import DeviceUnavailableError, NotReadyError
from serve_app.serving.guardian import watch

APP_NAME = "serve_app"
_OBJECT_STORE_BYTES = 1 << 30
_READY_WITHIN_S = 600.0
# The proxy may keep a probe that came before the ingress was there; the next one is answered.
_PROBE_WITHIN_S = 2.0
# Each on a connection of its own: a proxy that was replaced may still take some (see `guardian`).
_PROBES = 10


@dataclass(frozen=True, slots=True)
class LaunchOptions:
    """Where and what to serve.

    Attributes:
        host: Address to listen on.
        port: Port to listen on.
        args: The application's arguments.
        metrics_port: Port at which Prometheus finds metrics; None: any that is free.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    args: AppArgs = field(default_factory=AppArgs)
    metrics_port: int | None = None

    @property
    def url(self) -> str:
        """The address as a client on this machine uses it."""
        host = "127.0.0.1" if self.host in ("0.0.0.0", "::") else self.host  # noqa: S104
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"


def launch(options: LaunchOptions, report: Callable[[str], None]) -> None:
    """Starts Ray and the application, waits for a signal, and takes both down again.

    Args:
        options: Where and what to serve.
        report: Told about each step: `ray`, `models`, `probe`, `ready`, `stopping`, `stopped`.

    Raises:
        NotReadyError: The port is taken, or the application did not become ready; says why.
        DeviceUnavailableError: The pools ask for more GPUs than there are.
    """
    _check_port(options.host, options.port, "--port")
    if options.metrics_port is not None:
        _check_port("0.0.0.0", options.metrics_port, "--metrics-port")  # noqa: S104 - Ray's choice
    with _stop_on_signal() as signals, run_folder() as folder:
        set_ray_environment(folder)
        try:
            report("ray")
            _start_ray(options)
            _check_gpus(options.args)
            signals.listen()  # Ray has put handlers of its own in their place
            report("models")
            _run(options)
            report("probe")
            _wait_ready(options)
            report("ready")
            signal.pause()
        except KeyboardInterrupt:
            pass
        finally:
            signals.stopping = True
            report("stopping")
            _shut_down()
            report("stopped")


class _Signals:
    """SIGINT and SIGTERM interrupt whatever runs, until `stopping`; then they are ignored."""

    def __init__(self) -> None:
        self.stopping = False

    def listen(self) -> None:
        """Puts the handlers in place, also once more."""
        signal.signal(signal.SIGINT, self._on_signal)
        signal.signal(signal.SIGTERM, self._on_signal)

    def _on_signal(self, signum: int, frame: object) -> None:
        if not self.stopping:
            raise KeyboardInterrupt


@contextlib.contextmanager
def _stop_on_signal() -> Iterator[_Signals]:
    previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signals = _Signals()
    signals.listen()
    try:
        yield signals
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def run_folder() -> Iterator[Path]:
    """A folder for a run's files; what is started meanwhile ends with it, even if we are killed."""
    # Not TMPDIR, which may be long: a socket's path has at most 97 characters, and Ray adds 67.
    folder = Path(tempfile.mkdtemp(prefix="serve-app-", dir="/tmp"))
    guardian = watch(folder)
    try:
        yield folder
    finally:
        guardian.communicate()  # closes its input and waits until it is done


def _check_port(host: str, port: int, option: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise NotReadyError(
                f"Cannot listen on {host}:{port}: {error.strerror}. "
                f"Is another service running there? Stop it, or choose {option}."
            ) from error


def _start_ray(options: LaunchOptions) -> None:
    import ray
    from ray import serve

    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    ray.init(
        address="local",
        # Ray's CPUs are bookkeeping: a small machine may run a pool that asks for more.
        num_cpus=max(os.cpu_count() or 1, _cpus(options.args)),
        object_store_memory=_OBJECT_STORE_BYTES,
        include_dashboard=False,
        _metrics_export_port=options.metrics_port,
        logging_level="ERROR",
        log_to_driver=False,
    )
    try:
        serve.start(http_options={"host": options.host, "port": options.port})
    except (ray.exceptions.RayError, TimeoutError) as error:
        raise NotReadyError(
            f"Ray Serve's proxy did not start: {str(error).strip().splitlines()[0]} "
            "Is the machine very busy? Try again."
        ) from error


def _most(replicas: int | Autoscaling) -> int:
    return replicas if isinstance(replicas, int) else replicas.max_replicas


def _cpus(args: AppArgs) -> int:
    total = _most(args.ingress.replicas) * args.ingress.cpus
    total += sum(_most(pool.replicas) * pool.cpus for pool in args.pools)
    return int(total) + 1


def _check_gpus(args: AppArgs) -> None:
    """Refuses what this machine can never give: Ray would wait for the GPUs for ever."""
    import ray

    there = ray.cluster_resources().get("GPU", 0.0)
    wanted = {
        pool.name: _most(pool.replicas) * (float(there > 0) if pool.gpus == "auto" else pool.gpus)
        for pool in args.pools
    }
    if sum(wanted.values()) > there:
        listing = ", ".join(f"{name}: {gpus:g}" for name, gpus in wanted.items() if gpus)
        raise DeviceUnavailableError(
            f"The pools ask for {sum(wanted.values()):g} GPUs ({listing}), and this machine has "
            f"{there:g}. Set `gpus` of the pools to 0, to a fraction, or lower `replicas`."
        )


def _run(options: LaunchOptions) -> None:
    from ray import serve

    from serve_app.app import build_app

    try:
        serve.run(build_app(options.args), name=APP_NAME, route_prefix="/")
    except RuntimeError as error:
        raise NotReadyError(_deployment_message() or str(error)) from error


def _deployment_message() -> str:
    """Why the application is not running, as its deployments say."""
    from ray import serve

    applications = serve.status().applications
    if APP_NAME not in applications:
        return ""
    deployments = applications[APP_NAME].deployments.values()
    return "\n".join(status.message for status in deployments if status.message)


def _wait_ready(options: LaunchOptions) -> None:
    deadline = time.monotonic() + _READY_WITHIN_S
    # Never through a proxy of the environment: it is this machine that is asked.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    reason = "no answer"
    passed = 0
    while passed < _PROBES:
        try:
            with opener.open(f"{options.url}/readyz", timeout=_PROBE_WITHIN_S):
                passed += 1
                continue
        except urllib.error.HTTPError as error:
            reason = error.read().decode("utf-8", "replace")
        except OSError as error:
            reason = str(error)
        if time.monotonic() > deadline:
            raise NotReadyError(f"The service did not become ready: {reason}")
        passed = 0
        time.sleep(0.1)


def _shut_down() -> None:
    import ray
    from ray import serve

    if not ray.is_initialized():  # Serve would look for another Ray, and stop our namesake there
        return
    with contextlib.suppress(Exception):  # a half-started Serve cannot always be taken down
        serve.delete(APP_NAME)  # lets requests in progress end; the rest goes with Ray
    ray.shutdown()
