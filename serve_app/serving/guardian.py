"""Ends what a service leaves behind when it was killed; runs as a process of its own.

A killed `serve-app serve` cannot clean up. Most of Ray's processes notice and end, but not all of
them (its agents may stay for ever), and HAProxy, which is no process of Ray's, would go on holding
the port, so that the next start would fail.

The family is looked at while it lives: once the service is dead, nothing tells whose its orphans
were, as Ray's processes write over their command line and environment.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import subprocess
import sys
from pathlib import Path

import psutil

_LOOKS_EVERY_S = 1.0
_ENDS_WITHIN_S = 10.0


def watch(folder: Path) -> subprocess.Popen[bytes]:
    """Starts a guardian of this process's descendants and of a folder of theirs.

    It acts when the returned process's standard input closes, which also happens when the caller
    is killed.
    """
    return subprocess.Popen(
        [sys.executable, "-m", "serve_app.serving.guardian", str(os.getpid()), str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C in the terminal is for the service, not for this
    )


def guard(pid: int, folder: Path) -> None:
    """Follows a process's descendants until standard input closes; then ends them all."""
    family: set[psutil.Process] = set()
    while True:
        family = {process for process in family if process.is_running()} | _descendants(pid)
        if select.select([sys.stdin], [], [], _LOOKS_EVERY_S)[0]:
            break
    # The last look may be a second old.
    for process in tuple(family):
        family |= _descendants(process.pid)
    end_processes(family)
    shutil.rmtree(folder, ignore_errors=True)


def end_processes(processes: set[psutil.Process]) -> None:
    """Asks processes to end, and kills those that do not."""
    alive = list(filter(_is_alive, processes))
    for process in alive:
        with contextlib.suppress(psutil.Error):
            process.terminate()
    psutil.wait_procs(alive, timeout=_ENDS_WITHIN_S)
    for process in filter(_is_alive, alive):
        with contextlib.suppress(psutil.Error):
            process.kill()


def _descendants(pid: int) -> set[psutil.Process]:
    try:
        found = psutil.Process(pid).children(recursive=True)
    except psutil.Error:
        return set()
    return {process for process in found if process.pid != os.getpid()}


def _is_alive(process: psutil.Process) -> bool:
    try:
        # One that is dead and not yet collected by its parent is nobody's concern.
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


if __name__ == "__main__":
    guard(int(sys.argv[1]), Path(sys.argv[2]))
