"""One service for the tests of clients."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from serve_app.config.args import Limits
from tests.http_service import serving


@pytest.fixture(scope="session")
def service_url() -> Iterator[str]:
    """Address of a running service; its limits are small enough to reach."""
    with serving(Limits(max_pairs=12, max_body_bytes=200_000)) as url:
        yield url
