"""A checkpoint of the transformers library, as far as it can be seen without loading it.

Imports neither torch nor the library; three backends' specs are checked with it.
"""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from serve_app.config.checkpoints import (
    BESIDE_SUFFIXES,
    WEIGHT_SUFFIXES,
    preferred_weights,
    weights_file,
)
from serve_app.config.faults import unknown_key
from serve_app.config.spec import ModelSpec
from serve_app.errors import ModelLoadError
from serve_app.models.findings import Finding
from serve_app.weights.address import is_address
from serve_app.weights.checksums import file_sha256, files_sha256

INSTALL = "pip install 'serve-app[transformers]'"

_CONFIG = "config.json"
_HUB_ID = re.compile(r"^[\w.-]+(/[\w.-]+)?$")
_PARTS = (*WEIGHT_SUFFIXES, ".json", ".txt", ".model")


_UNPINNED = Finding(
    "options.revision",
    "names no commit of the hub: scores may change by themselves when its owner changes something",
    fault=False,
)


def local_folder(pretrained: str) -> Path | None:
    """The folder that a `pretrained` means, here or not; None for an id of the hub.

    One at an address is none that is here, and no id either.
    """
    path = Path(pretrained).expanduser()
    looks_local = pretrained.startswith((".", "/", "~")) or is_address(pretrained) or path.is_dir()
    return path if looks_local else None


def fingerprint(spec: ModelSpec) -> Mapping[str, Any]:
    """What identifies architecture, weights and tokenizer: contents where they are here.

    Raises:
        OSError: A file is here and cannot be read.
    """
    pretrained = spec.pretrained or ""
    folder = local_folder(pretrained)
    if folder is None:
        return {"weights": {"hub": pretrained, "revision": spec.options.get("revision")}}
    if not folder.is_dir():
        unread = {"unread": pretrained}
        return {"weights": unread if spec.sha256 is None else {**unread, "sha256": spec.sha256}}
    files = [path for path in folder.iterdir() if path.is_file() and path.suffix in _PARTS]
    return {"weights": {"sha256": files_sha256(folder, files)}}


def prefetch(spec: ModelSpec) -> None:
    """Downloads a checkpoint of the hub, unless it is in the cache; folders are as they are.

    Raises:
        ModelLoadError: It is not in the cache, and there is no way to the hub.
    """
    if spec.pretrained is None or local_folder(spec.pretrained) is not None:
        return
    from huggingface_hub import HfApi, snapshot_download

    revision = spec.options.get("revision")
    try:
        files = HfApi().list_repo_files(spec.pretrained, revision=revision)
        top = [name for name in files if "/" not in name]  # below are other libraries' forms
        wanted = [
            *preferred_weights(top),
            *(name for name in files if name.endswith(BESIDE_SUFFIXES)),
        ]
        snapshot_download(spec.pretrained, revision=revision, allow_patterns=wanted)
    except Exception as error:  # network, hub and disk: the cause is chained and its text shown
        try:
            snapshot_download(spec.pretrained, revision=revision, local_files_only=True)
        except Exception:
            first = (str(error).strip().splitlines() or [""])[0][:300]
            raise ModelLoadError(
                f"{spec.pretrained} could not be downloaded from the hub "
                f"({type(error).__name__}: {first}). Connect to the network, accept the model's "
                "terms and set HF_TOKEN where it is gated; or bring the cache folder of a machine "
                "that has it and point HF_HOME to it."
            ) from error


def check_options(spec: ModelSpec, known: Sequence[str]) -> list[Finding]:
    """Faults of the names of options, and of `options.revision`."""
    findings = [
        Finding(f"options.{name}", unknown_key(name, known))
        for name in spec.options
        if name not in known
    ]
    revision = spec.options.get("revision")
    if revision is not None and not isinstance(revision, str):
        findings.append(Finding("options.revision", "must be a branch, tag or commit, in quotes"))
    return findings


def check_checkpoint(spec: ModelSpec) -> list[Finding]:
    """What is wrong with `pretrained` and `sha256`, and whether the library is here.

    A folder that is absent here is a notice and no fault: it may be on the replicas only.
    """
    findings = _check_pretrained(spec)
    if importlib.util.find_spec("transformers") is None:
        findings.append(Finding("backend", f"needs a package that is not here: {INSTALL}"))
    return findings


def _check_pretrained(spec: ModelSpec) -> list[Finding]:
    pretrained = spec.pretrained
    if not pretrained:
        return [Finding("pretrained", "is missing: a folder, or an id of the hub")]
    folder = local_folder(pretrained)
    if folder is None:
        if _HUB_ID.match(pretrained):
            return [] if spec.options.get("revision") else [_UNPINNED]
        message = f"{pretrained!r} is neither a folder nor an id of the hub (owner/name)"
        return [Finding("pretrained", message)]
    if not folder.exists():
        message = f"{folder} is not on this machine; the replicas must have it"
        return [Finding("pretrained", message, fault=False)]
    return _check_folder(spec, folder)


def _check_folder(spec: ModelSpec, folder: Path) -> list[Finding]:
    if not folder.is_dir():
        message = f"{folder} is a file; give the folder that save_pretrained wrote"
        return [Finding("pretrained", message)]
    try:
        content = json.loads((folder / _CONFIG).read_text(encoding="utf-8"))
    except FileNotFoundError:
        message = f"the folder {folder} has no {_CONFIG}; give one that save_pretrained wrote"
        return [Finding("pretrained", message)]
    except (OSError, ValueError, RecursionError) as error:
        return [Finding("pretrained", f"{folder / _CONFIG} cannot be read: {error}")]
    if not isinstance(content, dict) or "model_type" not in content:
        return [Finding("pretrained", f"{folder / _CONFIG} names no `model_type`")]
    if spec.sha256 is None:
        return []
    path = weights_file(str(folder))
    if path is None:
        message = f"is for one file, and {folder} has not just one with weights"
        return [Finding("sha256", message)]
    actual = file_sha256(path)
    if actual != spec.sha256:
        return [Finding("sha256", f"is {spec.sha256}, but that of {path} is {actual}")]
    return []
