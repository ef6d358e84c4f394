"""One line for each request that was chosen for the log; knows no route."""

from __future__ import annotations

import logging
import zlib

from serve_app.serving.finished import FinishedRequest

logger = logging.getLogger("serve_app.access")


class AccessLog:
    """Logs a share of the requests, and all that the service failed.

    Which ones is said by their ids, so that whoever sends ids of their own can tell.

    Args:
        share: 0 to 1; 0: none, whatever became of them.
    """

    def __init__(self, share: float) -> None:
        self._share = share

    def note(self, request: FinishedRequest) -> None:
        """Logs the request, if it is to be logged."""
        if self._share and (request.status >= 500 or self._chosen(request.id)):
            logger.info(
                "%s %s %d %s %.1f ms, request %s",
                request.method,
                request.path,
                request.status,
                request.code,
                1000 * request.seconds,
                request.id,
                extra=_fields(request),
            )

    def _chosen(self, request_id: str) -> bool:
        return zlib.crc32(request_id.encode()) < self._share * 2**32


def _fields(request: FinishedRequest) -> dict[str, str | float]:
    """What a log in JSON has as fields of their own."""
    found: dict[str, str | float | None] = {
        "request": request.id,
        "method": request.method,
        "path": request.path,
        "status": request.status,
        "code": request.code,
        "duration_ms": round(1000 * request.seconds, 3),
        "key": request.key,
        "model": request.model,
        "experiment": None if request.experiment is None else request.experiment.name,
        "arm": None if request.experiment is None else request.experiment.arm,
    }
    return {name: value for name, value in found.items() if value is not None}
