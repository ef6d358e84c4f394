"""Tells observers what happens; an error of theirs hurts nobody."""

from __future__ import annotations

import logging
from collections.abc import Callable

logger = logging.getLogger("serve_app.observability")


def tell(call: Callable[[], None]) -> None:
    """Calls an observer; its error is logged."""
    try:
        call()
    except Exception:
        logger.exception("an observer failed")
