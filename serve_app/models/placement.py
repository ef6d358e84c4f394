"""What a pool offers a model: device, threads, and whether bf16 pays; imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from serve_app.config.args import PoolArgs

_CPU_INFO = Path("/proc/cpuinfo")
_FAST_BF16_FLAGS = frozenset({"amx_bf16", "avx512_bf16"})


@dataclass(frozen=True, slots=True)
class PoolPlacement:
    """What one replica of a pool computes with.

    Attributes:
        device: The pool's device.
        threads: Torch threads per replica.
        fast_bf16: Whether the CPU multiplies bf16 in hardware.
    """

    device: Literal["cpu", "cuda"] = "cpu"
    threads: int = 1
    fast_bf16: bool = False


def cpu_has_fast_bf16(cpu_info: Path = _CPU_INFO) -> bool:
    """Whether this CPU multiplies bf16 in hardware (AMX or AVX512-BF16); Linux only, else False.

    Read from the CPU's flags: `torch._is_mkldnn_bf16_supported` is also true for plain AVX512,
    where oneDNN emulates bf16 at a quarter of fp32's speed.
    """
    try:
        lines = cpu_info.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return False
    flags = next((line for line in lines if line.startswith("flags")), "")
    return not _FAST_BF16_FLAGS.isdisjoint(flags.partition(":")[2].split())


def pool_placement(
    pool: PoolArgs, *, has_gpu: bool, fast_bf16: bool | None = None
) -> PoolPlacement:
    """What a declared pool offers.

    Args:
        pool: As declared. One that asks for a GPU is a GPU pool even where there is none: its
            replicas say `device_unavailable` instead of being slow in silence.
        has_gpu: Whether Ray has a GPU; decides `gpus: auto`.
        fast_bf16: Instead of looking at this machine's CPU.
    """
    wants_gpu = has_gpu if pool.gpus == "auto" else pool.gpus > 0
    threads = max(1, int(pool.cpus)) if pool.threads == "auto" else pool.threads
    fast = cpu_has_fast_bf16() if fast_bf16 is None else fast_bf16
    return PoolPlacement("cuda" if wants_gpu else "cpu", threads, fast)
