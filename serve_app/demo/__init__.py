"""The embedded demo world: drawn scenes, their captions, and two small CLIPs trained on them.

The package lets the service run, be tested and be understood with nothing downloaded. `demo`
knows which colour belongs to which shape and what stands left of what; `demo-lite` was trained
as public CLIPs are, and shows their known weakness at exactly these two.

Importing this package loads no library: it only says where the weights lie.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

__all__ = ["MODEL_NAMES", "WEIGHTS_DIR", "config_path", "model_path"]

WEIGHTS_DIR: Final = Path(__file__).resolve().parent / "weights"
"""Folder of `<name>.json`, `<name>.safetensors` and the tokenizer's merges `demo.bpe.gz`."""

MODEL_NAMES: Final = ("demo", "demo-lite")
"""The embedded models, the better one first."""


def model_path(name: str) -> Path:
    """Where the weights of one embedded model lie (its configuration is beside them).

    Args:
        name: One of `MODEL_NAMES`.

    Returns:
        The path of a safetensors file.

    Raises:
        ValueError: There is no embedded model of that name.
    """
    if name not in MODEL_NAMES:
        known = ", ".join(MODEL_NAMES)
        raise ValueError(f"there is no embedded model {name!r}; the embedded models are {known}")
    return WEIGHTS_DIR / f"{name}.safetensors"


def config_path(name: str) -> Path:
    """Where one embedded model's architecture and preprocessing lie, in open_clip's JSON form.

    Args:
        name: One of `MODEL_NAMES`.

    Returns:
        The path of a JSON file `{"model_cfg": ..., "preprocess_cfg": ...}`.

    Raises:
        ValueError: There is no embedded model of that name.
    """
    return model_path(name).with_suffix(".json")
