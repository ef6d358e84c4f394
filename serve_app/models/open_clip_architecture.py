"""What an OpenCLIP model looks like: from a name or a JSON file to configurations.

Knows files and open_clip's built-in table; knows no weights, no device and no tokenizer. It never
adds to open_clip's own registry, so that two files of the same name cannot collide.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import open_clip
from open_clip.transform import PreprocessCfg, merge_preprocess_dict

from serve_app.config.checkpoints import CONFIG_NAME
from serve_app.errors import ModelLoadError
from serve_app.inputs.preprocess import ImagePreprocess


@dataclass(frozen=True, slots=True)
class Architecture:
    """One architecture, resolved.

    Attributes:
        name: The built-in name, or the path as declared.
        model: The arguments of open_clip's model class.
        preprocess: What a configuration file says about image preprocessing; empty for built-ins.
        builtin: Whether it is in open_clip's own table, and so may have pretrained tags.
    """

    name: str
    model: Mapping[str, Any]
    preprocess: Mapping[str, Any] = field(default_factory=dict)
    builtin: bool = True

    @property
    def text(self) -> Mapping[str, Any]:
        """The text tower's configuration."""
        text: Mapping[str, Any] = self.model["text_cfg"]
        return text


def resolve_architecture(name: str) -> Architecture:
    """Finds an architecture.

    Args:
        name: open_clip's name of a built-in architecture, a path to a JSON file (open_clip's model
            configuration, alone or under `model_cfg` beside `preprocess_cfg`), or a folder with
            such a file named `open_clip_config.json`.

    Raises:
        ModelLoadError: There is no such architecture, or its file is not one.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        path = path / CONFIG_NAME
    if path.suffix == ".json":
        return _from_file(name, path)
    # open_clip names what OpenAI calls ViT-B/32 with a hyphen, and takes both.
    builtin = name.replace("/", "-")
    if builtin not in open_clip.list_models():
        close = difflib.get_close_matches(builtin, open_clip.list_models(), n=3, cutoff=0.5)
        hint = f" Close: {', '.join(close)}." if close else ""
        raise ModelLoadError(
            f"Architecture {name!r} is neither one of open_clip's nor a path to a JSON file or a "
            f"folder that exists.{hint} `open_clip.list_models()` lists all."
        )
    return Architecture(builtin, open_clip.get_model_config(builtin))


def _from_file(name: str, path: Path) -> Architecture:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelLoadError(
            f"The architecture file {path} cannot be read: {error.strerror or error}."
        ) from error
    except ValueError as error:
        raise ModelLoadError(f"The architecture file {path} is not JSON: {error}.") from error
    content = content if isinstance(content, dict) else {}
    model = content.get("model_cfg", content)
    missing = [
        key
        for key in ("embed_dim", "vision_cfg", "text_cfg")
        if not isinstance(model, dict) or key not in model
    ]
    if missing:
        raise ModelLoadError(
            f"The architecture file {path} is not an open_clip model configuration: it has no "
            f"{', '.join(missing)}."
        )
    model = deepcopy(model)
    _resolve_paths(model["text_cfg"], path.resolve().parent)
    preprocess = content.get("preprocess_cfg", {}) if "model_cfg" in content else {}
    return Architecture(name, model, preprocess, builtin=False)


def _resolve_paths(text: dict[str, Any], folder: Path) -> None:
    """Makes paths in a text configuration that are relative to its file absolute."""
    tokenizer = text.get("tokenizer_kwargs") or {}
    if bpe_path := tokenizer.get("bpe_path"):
        tokenizer["bpe_path"] = str(folder / bpe_path)
    for key in ("hf_tokenizer_name", "hf_model_name"):
        if (value := text.get(key)) and (folder / value).is_dir():
            text[key] = str(folder / value)
        elif value and key == "hf_tokenizer_name" and (folder / "tokenizer_config.json").is_file():
            # A folder as open_clip pushes it to the hub carries its tokenizer with it.
            text[key] = str(folder)


def image_preprocess(*layers: Mapping[str, Any]) -> ImagePreprocess:
    """Merges preprocessing configurations, later over earlier, on open_clip's defaults.

    Args:
        layers: In open_clip's form: `size`, `mean`, `std`, `interpolation`, `resize_mode`,
            `fill_color`; other keys are ignored.
    """
    merged: dict[str, Any] = merge_preprocess_dict(PreprocessCfg(), {})
    for layer in layers:
        merged = merge_preprocess_dict(merged, dict(layer))
    size = merged["size"]
    height, width = (size, size) if isinstance(size, int) else size
    mean, std = (_triple(merged[key]) for key in ("mean", "std"))
    return ImagePreprocess(
        size=(int(height), int(width)),
        resize_mode=merged["resize_mode"],
        interpolation=merged["interpolation"],
        mean=mean,
        std=std,
        fill_color=int(merged["fill_color"]),
    )


def _triple(value: Any) -> tuple[float, float, float]:
    red, green, blue = (float(part) for part in value)
    return red, green, blue
