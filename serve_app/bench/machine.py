"""What the machine is that a figure was measured on; without it a figure says little."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

FAST_BF16_FLAGS = ("amx_bf16", "avx512_bf16")
"""Without one of these a CPU computes bf16 about four times slower than fp32."""

_PACKAGES = ("torch", "torchvision", "open_clip_torch", "ray", "pillow", "numpy")


def describe_machine() -> dict[str, Any]:
    """CPU, memory, GPU and versions, ready for JSON."""
    model, flags = _cpu()
    return {
        "cpu": model,
        "cores": os.cpu_count() or 1,
        "cores_usable": usable_cores(),
        "flags": {flag: flag in flags for flag in (*FAST_BF16_FLAGS, "avx512f", "avx512_vnni")},
        "memory_bytes": psutil.virtual_memory().total,
        "gpu": _gpu(),
        # Other work on the machine spoils every figure: it is recorded, so that it can be seen.
        "cpu_busy_percent_before": psutil.cpu_percent(interval=1.0),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {package: _version(package) for package in _PACKAGES},
    }


def usable_cores() -> int:
    """Cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def best_precision() -> str:
    """`bf16` where the device computes it fast, else `fp32`."""
    if _gpu() is not None:
        return "bf16"
    _, flags = _cpu()
    return "bf16" if any(flag in flags for flag in FAST_BF16_FLAGS) else "fp32"


def _cpu() -> tuple[str, frozenset[str]]:
    """The CPU's name and its flags; no flags where the system does not tell them."""
    fields: dict[str, str] = {}
    source = Path("/proc/cpuinfo")
    if source.is_file():
        for line in source.read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            fields.setdefault(name.strip(), value.strip())
    name = fields.get("model name") or platform.processor() or platform.machine()
    return name, frozenset(fields.get("flags", "").split())


def _gpu() -> str | None:
    import torch

    return torch.cuda.get_device_name(0) if torch.cuda.is_available() else None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
