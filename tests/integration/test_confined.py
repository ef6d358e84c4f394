"""The service as the manifests confine it: another user, no capabilities, a root that is read-only.

In namespaces of its own, so it needs the right to make some; a container has it seldom, CI's has.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from serve_app.config.ray_environment import free_ports
from serve_app.serving.guardian import end_processes
from tests.integration.launched import BIN, ROOT
from tests.integration.test_launch import true_and_swapped

UID = 1000
# What must be there when /tmp is another, and folders that this user may not enter are, too.
NEEDED = (ROOT, Path(sys.prefix), Path(sys.base_prefix))


STAYS = "^/(proc|sys|dev)(/|$)|^/(tmp)?$"
"""Mounts that stay as they are; the root is named by itself."""


def may_make_namespaces() -> bool:
    made = subprocess.run(
        ["unshare", "--mount", "bash", "-c", "mount -t tmpfs tmpfs /mnt && setpriv --version"],
        capture_output=True,
        check=False,
    )
    return made.returncode == 0


def closed_ancestors() -> Iterator[Path]:
    """The highest folder above each that others may not enter."""
    for path in NEEDED:
        for ancestor in reversed(path.parents):
            if not ancestor.stat().st_mode & 0o001:
                yield ancestor
                break


def script(command: str) -> str:
    """As in kuberay/base: only /tmp can be written."""
    lines = ["set -e", "mount --make-rprivate /", "mount -t tmpfs tmpfs /mnt"]
    for number, path in enumerate(NEEDED):
        lines += [f"mkdir /mnt/{number}", f"mount --bind {shlex.quote(str(path))} /mnt/{number}"]
    lines.append("mount -t tmpfs -o size=4g,mode=1777 tmpfs /tmp")
    lines += [
        f"mount -t tmpfs -o mode=755 tmpfs {shlex.quote(str(path))}"
        for path in dict.fromkeys(closed_ancestors())
    ]
    for number, path in enumerate(NEEDED):
        quoted = shlex.quote(str(path))
        lines += [f"mkdir -p {quoted}", f"mount --bind /mnt/{number} {quoted}"]
    return "\n".join(
        [
            *lines,
            "umount /mnt/* ; umount /mnt",
            "mount --bind / /",
            f"for mount in / $(cut -d' ' -f2 /proc/mounts | grep -vE '{STAYS}'); do",
            '  mount -o remount,ro,bind "$mount" || true',
            "done",
            f"for folder in / /var {shlex.quote(str(ROOT))} {shlex.quote(sys.prefix)}; do",
            '  if touch "$folder/written"; then',
            '    rm "$folder/written"; echo "$folder can be written"; exit 9',
            "  fi",
            "done",
            f"mkdir /tmp/home && chown {UID}:{UID} /tmp/home && cd /tmp/home",
            f"exec setpriv --reuid {UID} --regid {UID} --clear-groups --inh-caps=-all "
            "--bounding-set=-all --no-new-privs "
            f"env -i HOME=/tmp/home PATH={shlex.quote(str(BIN))}:/usr/bin:/bin "
            f"PYTHONDONTWRITEBYTECODE=1 RAY_USAGE_STATS_ENABLED=0 {command}",
        ]
    )


@contextmanager
def confined(command: str) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        ["unshare", "--mount", "bash", "-c", script(command)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            family = psutil.Process(process.pid).children(recursive=True)
            process.kill()
            end_processes(set(family))


@pytest.mark.slow
@pytest.mark.skipif(not may_make_namespaces(), reason="may not make mount namespaces")
def test_it_scores_with_nothing_but_tmp_to_write_to() -> None:
    port = free_ports(1)[0]
    with confined(f"serve-app serve --json --port {port}") as process:
        assert process.stdout is not None
        said = []
        for line in process.stdout:
            said.append(line)
            if '"url"' in line:
                break
        if any("can be written" in line for line in said):
            pytest.skip(f"this machine's mounts stay as they are: {said[-1]}")
        assert '"url"' in said[-1], "".join(said)
        true, swapped = true_and_swapped(f"http://127.0.0.1:{port}")
        assert true > swapped
        replicas = [
            child
            for child in psutil.Process(process.pid).children(recursive=True)
            if "ServeReplica" in " ".join(child.cmdline())
        ]
        assert len(replicas) == 3
        for replica in replicas:
            assert replica.uids().effective == UID
            status = Path(f"/proc/{replica.pid}/status").read_text()
            assert "CapEff:\t0000000000000000" in status
            assert "NoNewPrivs:\t1" in status
