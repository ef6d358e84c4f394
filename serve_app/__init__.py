"""serve_app: how well does this image match this text?

A Ray Serve application that scores image-text pairs with many models behind one interface.
Importing the package does nothing: no environment is read and no library is loaded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from serve_app.version import __version__

if TYPE_CHECKING:
    from serve_app.client import AsyncSimilarityClient, SimilarityClient


__all__ = ["AsyncSimilarityClient", "SimilarityClient", "__version__"]


def __getattr__(name: str) -> Any:
    """Loads the clients when they are first asked for (PEP 562)."""
    if name in ("AsyncSimilarityClient", "SimilarityClient"):
        from serve_app import client

        return getattr(client, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
