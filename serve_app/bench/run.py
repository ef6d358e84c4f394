"""One run: every measurement, one at a time, so that all ratios are of the same machine."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from serve_app.bench.child import Measurement
from serve_app.bench.machine import best_precision, describe_machine
from serve_app.bench.report import Measurements, build_report
from serve_app.bench.service import ServiceProcess
from serve_app.config.args import AppArgs, Autoscaling, PoolArgs
from serve_app.config.serve_file import IMPORT_PATH, read_serve_config
from serve_app.errors import ServeAppError

PARTS = ("startup", "limit", "plain", "http", "handle", "memory")
"""What can be measured, in this order."""

_MODEL = "load"
_BATCH = 8
_CLIENTS = (1, 16)
# Requests are prepared for this much more than the limit allows, so that they cannot run out ...
_SPARE = 1.3
# ... or for this rate where no limit was measured.
_RATE_WITHOUT_LIMIT = 150.0
_MOST_PREPARED = 20_000


@dataclass(frozen=True, slots=True)
class BenchOptions:
    """What to measure.

    Attributes:
        seconds: Seconds that count, per measurement.
        warm_up: Seconds of load before them.
        requests: Requests per replica before its memory is read.
        replicas: Replicas of the pool, where there is no `config`.
        threads: Torch threads of each, where there is no `config`.
        architecture: Architecture that is loaded with random weights.
        precision: Of the limit and the service; `auto`: what suits the machine.
        seed: Seed of requests and weights.
        config: A Serve config file to serve with.
        parts: Which of `PARTS`.
    """

    seconds: float = 20.0
    warm_up: float = 5.0
    requests: int = 1000
    replicas: int = 2
    threads: int = 1
    architecture: str = "ViT-B-32"
    precision: str = "auto"
    seed: int = 0
    config: Path | None = None
    parts: tuple[str, ...] = PARTS


class Bench:
    """Measures.

    Args:
        options: What to measure.
        report: Told what begins now.
    """

    def __init__(self, options: BenchOptions, report: Callable[[str], None]) -> None:
        self._options = options
        self._report = report
        self._args = _args(options)
        pool = self._args.pools[0]
        self._replicas = (
            pool.replicas.max_replicas if isinstance(pool.replicas, Autoscaling) else pool.replicas
        )
        self._threads = max(1, int(pool.cpus)) if pool.threads == "auto" else pool.threads
        self._measured = Measurements()
        self._next_index = 0  # of the requests that were never sent

    @property
    def steps(self) -> int:
        """How often `report` will be called, at most."""
        costs = {"startup": 1, "limit": 3, "plain": 1, "http": 3, "handle": 2, "memory": 1}
        served = any(part in self._options.parts for part in ("http", "handle", "memory"))
        return 1 + sum(costs[part] for part in self._options.parts) + served

    def run(self) -> dict[str, Any]:
        """Measures all parts; one that fails is told in the report, and the others go on."""
        options = self._options
        self._report("Looking at the machine")
        machine = describe_machine()
        created = datetime.now(UTC).isoformat(timespec="seconds")
        if "startup" in options.parts:
            with self._part("startup"):
                self._start_up()
        if "limit" in options.parts:
            with self._part("limit"):
                self._limit()
        if "plain" in options.parts:
            with self._part("plain"):
                self._plain()
        if {"http", "handle", "memory"} & set(options.parts):
            with self._part("service"), tempfile.TemporaryDirectory(prefix="bench-") as folder:
                self._serve(Path(folder))
        settings = {
            **asdict(options),
            "config": str(options.config) if options.config else None,
            "parts": list(options.parts),
            "args": self._args.model_dump(mode="json"),
        }
        return build_report(settings, machine, self._measured, created)

    @contextmanager
    def _part(self, name: str) -> Iterator[None]:
        try:
            yield
        except (ServeAppError, OSError, psutil.Error) as error:
            # Minutes of other figures are worth more than a traceback.
            self._measured.errors.append({"part": name, "detail": str(error)})

    def _start_up(self) -> None:
        self._report("Start-up of the demo service")
        with ServiceProcess() as service:
            self._measured.start_up_s = service.wait_ready()

    def _limit(self) -> None:
        cores = self._replicas * self._threads
        variants = [(1, cores)] if cores == 1 else [(1, cores), (cores, 1)]
        for processes, threads in variants:
            name = f"{processes} process{'es' * (processes > 1)} x {threads} thread" + "s" * (
                threads > 1
            )
            self._report(f"In-process limit, {name}")
            figures = self._in_process(processes, threads, _BATCH)
            self._measured.limit.append({"name": name, **figures})
        self._report("In process, one request at a time")
        self._measured.in_process = self._in_process(1, self._threads, 1)

    def _in_process(self, processes: int, threads: int, batch: int) -> dict[str, Any]:
        """Runs the limit in several processes at the same time and adds them up."""
        options = self._options
        precision = best_precision() if options.precision == "auto" else options.precision
        arguments: list[object] = ["--architecture", options.architecture]
        arguments += ["--precision", precision, "--threads", threads, "--batch", batch]
        arguments += ["--seconds", options.seconds, "--seed", options.seed]
        with ExitStack() as stack:
            running = [
                stack.enter_context(Measurement("limit", arguments, threads=threads))
                for _ in range(processes)
            ]
            for one in running:
                one.wait_ready()
            for one in running:
                one.start()
            results = [one.result() for one in running]
        return {
            **{key: value for key, value in results[0].items() if key != "event"},
            "processes": processes,
            "requests": sum(one["requests"] for one in results),
            "requests_per_s": sum(one["requests_per_s"] for one in results),
        }

    def _plain(self) -> None:
        self._report("Plain open_clip as its README uses it")
        options = self._options
        arguments = ["--architecture", options.architecture, "--seconds", options.seconds]
        with Measurement("plain", [*arguments, "--seed", options.seed]) as measurement:
            result = measurement.run()
        self._measured.plain = {key: value for key, value in result.items() if key != "event"}

    def _serve(self, folder: Path) -> None:
        options = self._options
        self._report("Starting the service")
        config = options.config or _write_config(folder / "serve.yaml", self._args)
        with ServiceProcess(models=_models(options), config=config) as service:
            service.wait_ready()
            if "http" in options.parts:
                with self._part("http"):
                    for body, clients in (("multipart", 1), ("multipart", 16), ("json", 16)):
                        self._http(service, body, clients)
            if "handle" in options.parts:
                with self._part("handle"):
                    for clients in _CLIENTS:
                        self._handle(service, clients)
            if "memory" in options.parts:
                with self._part("memory"):
                    self._memory(service)
            self._measured.model = service.model(_MODEL)

    def _http(self, service: ServiceProcess, body: str, clients: int) -> None:
        self._report(f"Served over HTTP, {body}, clients: {clients}")
        where = ["--url", service.url, "--body", body]
        self._load("http_load", f"http-{body}", where, clients)

    def _handle(self, service: ServiceProcess, clients: int) -> None:
        self._report(f"Served over a handle, callers: {clients}")
        where = ["--address", service.ray_address()]
        self._load("handle_load", "handle", where, clients, service.ray_token)

    def _load(
        self,
        module: str,
        transport: str,
        where: list[str],
        clients: int,
        ray_token: str | None = None,
    ) -> None:
        options = self._options
        best = self._measured.best_limit
        rate = _SPARE * best["requests_per_s"] if best else _RATE_WITHOUT_LIMIT
        count = math.ceil(rate * (options.seconds + options.warm_up)) + 2 * clients
        figures = self._measurement(
            module,
            [*where, "--seconds", options.seconds, "--warm-up", options.warm_up],
            clients,
            min(count, _MOST_PREPARED),
            ray_token,
        )
        self._measured.served.append({"transport": transport, **figures})

    def _measurement(
        self,
        module: str,
        arguments: list[Any],
        clients: int,
        count: int,
        ray_token: str | None = None,
    ) -> dict[str, Any]:
        start, self._next_index = self._next_index, self._next_index + count
        common = ["--model", _MODEL, "--clients", clients, "--count", count]
        common += ["--start", start, "--seed", self._options.seed]
        # Generous: it only ends what hangs.
        deadline_s = 300 + 2 * count
        with Measurement(
            module, [*arguments, *common], ray_token=ray_token, deadline_s=deadline_s
        ) as measurement:
            result = measurement.run()
        return {key: value for key, value in result.items() if key != "event"}

    def _memory(self, service: ServiceProcess) -> None:
        self._report("Memory of the replicas")
        answered = sum(int(one["answered"]) for one in self._measured.served)
        missing = self._options.requests * self._replicas - answered
        if missing > 0:
            arguments = ["--url", service.url, "--warm-up", 0]
            answered += self._measurement("http_load", arguments, 16, missing)["answered"]
        self._measured.memory = {"requests": answered, "replicas": service.replica_memory()}


def _args(options: BenchOptions) -> AppArgs:
    if options.config is not None:
        return read_serve_config(options.config)[0]
    pool = PoolArgs(cpus=options.threads, threads=options.threads, replicas=options.replicas)
    return AppArgs(pools=(pool,))


def _write_config(path: Path, args: AppArgs) -> Path:
    """A Serve config file (JSON is YAML) with the arguments, as a person would write it."""
    application = {
        "name": "serve_app",
        "route_prefix": "/",
        "import_path": IMPORT_PATH,
        "args": args.model_dump(mode="json", exclude_unset=True),
    }
    path.write_text(json.dumps({"applications": [application]}), encoding="utf-8")
    return path


def _models(options: BenchOptions) -> str:
    spec = {
        "backend": "open_clip",
        "architecture": options.architecture,
        "pretrained": "random",
        "allow_random_weights": True,
        "seed": options.seed,
        "precision": options.precision,
        "preload": True,
    }
    return json.dumps({_MODEL: spec})
