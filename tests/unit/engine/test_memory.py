"""What a process may still take, read from control groups as the kernel writes them."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from serve_app.engine.memory import available_memory

MIB = 2**20
ROOM = 3 * MIB
"""Less than any machine has left."""


def write(folder: Path, **files: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_text(f"{content}\n")


def second(folder: Path, limit: object, current: int, cache: int = 0) -> None:
    statistics = f"anon {current - cache}\nactive_file 0\ninactive_file {cache}"
    write(folder, memory__max=limit, memory__current=current, memory__stat=statistics)


def first(folder: Path, limit: int, usage: int, cache: int) -> None:
    statistics = f"inactive_file 0\ntotal_active_file {cache}\ntotal_inactive_file 0"
    write(
        folder,
        memory__limit_in_bytes=limit,
        memory__usage_in_bytes=usage,
        memory__stat=statistics,
    )


@pytest.fixture
def groups(tmp_path: Path) -> Path:
    return tmp_path / "cgroup"


def available(groups: Path, membership: str) -> int:
    file = groups.parent / "membership"
    file.write_text(membership)
    return available_memory(groups, file)


def test_page_cache_within_the_limit_counts_as_free(groups: Path) -> None:
    second(groups, limit=10 * MIB, current=9 * MIB, cache=2 * MIB)
    assert available(groups, "0::/\n") == ROOM


def test_the_nearest_limit_above_counts(groups: Path) -> None:
    second(groups / "pods", limit=10 * MIB, current=7 * MIB)
    second(groups / "pods" / "replica", limit="max", current=5 * MIB)
    assert available(groups, "0::/pods/replica\n") == ROOM


def test_the_first_version_is_read_too(groups: Path) -> None:
    first(groups / "memory" / "docker" / "abc", limit=10 * MIB, usage=8 * MIB, cache=MIB)
    lines = "5:cpu,cpuacct:/docker/abc\n4:memory:/docker/abc\n0::/\n"
    assert available(groups, lines) == ROOM


def test_a_containers_own_group_is_found_where_its_path_is_the_hosts(groups: Path) -> None:
    second(groups, limit=5 * MIB, current=2 * MIB)
    assert available(groups, "0::/kubepods/burstable/pod1/abc\n") == ROOM


def test_a_limit_that_is_passed_leaves_nothing(groups: Path) -> None:
    second(groups, limit=5 * MIB, current=6 * MIB)
    assert available(groups, "0::/\n") == 0


@pytest.mark.parametrize("limit", ["max", "nonsense", 2**62])
def test_without_a_limit_it_is_what_the_machine_has_left(groups: Path, limit: object) -> None:
    second(groups, limit=limit, current=MIB)
    found = available(groups, "0::/\n")
    assert MIB < found <= psutil.virtual_memory().total


def test_without_control_groups_it_is_what_the_machine_has_left(tmp_path: Path) -> None:
    assert available_memory(tmp_path / "absent", tmp_path / "absent") > MIB


def test_here_it_is_a_number() -> None:
    assert 0 < available_memory() <= psutil.virtual_memory().total
