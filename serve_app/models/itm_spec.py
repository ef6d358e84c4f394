"""What can be said about an itm spec without loading it; imports no torch."""

from __future__ import annotations

from collections.abc import Sequence

from serve_app.config.faults import suggestion
from serve_app.config.spec import ModelSpec
from serve_app.models.findings import Finding
from serve_app.models.transformers_checkpoint import (
    check_checkpoint,
    check_options,
    fingerprint,
    prefetch,
)

__all__ = ["check", "fingerprint", "metrics_of", "prefetch"]

OPTIONS = ("revision", "itc")
DEFAULT_METRICS = ("itm",)
METRICS = (*DEFAULT_METRICS, "itc")
"""Probability that image and text match, 0-1; cosine of the contrastive heads, -1 to 1."""


def metrics_of(spec: ModelSpec) -> tuple[str, ...]:
    """The metrics that a spec asks for."""
    return METRICS if spec.options.get("itc") is True else DEFAULT_METRICS


def check(spec: ModelSpec) -> Sequence[Finding]:
    """What is wrong with a spec, as far as can be seen without loading it."""
    findings = [*check_options(spec, OPTIONS), *check_checkpoint(spec)]
    if not isinstance(spec.options.get("itc", False), bool):
        findings.append(Finding("options.itc", "must be true or false"))
    if spec.architecture is not None:
        message = "is not read by this backend: the folder or hub id says it; leave it out"
        findings.append(Finding("architecture", message))
    known = metrics_of(spec)
    if spec.primary is not None and spec.primary not in known:
        near = suggestion(spec.primary, METRICS)
        if spec.primary == "itc":
            near = " without `options.itc: true`"
        message = f"there is no metric {spec.primary!r}{near}; there are: {', '.join(known)}"
        findings.append(Finding("primary", message))
    return findings
