"""What can be said about an open_clip spec without loading it; imports neither torch nor open_clip.

`check` finds faults before a replica is asked to load, `fingerprint` tells what weights and
architecture a spec means, `prefetch` downloads them. Loading is `serve_app.models.open_clip`.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from serve_app.config.checkpoints import CONFIG_NAME, WEIGHT_SUFFIXES, is_path, weights_file
from serve_app.config.faults import suggestion, unknown_key
from serve_app.config.spec import ModelSpec
from serve_app.models.findings import Finding
from serve_app.scoring.metrics import METRICS
from serve_app.weights.checksums import file_sha256, files_sha256

RANDOM = "random"
OPTIONS = ("quick_gelu",)

_NEEDED = ("embed_dim", "vision_cfg", "text_cfg")
_TOKENIZER_SUFFIXES = (".json", ".txt", ".model")


def check(spec: ModelSpec) -> Sequence[Finding]:
    """What is wrong with a spec, as far as can be seen without loading it.

    A checkpoint that is absent here is a notice and no fault: it may be on the replicas only.
    """
    findings = [*check_architecture(spec.architecture), *_check_pretrained(spec)]
    if spec.primary is not None and spec.primary not in METRICS:
        known = suggestion(spec.primary, METRICS) or f"; known are: {', '.join(METRICS)}"
        findings.append(Finding("primary", f"unknown metric {spec.primary!r}{known}"))
    for name, value in spec.options.items():
        if name not in OPTIONS:
            findings.append(Finding(f"options.{name}", unknown_key(name, OPTIONS)))
        elif not isinstance(value, bool):
            findings.append(Finding(f"options.{name}", f"must be true or false, not {value!r}"))
    return findings


def fingerprint(spec: ModelSpec) -> Mapping[str, Any]:
    """What identifies the architecture and the weights: contents where they are here, else names.

    Raises:
        OSError: A file is here and cannot be read.
    """
    return {"architecture": _architecture_print(spec), "weights": _weights_print(spec)}


def prefetch(spec: ModelSpec) -> None:
    """Downloads the weights of a pretrained tag, unless they are in the cache.

    Raises:
        ModelLoadError: There is no such tag, or its weights cannot be downloaded.
    """
    if not spec.pretrained or spec.pretrained == RANDOM or _is_local(spec, spec.pretrained):
        return
    # Here, because both import torch, and most specs that are looked at need no download.
    from serve_app.models.open_clip_architecture import resolve_architecture
    from serve_app.models.open_clip_weights import locate_weights

    locate_weights(spec, resolve_architecture(spec.architecture or ""))


def known_architectures() -> tuple[str, ...]:
    """Names of open_clip's built-in architectures, read from its folder of configurations."""
    package = importlib.util.find_spec("open_clip")
    places = list(package.submodule_search_locations or []) if package else []
    names = {path.stem for place in places for path in Path(place, "model_configs").glob("*.json")}
    return tuple(sorted(names))


def _config_file(architecture: str) -> Path | None:
    """The file that an architecture means, here or not; None for a name."""
    path = Path(architecture).expanduser()
    if path.is_dir():
        return path / CONFIG_NAME
    return path if path.suffix == ".json" else None


def check_architecture(architecture: str | None) -> list[Finding]:
    """What is wrong with the name or the file of an architecture."""
    if not architecture:
        return [Finding("architecture", "is missing: a name of open_clip, or a path to its JSON")]
    path = _config_file(architecture)
    if path is not None:
        return [Finding("architecture", message) for message in _check_config(path)]
    known = known_architectures()
    if architecture.replace("/", "-") in known or not known:
        return []
    if architecture.startswith((".", "/", "~", "local-dir:")):
        return [Finding("architecture", f"there is no file or folder {architecture}")]
    near = (
        suggestion(architecture.replace("/", "-"), known) or "; give a name of open_clip, or a path"
    )
    return [Finding("architecture", f"open_clip has no architecture {architecture!r}{near}")]


def _check_config(path: Path) -> list[str]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return [f"there is no file {path}"]
    except OSError as error:
        return [f"{path} cannot be read: {error.strerror or error}"]
    except (ValueError, RecursionError) as error:
        return [f"{path} is not JSON: {error}"]
    model = _model_config(content)
    missing = [key for key in _NEEDED if key not in model]
    if missing:
        return [f"{path} is not a configuration of open_clip: {', '.join(missing)} missing"]
    blocks = [key for key in ("vision_cfg", "text_cfg") if not isinstance(model[key], dict)]
    return [f"{path}: {key} must be a mapping" for key in blocks]


def _model_config(content: Any) -> Mapping[str, Any]:
    """The model's part of a configuration, in open_clip's bare form or the hub's."""
    model = content.get("model_cfg", content) if isinstance(content, dict) else {}
    return model if isinstance(model, dict) else {}


def _check_pretrained(spec: ModelSpec) -> list[Finding]:
    pretrained = spec.pretrained
    if not pretrained:
        if spec.architecture and Path(spec.architecture).expanduser().is_dir():
            return _check_sha256(spec, spec.architecture)
        return [Finding("pretrained", "is missing: a pretrained tag of open_clip, or a path")]
    if pretrained == RANDOM:
        if spec.allow_random_weights:
            return []
        message = "random weights give scores without meaning; they need allow_random_weights: true"
        return [Finding("pretrained", message)]
    return _check_sha256(spec, pretrained) if _is_local(spec, pretrained) else []


def _is_local(spec: ModelSpec, pretrained: str) -> bool:
    """Whether the weights are a file: by its look, or because only built-ins have tags."""
    architecture = spec.architecture or ""
    return is_path(pretrained) or (
        _config_file(architecture) is not None and Path(pretrained).expanduser().exists()
    )


def _check_sha256(spec: ModelSpec, place: str) -> list[Finding]:
    if Path(place).expanduser().is_dir() and weights_file(place) is None:
        kinds = ", ".join(WEIGHT_SUFFIXES)
        message = f"the folder {place} should hold one checkpoint ({kinds}); name the file itself"
        return [Finding("pretrained", message)]
    path = weights_file(place)
    if path is None:
        message = f"{place} is not on this machine; the replicas must have it"
        return [Finding("pretrained", message, fault=False)]
    try:
        actual = file_sha256(path) if spec.sha256 is not None else None
    except OSError as error:
        return [Finding("pretrained", f"{path} cannot be read: {error.strerror or error}")]
    if actual != spec.sha256:
        return [Finding("sha256", f"is {spec.sha256}, but that of {path} is {actual}")]
    return []


def _architecture_print(spec: ModelSpec) -> Mapping[str, Any]:
    architecture = spec.architecture or ""
    path = _config_file(architecture)
    if path is None:
        return {"name": architecture.replace("/", "-")}
    if not path.is_file():
        return {"unread": architecture}
    text = _model_config(json.loads(path.read_text(encoding="utf-8"))).get("text_cfg") or {}
    folder = path.resolve().parent
    found: dict[str, Any] = {"sha256": file_sha256(path)}
    bpe = (text.get("tokenizer_kwargs") or {}).get("bpe_path")
    if bpe and (folder / bpe).is_file():
        found["bpe_path"] = file_sha256(folder / bpe)
    for key in ("hf_tokenizer_name", "hf_model_name"):
        if text.get(key) and (folder / text[key]).is_dir():
            found[key] = _tokenizer_sha256(folder / text[key])
    if text.get("hf_tokenizer_name") and (folder / "tokenizer_config.json").is_file():
        found["tokenizer"] = _tokenizer_sha256(folder)
    return found


def _tokenizer_sha256(folder: Path) -> str:
    files = (path for path in folder.iterdir() if path.is_file() and path.name != CONFIG_NAME)
    return files_sha256(folder, (path for path in files if path.suffix in _TOKENIZER_SUFFIXES))


def _weights_print(spec: ModelSpec) -> Mapping[str, Any]:
    pretrained = spec.pretrained or spec.architecture or ""
    if pretrained == RANDOM:
        return {"random": spec.seed}
    if spec.pretrained and not _is_local(spec, pretrained):
        # open_clip takes laion2b-s34b-b79k for laion2b_s34b_b79k
        return {"tag": pretrained.lower().replace("-", "_")}
    path = weights_file(pretrained)
    if path is not None:
        return {"sha256": file_sha256(path)}
    return {"sha256": spec.sha256} if spec.sha256 else {"unread": pretrained}
