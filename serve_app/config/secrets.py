"""Secrets that a configuration names and does not hold; the one place that looks them up."""

from __future__ import annotations

import os

from serve_app.errors import ModelLoadError


def secret(variable: str) -> str:
    """What an environment variable of this process holds; never to be shown.

    Raises:
        ModelLoadError: It is not set; names the variable.
    """
    value = os.environ.get(variable, "")
    if not value:
        raise ModelLoadError(
            f"The environment variable {variable} is not set on this replica; it should hold the "
            "key. Set it for all of them, for example from a Secret."
        )
    return value
