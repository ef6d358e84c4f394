"""What can be said about a remote spec without asking anybody; opens no connection."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from pydantic import Field, ValidationError, field_validator

from serve_app.config.faults import located_messages, suggestion
from serve_app.config.spec import ModelSpec, Strict
from serve_app.errors import ModelLoadError
from serve_app.models.findings import Finding
from serve_app.scoring.metrics import METRICS

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class Breaker(Strict):
    """When a remote that fails is left alone.

    Attributes:
        failures: So many requests in a row, each with all its tries.
        reset_s: Seconds until it is asked again.
    """

    failures: int = Field(default=5, ge=1)
    reset_s: float = Field(default=10.0, gt=0)


class RemoteOptions(Strict):
    """What both kinds of remotes take in `options`.

    Attributes:
        url: Where it is: `https://gpu.example`, for embeddings with the path that `/embeddings` is
            below.
        model: What it calls the model; None: its default.
        api_key_env: Environment variable of the replicas that holds the key.
        timeout_s: Seconds for one try.
        retries: Further tries of a request that failed in a way that may pass.
        breaker: When it is left alone.
    """

    url: str
    model: str | None = Field(default=None, min_length=1)
    api_key_env: str | None = None
    timeout_s: float = Field(default=30.0, gt=0)
    retries: int = Field(default=2, ge=0, le=10)
    breaker: Breaker = Breaker()

    @field_validator("url")
    @classmethod
    def _is_url(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("must begin with https:// or http://, and name a host")
        if "@" in parts.netloc:
            raise ValueError("holds no user name or password; name a variable in api_key_env")
        if parts.query or parts.fragment:
            raise ValueError("ends with its path")
        return value.rstrip("/")

    @field_validator("api_key_env")
    @classmethod
    def _is_variable(cls, value: str | None) -> str | None:
        if value is not None and not _VARIABLE.fullmatch(value):
            raise ValueError("must be the name of an environment variable, not the key")
        return value


class ServiceOptions(RemoteOptions):
    """Another instance of this service.

    Attributes:
        follow: Whether to take scores of whichever revision answers there. Without, those of the
            revision that was there when the model was loaded, and of no other.
    """

    follow: bool = False


class EmbeddingsOptions(RemoteOptions):
    """An endpoint of embeddings in OpenAI's form, with images.

    Attributes:
        logit_scale: What the cosine is multiplied with.
        logit_bias: What is added then, for models with a sigmoid loss: then there is a probability.
        context_length: Tokens that it reads of a text, where that is known.
    """

    logit_scale: float = Field(default=100.0, gt=0)
    logit_bias: float | None = None
    context_length: int | None = Field(default=None, ge=1)


KINDS: Mapping[str, type[RemoteOptions]] = {
    "service": ServiceOptions,
    "embeddings": EmbeddingsOptions,
}
"""By the `architecture` of a spec."""


def options_of(spec: ModelSpec) -> RemoteOptions:
    """The options of a spec; raises `ModelLoadError`."""
    kind = KINDS.get(spec.architecture or "")
    if kind is None:
        raise ModelLoadError(_no_kind(spec.architecture))
    try:
        return kind.model_validate(spec.options)
    except ValidationError as error:
        said = "; ".join(
            f"options.{'.'.join(path)}: {message}"
            for path, message in located_messages(error, kind)
        )
        raise ModelLoadError(said) from error


def check(spec: ModelSpec) -> Sequence[Finding]:
    """What is wrong with a spec, as far as can be seen without asking the remote."""
    kind = KINDS.get(spec.architecture or "")
    if kind is None:
        return [Finding("architecture", _no_kind(spec.architecture))]
    findings = [
        Finding(field, "is not read by this backend: the weights are elsewhere; leave it out")
        for field, value in (("pretrained", spec.pretrained), ("sha256", spec.sha256))
        if value is not None
    ]
    try:
        options = kind.model_validate(spec.options)
    except ValidationError as error:
        return findings + [
            Finding(".".join(("options", *path)), message)
            for path, message in located_messages(error, kind)
        ]
    if kind is EmbeddingsOptions and spec.primary is not None and spec.primary not in METRICS:
        near = suggestion(spec.primary, METRICS) or f"; known are: {', '.join(METRICS)}"
        findings.append(Finding("primary", f"unknown metric {spec.primary!r}{near}"))
    if kind is ServiceOptions and spec.preprocessing.model_dump(exclude_none=True):
        message = "is the remote's own; leave it out"
        findings.append(Finding("preprocessing", message))
    if isinstance(options, ServiceOptions) and "@" not in (options.model or ""):
        message = (
            "names no revision: this one stands for the address, and not for what computes there; "
            "write name@revision to say which"
        )
        findings.append(Finding("options.model", message, fault=False))
    return findings


def fingerprint(spec: ModelSpec) -> Mapping[str, Any]:
    """What identifies a remote: where it is and what it is called; options are hashed besides."""
    options = options_of(spec)
    return {"remote": options.url, "kind": spec.architecture, "model": options.model}


def _no_kind(architecture: str | None) -> str:
    near = suggestion(architecture or "", KINDS)
    return f"there is no kind of remote {architecture!r}{near}; there are: {', '.join(KINDS)}"
