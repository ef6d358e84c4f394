"""Checkpoints in local files and folders: which words are paths, which file holds the weights."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

WEIGHT_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin")
"""How files with weights end."""

CONFIG_NAME = "open_clip_config.json"
"""The architecture's file in a folder of OpenCLIP's own form."""

PREFERRED_NAMES = (  # open_clip's own order
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
    "open_clip_pytorch_model.pth",
    "model.safetensors",
    "pytorch_model.bin",
    "pytorch_model.pth",
    "model.pth",
)
"""Files that are taken from a folder before others, the first that is there."""


BESIDE_SUFFIXES = (".json", ".txt", ".model", ".jinja")
"""How files end that a checkpoint's folder has besides: configuration, vocabulary, templates."""


def preferred_weights(names: Iterable[str]) -> list[str]:
    """Of all files, those with weights; one form of them is enough, and that is not pickles."""
    weights = [name for name in names if name.endswith(WEIGHT_SUFFIXES)]
    return [name for name in weights if name.endswith(".safetensors")] or weights


def is_path(text: str) -> bool:
    """Whether a `pretrained` is a file or folder rather than a tag."""
    return "/" in text or "\\" in text or text.lower().endswith(WEIGHT_SUFFIXES)


def find_weights(folder: Path) -> Path | None:
    """The file with weights in a folder: by its usual name, else the only one there is."""
    for name in PREFERRED_NAMES:
        if (folder / name).is_file():
            return folder / name
    files = [path for path in folder.iterdir() if path.suffix.lower() in WEIGHT_SUFFIXES]
    return files[0] if len(files) == 1 else None


def weights_file(pretrained: str) -> Path | None:
    """The local file that a path-like `pretrained` means, or None where it is not here."""
    path = Path(pretrained).expanduser()
    if path.is_dir():
        return find_weights(path)
    return path if path.is_file() else None
