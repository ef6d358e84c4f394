"""What can be said about a transformers spec without loading it; imports neither torch nor it."""

from __future__ import annotations

from collections.abc import Sequence

from serve_app.config.spec import ModelSpec
from serve_app.models.findings import Finding
from serve_app.models.transformers_checkpoint import (
    check_checkpoint,
    check_options,
    fingerprint,
    prefetch,
)
from serve_app.scoring.metrics import METRICS

__all__ = ["check", "fingerprint", "prefetch"]

OPTIONS = ("revision", "max_patches")


def check(spec: ModelSpec) -> Sequence[Finding]:
    """What is wrong with a spec, as far as can be seen without loading it."""
    findings = [*check_options(spec, OPTIONS), *check_checkpoint(spec)]
    most = spec.options.get("max_patches")
    if most is not None and (isinstance(most, bool) or not isinstance(most, int) or most < 1):
        findings.append(Finding("options.max_patches", "must be a whole number, 1 or more"))
    if spec.primary is not None and spec.primary not in METRICS:
        known = ", ".join(METRICS)
        findings.append(Finding("primary", f"unknown metric {spec.primary!r}; known are: {known}"))
    if spec.architecture is not None:
        message = "is not read by this backend: the folder or hub id says it; leave it out"
        findings.append(Finding("architecture", message))
    return findings
