"""Headers that keep browsers from doing more with an answer than showing it."""

from __future__ import annotations

from collections.abc import Mapping

_COMMON = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
}

ANSWER_HEADERS: Mapping[str, str] = {
    **_COMMON,
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
}
"""Of every answer but the page with the documentation."""

DOCS_HEADERS: Mapping[str, str] = {
    **_COMMON,
    # The page of FastAPI: its script and style come from there, its first lines are inline.
    "Content-Security-Policy": (
        "default-src 'none'; connect-src 'self'; frame-ancestors 'none'; "
        "img-src https://fastapi.tiangolo.com data:; "
        "script-src 'unsafe-inline' https://cdn.jsdelivr.net; "
        "style-src 'unsafe-inline' https://cdn.jsdelivr.net"
    ),
}
"""Of that page."""
