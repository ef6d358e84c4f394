"""Where an OpenCLIP model's weights come from: tag, file or folder, to tensors by name.

Knows folders and open_clip's download table; knows no architecture, no device and no score, and not
how a file is read.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

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
from serve_app.models.state_dicts import first_line

RANDOM = "random"
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
            f"({first_line(error)}). Connect to the network; or bring the cache folder "
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
