"""What each way of bringing weights to a service costs at its start, and how large images become.

Run by `make bench-delivery`. One model of real size, with random weights, is brought in each way
that docs/kubernetes.md offers; measured is the time from the start of `serve-app serve` until
`/readyz` answers 200. Downloads come from this machine: add the bytes over the bandwidth.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx

from serve_app.bench.installed import installed_sizes
from serve_app.bench.live_service import demo_models
from serve_app.bench.machine import describe_machine
from serve_app.bench.service import ServiceProcess
from serve_app.config.child_environment import child_environment
from serve_app.config.settings import CACHE_DIR
from serve_app.weights.checksums import file_sha256

_NAME = "model.safetensors"
_WITHIN_S = 600.0

Say = Callable[[str], None]


def measure(architecture: str, rounds: int, say: Say) -> dict[str, Any]:
    """Starts the service in each way, in turn, so often.

    Args:
        architecture: Of OpenCLIP.
        rounds: How often each; the median counts.
        say: Is told what begins.

    Returns:
        JSON-ready: `machine`, `weights_bytes`, `starts` (by way the seconds of each round), and
        `sizes` of what is installed (see `installed_sizes`).
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        weights = folder / "served" / _NAME
        weights.parent.mkdir()
        say(f"writing weights of {architecture}")
        _write_weights(architecture, weights)
        starts: dict[str, list[float]] = {way: [] for way in WAYS}
        with _server(weights.parent) as url:
            bench = _Bench(architecture, weights, f"{url}/{_NAME}", folder)
            for round_ in range(rounds):
                for way, start in WAYS.items():
                    say(f"{way}, {round_ + 1} of {rounds}")
                    starts[way].append(start(bench))
        size = weights.stat().st_size
    return {
        "machine": describe_machine(),
        "architecture": architecture,
        "weights_bytes": size,
        "starts": {
            way: {"seconds": seconds, "median": statistics.median(seconds)}
            for way, seconds in starts.items()
        },
        "sizes": installed_sizes(),
    }


class _Bench:
    """One model, and the ways to it."""

    def __init__(self, architecture: str, weights: Path, address: str, folder: Path) -> None:
        self._architecture = architecture
        self.weights = weights
        self._address = address
        self._sha256 = file_sha256(weights)
        self._filled = folder / "cache"
        self._folder = folder

    def demo(self) -> float:
        """With nothing configured."""
        return self._start(None)

    def local(self) -> float:
        """The file is here, and its pages in memory."""
        return self._start(self._models(str(self.weights)))

    def from_disk(self) -> float:
        """The file is here, and was not read since the machine started."""
        descriptor = os.open(self.weights, os.O_RDONLY)
        try:
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)
        return self.local()

    def downloaded(self) -> float:
        """Nothing is here."""
        with tempfile.TemporaryDirectory(dir=self._folder) as cache:
            return self._start(self._models(self._address), cache)

    def cached(self) -> float:
        """Another pod of the node has brought it here."""
        if not self._filled.exists():
            self._pull(self._filled)
        return self._start(self._models(self._address), str(self._filled))

    def pulled(self) -> float:
        """Another process brings it here before this one starts."""
        with tempfile.TemporaryDirectory(dir=self._folder) as cache:
            begun = time.monotonic()
            self._pull(Path(cache))
            took = time.monotonic() - begun
            return took + self._start(self._models(self._address), cache)

    def hybrid(self) -> float:
        """The demo model is here and answers; the other comes when it is asked for."""
        with tempfile.TemporaryDirectory(dir=self._folder) as cache:
            return self._start(self._models(self._address, beside_demo=True), cache)

    def hybrid_first(self) -> float:
        """Of the hybrid: the first request for the other model."""
        with (
            tempfile.TemporaryDirectory(dir=self._folder) as cache,
            self._service(self._models(self._address, beside_demo=True), cache) as service,
        ):
            service.wait_ready(_WITHIN_S)
            return _first_score(service.url)

    def _start(self, models: str | None, cache: str | None = None) -> float:
        with self._service(models, cache) as service:
            return service.wait_ready(_WITHIN_S)

    def _service(self, models: str | None, cache: str | None) -> ServiceProcess:
        environment = {} if cache is None else {CACHE_DIR: cache}
        return ServiceProcess(models=models, environment=environment)

    def _models(self, pretrained: str, *, beside_demo: bool = False) -> str:
        spec = {
            "architecture": self._architecture,
            "pretrained": pretrained,
            "sha256": self._sha256,
        }
        beside = {"demo": demo_models()["demo"]} if beside_demo else {}
        return json.dumps({**beside, "model": spec})

    def _pull(self, cache: Path) -> None:
        environment = child_environment(models=self._models(self._address))
        subprocess.run(
            [sys.executable, "-m", "serve_app.cli", "models", "pull"],
            env={**environment, CACHE_DIR: str(cache)},
            check=True,
            capture_output=True,
        )


WAYS: Mapping[str, Callable[[_Bench], float]] = {
    "demo models": _Bench.demo,
    "file, in memory": _Bench.local,
    "file, from disk": _Bench.from_disk,
    "address, empty cache": _Bench.downloaded,
    "address, filled cache": _Bench.cached,
    "pulled before the start": _Bench.pulled,
    "hybrid, until ready": _Bench.hybrid,
    "hybrid, first request": _Bench.hybrid_first,
}
"""By name, in the order of the report."""


def _first_score(url: str) -> float:
    from PIL import Image

    with tempfile.SpooledTemporaryFile() as file:
        Image.new("RGB", (224, 224), (200, 30, 30)).save(file, format="PNG")
        file.seek(0)
        begun = time.monotonic()
        answer = httpx.post(
            f"{url}/v1/score",
            data={"text": "a red square", "model": "model"},
            files=[("image", ("red.png", file.read(), "image/png"))],
            timeout=_WITHIN_S,
            trust_env=False,
        )
        answer.raise_for_status()
        return time.monotonic() - begun


def _write_weights(architecture: str, path: Path) -> None:
    """Random weights, as large as trained ones; in a process of its own, for its memory."""
    code = (
        "import sys, open_clip, safetensors.torch as files\n"
        "model = open_clip.create_model(sys.argv[1])\n"
        "files.save_file({k: v.contiguous() for k, v in model.state_dict().items()}, sys.argv[2])\n"
    )
    subprocess.run([sys.executable, "-c", code, architecture, str(path)], check=True)


@contextmanager
def _server(folder: Path) -> Iterator[str]:
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *arguments: object) -> None:
            """Nothing."""

    handler = functools.partial(Quiet, directory=str(folder))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    from rich.console import Console
    from rich.table import Table

    parser = argparse.ArgumentParser(prog="python -m serve_app.bench.delivery", description=__doc__)
    parser.add_argument("--architecture", default="ViT-B-32")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=Path("bench-results/delivery.json"))
    options = parser.parse_args(arguments)
    progress = Console(stderr=True)

    def say(what: str) -> None:
        progress.print(f"{time.strftime('%H:%M:%S')} {what}", highlight=False)

    report = measure(options.architecture, options.rounds, say)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    console = Console()
    starts = Table(title=f"Until ready, {report['weights_bytes'] / 2**20:.0f} MiB of weights")
    starts.add_column("way")
    starts.add_column("median s", justify="right")
    starts.add_column("rounds", justify="right")
    for way, found in report["starts"].items():
        rounds = ", ".join(f"{seconds:.1f}" for seconds in found["seconds"])
        starts.add_row(way, f"{found['median']:.1f}", rounds)
    console.print(starts)
    sizes = Table(title="What is installed")
    for name in ("what", "MiB", "MiB compressed"):
        sizes.add_column(name, justify="left" if name == "what" else "right")
    for what, found in report["sizes"].items():
        sizes.add_row(what, *(f"{found[key] / 2**20:.0f}" for key in ("bytes", "compressed")))
    console.print(sizes)
    progress.print(f"Written: {options.output}")


if __name__ == "__main__":
    main()
