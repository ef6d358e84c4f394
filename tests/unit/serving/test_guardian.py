"""Which proxies a guardian tells to stop; the processes are shells under the proxy's name."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from serve_app.serving import guardian

WAITS = "while read -r line; do :; done"


@pytest.fixture
def started(tmp_path: Path) -> Iterator[list[psutil.Popen]]:
    """Processes that end with the test."""
    found: list[psutil.Popen] = []
    yield found
    for process in found:
        if process.poll() is None:
            process.kill()
        process.communicate()


def start(found: list[psutil.Popen], tmp_path: Path, run: str) -> psutil.Popen:
    """A process that is called haproxy, with a configuration in the folder of a run."""
    program = tmp_path / "haproxy"
    if not program.exists():
        shutil.copy(shutil.which("bash") or "/bin/bash", program)
    process = psutil.Popen(
        [str(program), "-c", WAITS, f"{tmp_path}/{run}/haproxy.cfg"], stdin=subprocess.PIPE
    )
    found.append(process)
    until = time.monotonic() + 10
    while process.name() != "haproxy" and time.monotonic() < until:
        time.sleep(0.01)
    time.sleep(0.05)  # start times are told in hundredths of a second
    return process


def alive(process: psutil.Popen) -> bool:
    try:
        process.wait(0.3)
    except psutil.TimeoutExpired:
        return True
    return False


def test_a_replaced_proxy_is_told_to_stop_and_other_runs_are_left_alone(
    started: list[psutil.Popen], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guardian, "_PROXY_STARTS_WITHIN_S", 0.0)
    old, of_another_run, new = (start(started, tmp_path, run) for run in ("a", "b", "a"))
    guardian.retire_proxies({psutil.Process(p.pid) for p in started}, tmp_path / "a")
    assert not alive(old)
    assert alive(new)
    assert alive(of_another_run)


def test_a_proxy_that_has_perhaps_not_taken_over_yet_replaces_none(
    started: list[psutil.Popen], tmp_path: Path
) -> None:
    old, new = start(started, tmp_path, "a"), start(started, tmp_path, "a")
    guardian.retire_proxies({psutil.Process(p.pid) for p in started}, tmp_path / "a")
    assert alive(old)
    assert alive(new)
