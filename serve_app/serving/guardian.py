"""Ends the proxy of a service that was killed; runs as a process of its own.

A killed `serve-app serve` cannot clean up. Ray's own processes notice and end; HAProxy, which is no
process of Ray's, would go on holding the port, and the next start would fail.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import psutil

_ENDS_WITHIN_S = 10


def watch(folder: Path) -> subprocess.Popen[bytes]:
    """Starts a guardian of the processes whose command line names this folder.

    It acts when the returned process's standard input closes, which also happens when the caller
    is killed.
    """
    return subprocess.Popen(
        [sys.executable, "-m", "serve_app.serving.guardian", str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C in the terminal is for the service, not for this
    )


def end_processes(folder: Path) -> None:
    """Ends all processes whose command line names the folder, and removes it."""
    processes = [process for process in psutil.process_iter() if _names(process, str(folder))]
    for process in processes:
        process.terminate()
    _, alive = psutil.wait_procs(processes, timeout=_ENDS_WITHIN_S)
    for process in alive:
        process.kill()
    shutil.rmtree(folder, ignore_errors=True)


def _names(process: psutil.Process, folder: str) -> bool:
    try:
        is_guardian = process.pid == psutil.Process().pid
        return not is_guardian and any(folder in part for part in process.cmdline())
    except psutil.Error:
        return False


if __name__ == "__main__":
    sys.stdin.buffer.read()
    end_processes(Path(sys.argv[1]))
