"""`serve-app serve` and the Serve commands, as a person starts and stops them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
import pytest

from serve_app.config.ray_environment import free_ports
from tests.integration.support import TRUE, UNRELATED, drawing

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent


def environment(**more: str) -> dict[str, str]:
    """A person's environment: none of what a Ray in this process has set."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    return {**kept, "RAY_USAGE_STATS_ENABLED": "0", **more}


@contextmanager
def started(*command: str, **more: str) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [str(BIN / command[0]), *command[1:]],
        cwd=ROOT,
        env=environment(**more),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def wait_ready(url: str, process: subprocess.Popen[str], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()[0]
        try:
            if httpx.get(f"{url}/readyz", timeout=10).status_code == 200:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.3)
    pytest.fail(f"{url} did not become ready")


def true_and_unrelated(url: str) -> tuple[float, float]:
    answer = httpx.post(
        f"{url}/v1/score",
        files=[("image", ("drawing.png", drawing(), "image/png"))],
        data={"text": [TRUE, UNRELATED]},
    )
    true, other = (result["score"] for result in answer.json()["results"])
    return true, other


def gone(processes: list[psutil.Process], seconds: float = 20) -> list[psutil.Process]:
    """Those of the processes that still run after a while."""
    _, alive = psutil.wait_procs(processes, timeout=seconds)
    return [process for process in alive if process.is_running()]


def test_serve_runs_until_ctrl_c_and_leaves_nothing_behind() -> None:
    port = free_ports(1)[0]
    url = f"http://127.0.0.1:{port}"
    with started("serve-app", "serve", "--port", str(port)) as process:
        wait_ready(url, process)
        true, other = true_and_unrelated(url)
        assert true > other
        with started("serve-app", "serve", "--port", str(port)) as second:
            output = second.communicate(timeout=60)[0]
            assert second.returncode == 1
            assert f"127.0.0.1:{port}" in output and "--port" in output
            assert "Traceback" not in output
        family = psutil.Process(process.pid).children(recursive=True)
        assert family
        process.send_signal(signal.SIGINT)
        output = process.communicate(timeout=60)[0]
        assert process.returncode == 0, output
        assert f"curl -s {url}/v1/score" in output
        assert "Traceback" not in output
        assert gone(family) == []


def test_a_fault_in_the_configuration_is_told_before_anything_starts() -> None:
    models = "{main: {architecture: ViT-B-23, pretrained: laion2b_s34b_b79k, precision: bf61}}"
    with started("serve-app", "serve", SIMILARITY_MODELS=models) as process:
        output = process.communicate(timeout=60)[0]
    assert process.returncode == 2, output
    assert "ViT-B-32" in output and "precision" in output
    assert "Traceback" not in output


def test_a_tag_that_cannot_be_downloaded_says_what_to_do() -> None:
    with started(
        "serve-app",
        "serve",
        SIMILARITY_MODEL="ViT-B-32/laion2b_s34b_b79k",
        HF_HUB_OFFLINE="1",
    ) as process:
        output = process.communicate(timeout=120)[0]
    assert process.returncode != 0
    assert "network" in output or "offline" in output
    assert "Traceback" not in output
