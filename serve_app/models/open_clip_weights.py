"""Where an OpenCLIP model's weights come from: tag, file or folder, to tensors by name.

Knows files and open_clip's download table; knows no architecture, no device and no score. Nothing
in a weights file is ever executed: pickles are read with `weights_only`, TorchScript is refused.
"""

from __future__ import annotations

import logging
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from open_clip.pretrained import (
    download_pretrained,
    get_pretrained_cfg,
    list_pretrained_tags_by_model,
)

from serve_app.config.checkpoints import WEIGHT_SUFFIXES as SUFFIXES
from serve_app.config.checkpoints import find_weights
from serve_app.config.spec import ModelSpec
from serve_app.errors import ModelLoadError
from serve_app.models.open_clip_architecture import Architecture

RANDOM = "random"
StateDict = dict[str, torch.Tensor]
logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Weights:
    """Weights, found but not read.

    Attributes:
        path: The file; None for random weights.
        source: Where they came from, for people.
        preprocess: Image preprocessing that a pretrained tag was trained with.
        quick_gelu: Whether a pretrained tag was trained with OpenAI's approximate GELU.
    """

    path: Path | None
    source: str
    preprocess: Mapping[str, Any] = field(default_factory=dict)
    quick_gelu: bool = False


def locate_weights(spec: ModelSpec, architecture: Architecture) -> Weights:
    """Finds (and for a tag downloads, or takes from the cache) the weights that a spec names.

    Raises:
        ModelLoadError: There are no such weights, they cannot be downloaded, or they are random
            and the spec does not allow that.
    """
    pretrained = spec.pretrained
    if pretrained is None:
        folder = Path(architecture.name).expanduser()
        if folder.is_dir():
            return Weights(_in_folder(folder), str(folder))
        raise ModelLoadError(
            f"`pretrained` is missing for {architecture.name}: name a pretrained tag"
            f"{_tags(architecture)}, or a path to a checkpoint."
        )
    if pretrained == RANDOM:
        if not spec.allow_random_weights:
            raise ModelLoadError(
                "`pretrained: random` gives scores without meaning; it needs "
                "`allow_random_weights: true`, and is for load tests only."
            )
        return Weights(None, f"random (seed {spec.seed})")
    tag: dict[str, Any] = get_pretrained_cfg(architecture.name, pretrained)
    if architecture.builtin and tag:
        return Weights(
            _download(architecture.name, pretrained, tag),
            f"open_clip tag {pretrained}",
            tag,
            bool(tag.get("quick_gelu", False)),
        )
    path = Path(pretrained).expanduser()
    if path.is_dir():
        return Weights(_in_folder(path), str(path))
    if path.is_file():
        return Weights(path, str(path))
    raise ModelLoadError(
        f"{pretrained!r} is neither a pretrained tag of {architecture.name}{_tags(architecture)} "
        "nor a file or folder that exists."
    )


@contextmanager
def open_state_dict(path: Path) -> Iterator[StateDict]:
    """Opens a weights file; its tensors are valid inside the block only, and may be file-backed.

    Raises:
        ModelLoadError: The file is not what its name says, cut short, or not tensors alone.
    """
    state: StateDict = {}
    try:
        state.update(_unwrap(_read(path)))
        if not state:
            raise ModelLoadError(f"{path} holds no tensors.")
        yield state
    finally:
        state.clear()


def _read(path: Path) -> Any:
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        mappable = zipfile.is_zipfile(path)
        if mappable:
            _refuse_torchscript(path)
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mappable or None)
    except ModelLoadError:
        raise
    except MemoryError:
        raise
    except Exception as error:  # the libraries raise a dozen types for a bad file
        kind = "safetensors" if path.suffix == ".safetensors" else "torch checkpoint"
        raise ModelLoadError(
            f"{path} ({path.stat().st_size} bytes) cannot be read as a {kind}: it is cut short, "
            f"damaged, of another format, or holds more than tensors ({_first_line(error)}). "
            "Copy or download it again, or save its state dict as safetensors."
        ) from error


def _refuse_torchscript(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    if any(name.split("/", 1)[-1] == "constants.pkl" for name in names):
        raise ModelLoadError(
            f"{path} is a TorchScript archive, which is a program and is not run here. Save its "
            "state dict instead: torch.save(torch.jit.load(path).state_dict(), new_path)."
        )


def _unwrap(content: Any) -> StateDict:
    """Takes the state dict out of a training checkpoint, without the wrapper's prefix."""
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping):
        raise ModelLoadError("The weights file holds no mapping of names to tensors.")
    state = {str(name): value for name, value in content.items()}
    if not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise ModelLoadError(
            "The weights file holds other things than tensors, and no `state_dict` among them."
        )
    if state and all(name.startswith("module.") for name in state):  # DistributedDataParallel's
        state = {name.removeprefix("module."): value for name, value in state.items()}
    return state


def _in_folder(folder: Path) -> Path:
    path = find_weights(folder)
    if path is not None:
        return path
    files = sorted(path.name for path in folder.iterdir() if path.suffix in SUFFIXES)
    found = f"several ({', '.join(files)}): name one" if files else "none"
    raise ModelLoadError(f"The folder {folder} should hold one checkpoint, and has {found}.")


def _download(architecture: str, pretrained: str, tag: dict[str, Any]) -> Path:
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            path = download_pretrained(tag)
    except Exception as error:  # network, hub and disk: the cause is chained and its text shown
        where = tag.get("hf_hub") or tag.get("url")
        raise ModelLoadError(
            f"The weights {architecture}/{pretrained} could not be downloaded from {where} "
            f"({_first_line(error)}). Connect to the network; or bring the cache folder "
            "of a machine that has them and point HF_HOME to it (HF_HUB_OFFLINE=1 then stops "
            "all attempts to connect); or put the checkpoint on disk and give its path as "
            "`pretrained`."
        ) from error
    for warning in caught:
        logger.warning("download of %s/%s: %s", architecture, pretrained, warning.message)
    return Path(path)


def _tags(architecture: Architecture) -> str:
    tags = list_pretrained_tags_by_model(architecture.name) if architecture.builtin else []
    return f" ({', '.join(tags)})" if tags else " (it has none)"


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:300]}"
