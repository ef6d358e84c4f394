"""Whether a model's files still are those that its revision was computed from; loads nothing.

Paths are mutable: between the moment a configuration is read and that of a load, which may be days
later and on another machine, the file behind a path can have become another one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from serve_app.config.checkpoints import is_path, weights_file
from serve_app.config.spec import ModelSpec
from serve_app.errors import ModelLoadError
from serve_app.models.factory import SimilarityModelFactory
from serve_app.models.registry import revision_of
from serve_app.models.snapshot import ResolvedModel
from serve_app.weights.address import is_address
from serve_app.weights.checksums import verify_sha256

UNIDENTIFIED = (
    "its weights were not there when the configuration was read, so its revision stands for their "
    "path and not for their content; name their `sha256`"
)
"""What is told of a model that cannot be compared with its revision."""


def check_identity(resolved: ResolvedModel, factory: SimilarityModelFactory) -> str | None:
    """Compares the files that are here with the revision.

    What names no file here is left to its backend: a pretrained tag means the same everywhere, and
    of a file that is absent the backend says so itself.

    Returns:
        A note where the files cannot be compared; else None.

    Raises:
        ModelLoadError: They are others than those that were declared, or cannot be read.
    """
    spec = resolved.spec
    if is_address(spec.pretrained):
        # Its checksum is looked at when it is fetched.
        return None if spec.sha256 is not None else UNIDENTIFIED
    place = spec.pretrained or spec.architecture
    weights = weights_file(place) if place else None
    if weights is None and (_is_absent(spec.pretrained) or not _is_here(spec.architecture)):
        return None
    try:
        if weights is not None and spec.sha256 is not None:
            verify_sha256(weights, spec.sha256)
        found = factory.fingerprint(spec)
    except (OSError, ValueError) as error:
        raise ModelLoadError(f"{resolved.id}: its files cannot be read: {error}") from error
    now = revision_of(spec, resolved.placement, found)
    if now == resolved.revision:
        return None
    if any(
        revision_of(spec, resolved.placement, other) == resolved.revision
        for other in _without_weights(spec, found)
    ):
        return UNIDENTIFIED
    raise ModelLoadError(
        f"{resolved.id}: its files have changed since the configuration was read; they make it "
        f"{resolved.name}@{now} now. Put the files back, or let the configuration be read again: "
        "what is replaced should get another path."
    )


def _is_here(word: str | None) -> bool:
    return word is not None and Path(word).expanduser().exists()


def _is_absent(pretrained: str | None) -> bool:
    return pretrained is not None and is_path(pretrained) and not _is_here(pretrained)


def _without_weights(spec: ModelSpec, found: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Fingerprints as they are where the weights are not: words instead of contents."""
    words = spec.pretrained or spec.architecture or ""
    # A folder's checksum is that of its weights alone: what is beside them was not read.
    checked = {"unread": words, "sha256": spec.sha256}
    for unread in ({"unread": words}, checked, words):
        yield {**found, "weights": unread}
