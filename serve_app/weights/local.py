"""A spec whose weights are on other machines, as a spec whose weights are here; loads nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from serve_app.config.spec import ModelSpec
from serve_app.errors import ModelLoadError
from serve_app.weights.address import Address, is_address, parse_address
from serve_app.weights.cache import WeightsCache, nothing
from serve_app.weights.remote import Progress


def address_of(spec: ModelSpec) -> Address | None:
    """The address that a spec names; None for paths, tags and ids.

    Raises:
        ModelLoadError: It is a bad one.
    """
    if spec.pretrained is None or not is_address(spec.pretrained):
        return None
    try:
        return parse_address(spec.pretrained)
    except ValueError as error:
        raise ModelLoadError(f"`pretrained`: {error}.") from None


@contextmanager
def localised(
    spec: ModelSpec, cache: WeightsCache | None, progress: Progress = nothing
) -> Iterator[ModelSpec]:
    """The spec with a local path where it names an address, for the length of the block.

    Args:
        spec: As declared.
        cache: Where what is downloaded is kept.
        progress: Is told of a download.

    Raises:
        ModelLoadError: The weights cannot be had, or are others than `sha256` says.
    """
    address = address_of(spec)
    if address is None:
        yield spec
        return
    if cache is None:
        raise ModelLoadError(f"{address.text} cannot be downloaded: there is no cache here.")
    with cache.lease(address, spec.sha256, progress) as found:
        yield spec.model_copy(update={"pretrained": str(found.path)})
