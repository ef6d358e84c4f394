"""Ends what a service leaves behind when it was killed; runs as a process of its own.

A killed `serve-app serve` cannot clean up. Most of Ray's processes notice and end, but not all of
them (its agents may stay for ever), and HAProxy, which is no process of Ray's, would go on holding
the port, so that the next start would fail.

The family is looked at while it lives: once the service is dead, nothing tells whose its orphans
were, as Ray's processes write over their command line and environment.

While it looks, it also tells a proxy that was replaced to stop taking connections. Ray tells it
once, and on a busy machine that signal may be lost: then two proxies share the port, and the old
one answers its share of the clients by an old configuration, with 404 where it knew no route yet.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

_LOOKS_EVERY_S = 1.0
_ENDS_WITHIN_S = 10.0
_PROXY = "haproxy"
_PROXY_STARTS_WITHIN_S = 2.0
"""A proxy that is younger may not have taken over yet."""


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
        retire_proxies(family, folder)
        if select.select([sys.stdin], [], [], _LOOKS_EVERY_S)[0]:
            break
    # The last look may be a second old.
    for process in tuple(family):
        family |= _descendants(process.pid)
    end_processes(family)
    shutil.rmtree(folder, ignore_errors=True)


def retire_proxies(processes: set[psutil.Process], folder: Path) -> None:
    """Tells all proxies of a run but the newest to end with their last connections.

    Args:
        processes: Of a family, which may have other runs in it.
        folder: Of this run: its proxies' configuration is there.
    """
    found: list[tuple[float, psutil.Process]] = []
    for process in processes:
        with contextlib.suppress(psutil.Error):
            ours = any(part.startswith(str(folder)) for part in process.cmdline())
            if process.name() == _PROXY and ours and process.status() != psutil.STATUS_ZOMBIE:
                found.append((process.create_time(), process))
    found.sort(key=lambda item: item[0])
    if len(found) < 2 or time.time() - found[-1][0] < _PROXY_STARTS_WITHIN_S:
        return
    for _, process in found[:-1]:
        with contextlib.suppress(psutil.Error):
            process.send_signal(signal.SIGUSR1)


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
