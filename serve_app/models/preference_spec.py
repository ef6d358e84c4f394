"""Human-preference models as presets, and what can be said about their specs without loading.

A preset is a published model: its base, its weights, and how it is to be used. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serve_app.config.checkpoints import weights_file
from serve_app.config.faults import suggestion
from serve_app.config.spec import ModelSpec, PreprocessOverride
from serve_app.errors import ModelLoadError
from serve_app.models import open_clip_spec, transformers_checkpoint
from serve_app.models.findings import Finding
from serve_app.models.transformers_checkpoint import check_options, local_folder
from serve_app.weights.checksums import file_sha256, files_sha256


@dataclass(frozen=True, slots=True)
class Preset:
    """A published preference model.

    Attributes:
        base: What it was made from: a name of open_clip, or where transformers finds tokenizer
            and image processor, or the tokenizer.
        hub: Where its weights are, on the hub.
        file: Of the weights there; None: the whole repository is a checkpoint.
        options: Names of a spec's options.
        metrics: What it may be asked for as primary, the usual one first.
    """

    base: str
    hub: str
    file: str | None
    options: tuple[str, ...]
    metrics: tuple[str, ...]


_DUAL = ("cosine", "logit", "clipscore")
PRESETS: Mapping[str, Preset] = {
    "pickscore": Preset(
        base="laion/CLIP-ViT-H-14-laion2B-s32B-b79K",
        hub="yuvalkirstain/PickScore_v1",
        file=None,
        options=("revision", "base"),
        metrics=("logit", *_DUAL),
    ),
    "hpsv2": Preset(
        base="ViT-H-14",
        hub="xswu/HPSv2",
        file="HPS_v2_compressed.pt",
        options=("revision", "base"),
        metrics=_DUAL,
    ),
    "hpsv2.1": Preset(
        base="ViT-H-14",
        hub="xswu/HPSv2",
        file="HPS_v2.1_compressed.pt",
        options=("revision", "base"),
        metrics=_DUAL,
    ),
    "imagereward": Preset(
        base="google-bert/bert-base-uncased",
        hub="THUDM/ImageReward",
        file="ImageReward.pt",
        options=("revision", "base"),
        metrics=("reward",),
    ),
}
"""By the `architecture` of a spec."""


def preset_of(spec: ModelSpec) -> Preset:
    """The preset that a spec names; raises `ModelLoadError`."""
    found = PRESETS.get(spec.architecture or "")
    if found is None:
        raise ModelLoadError(_no_preset(spec.architecture))
    return found


def base_of(spec: ModelSpec) -> str:
    """What the preset is made from, or what the spec says instead."""
    return str(spec.options.get("base") or preset_of(spec).base)


def pickscore_spec(spec: ModelSpec) -> ModelSpec:
    """A PickScore as a spec of the transformers backend (Kirstain et al. 2023, section 4).

    Its score is the temperature times the cosine: the model's own logit.
    """
    return spec.model_copy(
        update={
            "pretrained": spec.pretrained or preset_of(spec).hub,
            "primary": spec.primary or "logit",
        }
    )


def hps_spec(spec: ModelSpec, weights: str | None) -> ModelSpec:
    """An HPSv2 as a spec of the open_clip backend (Wu et al. 2023, section 4).

    Its score is the cosine. Images keep their aspect ratio: the longer side is fitted, and black
    fills the rest.

    Args:
        spec: As declared.
        weights: The checkpoint; None where it is not known yet.
    """
    fitted = {"resize_mode": "longest", "fill_color": 0}
    own = spec.preprocessing.model_dump(exclude_none=True)
    return spec.model_copy(
        update={
            "architecture": base_of(spec),
            "pretrained": weights,
            "primary": spec.primary or "cosine",
            "preprocessing": PreprocessOverride(**{**fitted, **own}),
            "options": {},
        }
    )


def check(spec: ModelSpec) -> Sequence[Finding]:
    """What is wrong with a spec, as far as can be seen without loading it."""
    preset = PRESETS.get(spec.architecture or "")
    if preset is None:
        return [Finding("architecture", _no_preset(spec.architecture))]
    findings = check_options(spec, preset.options)
    base = spec.options.get("base")
    if base is not None and (not isinstance(base, str) or not base):
        return [*findings, Finding("options.base", "must be a name or a path")]
    if spec.primary is not None and spec.primary not in preset.metrics:
        known = ", ".join(dict.fromkeys(preset.metrics))
        message = f"{spec.architecture} has no metric {spec.primary!r}; it has {known}"
        findings.append(Finding("primary", message))
    if spec.architecture == "pickscore":
        findings += transformers_checkpoint.check_checkpoint(pickscore_spec(spec))
    elif spec.pretrained is not None:
        findings += _check_file(spec)
    if base is not None and preset.file is not None and spec.architecture != "imagereward":
        found = open_clip_spec.check_architecture(base)
        findings += [Finding("options.base", finding.message, finding.fault) for finding in found]
    return findings


def fingerprint(spec: ModelSpec) -> Mapping[str, Any]:
    """What identifies preset, base and weights: contents where they are here.

    Raises:
        ModelLoadError: There is no such preset.
        OSError: A file is here and cannot be read.
    """
    preset = preset_of(spec)
    found: dict[str, Any] = {"preset": spec.architecture, "base": _base_print(spec)}
    if spec.architecture == "pickscore":
        return {**found, **transformers_checkpoint.fingerprint(pickscore_spec(spec))}
    if spec.pretrained is None:
        revision = spec.options.get("revision")
        hub = {"hub": preset.hub, "file": preset.file, "revision": revision}
        return {**found, "weights": hub if spec.sha256 is None else {"sha256": spec.sha256}}
    path = weights_file(spec.pretrained)
    if path is not None:
        return {**found, "weights": {"sha256": file_sha256(path)}}
    sha256 = spec.sha256
    unread = {"unread": spec.pretrained}
    return {**found, "weights": unread if sha256 is None else {"sha256": sha256}}


def prefetch(spec: ModelSpec) -> None:
    """Downloads the weights of a preset, unless they are here or in the cache.

    Raises:
        ModelLoadError: They cannot be downloaded.
    """
    if spec.architecture == "pickscore":
        transformers_checkpoint.prefetch(pickscore_spec(spec))
    elif spec.pretrained is None:
        published_file(spec)


def published_file(spec: ModelSpec) -> Path:
    """The file of a preset's weights, from the hub or its cache.

    Raises:
        ModelLoadError: It is not in the cache, and there is no way to the hub.
    """
    preset = preset_of(spec)
    from huggingface_hub import hf_hub_download

    try:
        path = hf_hub_download(preset.hub, preset.file or "", revision=spec.options.get("revision"))
    except Exception as error:  # network, hub and disk: the cause is chained and its text shown
        first = (str(error).strip().splitlines() or [""])[0][:300]
        raise ModelLoadError(
            f"{preset.file} of {spec.architecture} could not be downloaded from {preset.hub} "
            f"({type(error).__name__}: {first}). Connect to the network; or bring the cache "
            "folder of a machine that has it and point HF_HOME to it; or put the file on disk "
            "and give its path as `pretrained`."
        ) from error
    return Path(path)


def _check_file(spec: ModelSpec) -> list[Finding]:
    place = spec.pretrained or ""
    path = weights_file(place)
    if path is None:
        if Path(place).expanduser().is_dir():
            message = f"the folder {place} should hold one checkpoint; name the file itself"
            return [Finding("pretrained", message)]
        message = f"{place} is not on this machine; the replicas must have it"
        return [Finding("pretrained", message, fault=False)]
    if spec.sha256 is not None and (actual := file_sha256(path)) != spec.sha256:
        return [Finding("sha256", f"is {spec.sha256}, but that of {path} is {actual}")]
    return []


def _base_print(spec: ModelSpec) -> Any:
    base = base_of(spec)
    folder = local_folder(base)
    if folder is not None and folder.is_dir():
        parts = [path for path in folder.iterdir() if path.suffix in (".json", ".txt", ".model")]
        return {"sha256": files_sha256(folder, parts)}
    if folder is not None and folder.is_file():
        return {"sha256": file_sha256(folder)}
    return base


def _no_preset(architecture: str | None) -> str:
    near = suggestion(architecture or "", PRESETS)
    return f"there is no preset {architecture!r}{near}; there are: {', '.join(PRESETS)}"
