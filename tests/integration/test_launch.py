"""`serve-app serve` and the Serve commands, as a person starts and stops them."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import httpx
import psutil
import pytest

from serve_app.config.ray_environment import free_ports
from tests.integration.launched import ROOT, deployed, started
from tests.integration.support import SWAPPED, TRUE, drawing


def true_and_swapped(url: str) -> tuple[float, float]:
    answer = httpx.post(
        f"{url}/v1/score",
        files=[("image", ("drawing.png", drawing(), "image/png"))],
        data={"text": [TRUE, SWAPPED]},
    )
    true, swapped = (result["score"] for result in answer.json()["results"])
    return true, swapped


def gone(processes: list[psutil.Process], seconds: float = 20) -> list[psutil.Process]:
    """Those of the processes that still run after a while."""
    deadline = time.monotonic() + seconds
    while alive := [process for process in processes if is_alive(process)]:
        if time.monotonic() > deadline:
            break
        time.sleep(0.2)
    return alive


def is_alive(process: psutil.Process) -> bool:
    # A zombie only waits for its parent, which in a container may never come.
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def metrics(port: int) -> str:
    return httpx.get(f"http://127.0.0.1:{port}/metrics", trust_env=False).text


def test_serve_runs_until_ctrl_c_and_leaves_nothing_behind() -> None:
    port, other, metrics_port = free_ports(3)
    url = f"http://127.0.0.1:{port}"
    command = ("serve-app", "serve", "--metrics-port", str(metrics_port), "--port")
    with started(*command, str(port)) as first:
        first.wait_for("Ctrl-C stops it")
        assert f"curl -s {url}/v1/score" in first.output
        true, swapped = true_and_swapped(url)
        assert true > swapped
        with started("serve-app", "serve", "--port", str(port)) as second:
            assert second.ends() == 1
            assert f"127.0.0.1:{port}" in second.output and "--port" in second.output
            assert "Traceback" not in second.output
        with started(*command, str(other)) as third:
            assert third.ends() == 1
            assert f":{metrics_port}" in third.output and "--metrics-port" in third.output
        deadline = time.monotonic() + 60
        while "ray_similarity_requests_total" not in metrics(metrics_port):
            assert time.monotonic() < deadline
            time.sleep(1)
        family = psutil.Process(first.process.pid).children(recursive=True)
        assert family
        first.process.send_signal(signal.SIGINT)
        assert first.ends() == 0, first.output
        assert "Traceback" not in first.output
        assert gone(family) == []


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [3, 8, 9])
def test_ctrl_c_during_the_start_stops_too(seconds: float) -> None:
    with started("serve-app", "serve", "--port", str(free_ports(1)[0])) as service:
        time.sleep(seconds)
        family = psutil.Process(service.process.pid).children(recursive=True)
        service.process.send_signal(signal.SIGINT)
        assert service.ends() == 0, service.output
        assert "Traceback" not in service.output
        assert gone(family) == []


@pytest.mark.slow
def test_a_killed_service_takes_its_processes_along_and_can_be_started_again() -> None:
    port = free_ports(1)[0]
    command = ("serve-app", "serve", "--port", str(port))
    with started(*command) as service:
        service.wait_for("Ctrl-C stops it")
        family = psutil.Process(service.process.pid).children(recursive=True)
        assert len(family) > 5
        service.process.kill()
        service.ends()
        assert gone(family, 30) == []
    with started(*command) as service:
        service.wait_for("Ctrl-C stops it")
        service.process.send_signal(signal.SIGTERM)
        assert service.ends() == 0


def test_a_fault_in_the_configuration_is_told_before_anything_starts() -> None:
    models = "{main: {architecture: ViT-B-23, pretrained: laion2b_s34b_b79k, precision: bf61}}"
    with started("serve-app", "serve", SIMILARITY_MODELS=models) as service:
        assert service.ends() == 2, service.output
        assert "ViT-B-32" in service.output and "precision" in service.output
        assert "Traceback" not in service.output


def test_a_tag_that_cannot_be_downloaded_says_what_to_do() -> None:
    more = {"SIMILARITY_MODEL": "ViT-B-32/laion2b_s34b_b79k", "HF_HUB_OFFLINE": "1"}
    with started("serve-app", "serve", **more) as service:
        assert service.ends(120) != 0
        assert "network" in service.output or "offline" in service.output
        assert "Traceback" not in service.output


def serve_config(folder: Path, port: int) -> Path:
    """The committed file, on another port."""
    config = (ROOT / "serve_config.yaml").read_text()
    assert "port: 8000" in config
    path = folder / "serve_config.yaml"
    path.write_text(config.replace("port: 8000", f"port: {port}"))
    return path


@pytest.mark.slow
def test_the_serve_config_works_with_serve_run(tmp_path: Path) -> None:
    port = free_ports(1)[0]
    url = f"http://127.0.0.1:{port}"
    with started("serve", "run", str(serve_config(tmp_path, port))) as service:
        service.wait_ready(url)
        true, swapped = true_and_swapped(url)
        assert true > swapped


@pytest.mark.slow
def test_the_serve_config_works_with_serve_deploy(tmp_path: Path) -> None:
    port = free_ports(1)[0]
    url = f"http://127.0.0.1:{port}"
    with deployed(serve_config(tmp_path, port), url, cpus=4):
        true, swapped = true_and_swapped(url)
        assert true > swapped
