"""What can be said about a torch_clip spec without loading it; imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from serve_app.config.checkpoints import weights_file
from serve_app.config.faults import located_messages, suggestion
from serve_app.config.spec import ModelSpec, Strict
from serve_app.models.byte_pairs import default_vocabulary
from serve_app.models.findings import Finding
from serve_app.scoring.metrics import METRICS
from serve_app.weights.checksums import file_sha256


class TorchClipOptions(Strict):
    """The `options` of a torch_clip spec.

    Attributes:
        quick_gelu: Whether hidden layers compute OpenAI's approximation of GELU. Its own models
            were all trained with it; others of the same format often were not, and a checkpoint
            does not say.
        allow_torchscript: Whether a TorchScript archive may be loaded, which runs the program in
            it. The files that OpenAI published are such archives.
        vocabulary: Path of a byte-pair vocabulary, gzipped or plain; default: CLIP's own.
    """

    quick_gelu: bool = True
    allow_torchscript: bool = False
    vocabulary: str | None = Field(default=None, min_length=1)


def options_of(spec: ModelSpec) -> TorchClipOptions:
    """The options; raises pydantic's `ValidationError`."""
    return TorchClipOptions.model_validate(spec.options)


def vocabulary_file(options: TorchClipOptions) -> Path:
    """The vocabulary; raises `ModelLoadError` where no option says it and there is no default."""
    if options.vocabulary is None:
        return default_vocabulary()
    return Path(options.vocabulary).expanduser()


def check(spec: ModelSpec) -> Sequence[Finding]:
    """What is wrong with a spec, as far as can be seen without loading it.

    A checkpoint that is absent here is a notice and no fault: it may be on the replicas only.
    """
    findings = [*_check_options(spec), *_check_pretrained(spec)]
    if spec.architecture is not None:
        message = "is not read by this backend: the checkpoint says it; leave it out"
        findings.append(Finding("architecture", message))
    if spec.primary is not None and spec.primary not in METRICS:
        near = suggestion(spec.primary, METRICS) or f"; known are: {', '.join(METRICS)}"
        findings.append(Finding("primary", f"unknown metric {spec.primary!r}{near}"))
    return findings


def fingerprint(spec: ModelSpec) -> Mapping[str, Any]:
    """What identifies weights and vocabulary: contents where they are here.

    Raises:
        OSError: A file is here and cannot be read.
    """
    pretrained = spec.pretrained or ""
    path = weights_file(pretrained)
    weights: dict[str, Any] = {"unread": pretrained}
    if path is not None:
        weights = {"sha256": file_sha256(path)}
    elif spec.sha256 is not None:
        weights = {"sha256": spec.sha256}
    found: dict[str, Any] = {"weights": weights}
    own = spec.options.get("vocabulary")
    if isinstance(own, str) and (file := Path(own).expanduser()).is_file():
        found["vocabulary"] = file_sha256(file)
    return found


def _check_options(spec: ModelSpec) -> list[Finding]:
    try:
        options = options_of(spec)
    except ValidationError as error:
        return [
            Finding(".".join(("options", *path)), message)
            for path, message in located_messages(error, TorchClipOptions)
        ]
    if options.vocabulary is not None and not vocabulary_file(options).is_file():
        message = f"{options.vocabulary} is not on this machine; the replicas must have it"
        return [Finding("options.vocabulary", message, fault=False)]
    return []


def _check_pretrained(spec: ModelSpec) -> list[Finding]:
    pretrained = spec.pretrained
    if not pretrained:
        return [Finding("pretrained", "is missing: a path to a checkpoint in OpenAI's format")]
    path = weights_file(pretrained)
    if path is None:
        if Path(pretrained).expanduser().is_dir():
            message = f"the folder {pretrained} should hold one checkpoint; name the file itself"
            return [Finding("pretrained", message)]
        message = f"{pretrained} is not on this machine; the replicas must have it"
        return [Finding("pretrained", message, fault=False)]
    if spec.sha256 is None:
        return []
    try:
        actual = file_sha256(path)
    except OSError as error:
        return [Finding("pretrained", f"{path} cannot be read: {error.strerror or error}")]
    if actual != spec.sha256:
        return [Finding("sha256", f"is {spec.sha256}, but that of {path} is {actual}")]
    return []
