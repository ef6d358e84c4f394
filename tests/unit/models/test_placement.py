from __future__ import annotations

from pathlib import Path

import pytest

from serve_app.config.args import PoolArgs
from serve_app.models.placement import PoolPlacement, cpu_has_fast_bf16, pool_placement


@pytest.mark.parametrize(
    ("flags", "fast"),
    [
        ("fpu avx512f avx512bw avx512_vnni", False),
        ("fpu avx512f avx512_bf16", True),
        ("fpu amx_tile amx_bf16", True),
        ("not_amx_bf16x", False),
    ],
)
def test_bf16_is_fast_where_the_cpu_has_it(tmp_path: Path, flags: str, fast: bool) -> None:
    path = tmp_path / "cpuinfo"
    path.write_text(f"processor\t: 0\nflags\t\t: {flags}\n\nprocessor\t: 1\n")
    assert cpu_has_fast_bf16(path) is fast


def test_other_systems_have_no_such_file(tmp_path: Path) -> None:
    assert cpu_has_fast_bf16(tmp_path / "cpuinfo") is False


@pytest.mark.parametrize(
    ("pool", "has_gpu", "expected"),
    [
        (PoolArgs(), False, PoolPlacement("cpu", 1)),
        (PoolArgs(), True, PoolPlacement("cuda", 1)),
        (PoolArgs(gpus=0, cpus=3.5), True, PoolPlacement("cpu", 3)),
        (PoolArgs(gpus=0.5, cpus=0.5), True, PoolPlacement("cuda", 1)),
        (PoolArgs(gpus=1, threads=2), False, PoolPlacement("cuda", 2)),
    ],
)
def test_what_pools_offer(pool: PoolArgs, has_gpu: bool, expected: PoolPlacement) -> None:
    assert pool_placement(pool, has_gpu=has_gpu, fast_bf16=False) == expected


def test_this_machine_is_asked_by_default() -> None:
    assert pool_placement(PoolArgs(), has_gpu=False).fast_bf16 is cpu_has_fast_bf16()
