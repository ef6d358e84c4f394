"""How much memory this process may still take; knows no model.

A container's limit is not the machine's memory, and beyond it the kernel ends the whole process:
that costs every model in it, and says nothing. Page cache counts as free, since it is given back.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psutil

_GROUPS = Path("/sys/fs/cgroup")
_MEMBERSHIP = Path("/proc/self/cgroup")
_CACHE = ("active_file", "inactive_file")
_FILES = (  # limit, usage, and what a group's and its children's cache are called
    ("memory.max", "memory.current", ""),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_"),
)


def available_memory(groups: Path = _GROUPS, membership: Path = _MEMBERSHIP) -> int:
    """Bytes that this process can still take: the least that the machine and any limit leave.

    Args:
        groups: Where control groups are mounted; both versions are read.
        membership: Says which groups this process is in.
    """
    rooms = [psutil.virtual_memory().available]
    for folder in _folders(groups, membership):
        for limit, usage, prefix in _FILES:
            room = _room(folder, limit, usage, prefix)
            if room is not None:
                rooms.append(room)
    return max(0, min(rooms))


def _folders(groups: Path, membership: Path) -> Iterator[Path]:
    """The process's groups and all that these are in: each of them has its limit."""
    try:
        lines = membership.read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        return
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers and "memory" not in controllers.split(","):
            continue
        root = groups / "memory" if controllers else groups
        # In a container the path may be the host's, and is then not to be found below the root.
        parts = [part for part in path.split("/") if part not in ("", "..")]
        for length in range(len(parts) + 1):
            yield root.joinpath(*parts[:length])


def _room(folder: Path, limit: str, usage: str, prefix: str) -> int | None:
    try:
        most = (folder / limit).read_text(encoding="ascii").strip()
        used = int((folder / usage).read_text(encoding="ascii"))
        statistics = (folder / "memory.stat").read_text(encoding="ascii").splitlines()
    except (OSError, ValueError):
        return None
    if not most.isdecimal():  # "max": no limit
        return None
    words = dict(line.split(" ", 1) for line in statistics if " " in line)
    cache = sum(int(words.get(prefix + name, 0)) for name in _CACHE)
    return int(most) - used + min(cache, used)
