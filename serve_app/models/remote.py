"""What remote models share: the connection, and how images and errors of items cross.

There are two kinds: another instance of this service (`remote_service`), and any endpoint of
embeddings (`remote_embeddings`).
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from typing import Any, TypeVar

from PIL import Image

from serve_app.config.spec import ModelSpec
from serve_app.errors import (
    ItemError,
    ModelFailedError,
    ModelLoadError,
    ServeAppError,
    error_from_code,
)
from serve_app.models.base import Pixels, Placement, SimilarityModel
from serve_app.models.remote_connection import RemoteConnection
from serve_app.models.remote_spec import RemoteOptions, options_of

DEFAULT_MAX_BATCH = 32
PROBE_TEXT = "a probe"

OptionsT = TypeVar("OptionsT", bound=RemoteOptions)


class RemoteModel(SimilarityModel):
    """What both kinds share: the connection, and that nothing is held here."""

    def __init__(self, spec: ModelSpec, placement: Placement) -> None:
        super().__init__(spec, placement)
        self._connection: RemoteConnection | None = None

    def unload(self) -> None:
        """Ends the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    @property
    def max_batch(self) -> int:
        """Most items in one request."""
        return self.spec.performance.max_batch or DEFAULT_MAX_BATCH

    @property
    def parameters(self) -> int:
        """None are here."""
        return 0

    @property
    def bytes(self) -> int:
        """None are here."""
        return 0

    @property
    def remote(self) -> RemoteConnection:
        """The connection; raises `ModelFailedError` while the model is not loaded."""
        if self._connection is None:
            raise ModelFailedError("The remote model is not loaded.")
        return self._connection


def options_for(spec: ModelSpec, kind: type[OptionsT]) -> OptionsT:
    """The options of a spec, of this kind; raises `ModelLoadError`."""
    options = options_of(spec)
    if not isinstance(options, kind):
        raise ModelLoadError(f"`architecture: {spec.architecture}` is not what this class serves.")
    return options


def item_error(fault: Mapping[str, Any]) -> ServeAppError:
    """What the remote says of one item, as the same error here."""
    error = error_from_code(str(fault["code"]), str(fault["detail"]))
    return error if isinstance(error, ItemError) else ModelFailedError(error.detail)


def data_uri(image: Pixels) -> str:
    """An image as it is, as a PNG: without loss, and quick rather than small."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG", compress_level=1)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
