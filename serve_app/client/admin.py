"""The Python interface to a service's admin routes; see docs/operations.md."""

from __future__ import annotations

import json
from typing import Any, Self

from serve_app.client import http_codec as codec
from serve_app.client.http import HttpTransport
from serve_app.client.http_codec import HttpCall
from serve_app.client.retry import RetryPolicy

_READ_WITHIN_S = 60.0
_BEYOND_S = 60.0
"""What an operation may take beside the wait for its effect: confirmation, and the way."""


class AdminClient:
    """Operates a service over HTTP; a context manager.

    Args:
        url: Address of the service, with a path prefix where it has one.
        token: What SIMILARITY_ADMIN_TOKEN was when the service was started.

    Raises:
        ConfigError: `url` is not an `http://` or `https://` address.
    """

    def __init__(self, url: str, token: str) -> None:
        headers = {"Authorization": f"Bearer {token}"}
        # Never once more by itself: an operation would stand twice in the audit trail.
        self._policy = RetryPolicy(retries=0, timeout_s=_READ_WITHIN_S)
        self._transport = HttpTransport(url, self._policy, headers)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Gives connections back."""
        self._transport.close()

    def operate(self, kind: str, *, timeout_s: float = 300.0, **body: Any) -> dict[str, Any]:
        """Asks for an operation, and waits for its effect.

        Args:
            kind: `promote`, `rollback`, `pin`, `unpin`, `weights` or `clear`.
            timeout_s: How long to wait for its effect.
            body: `who`, `reason`, and what the operation needs.

        Returns:
            `OperationAnswer` of the OpenAPI document; its `outcome` is `in_effect` or `pending`.

        Raises:
            OperationFailedError: It could not come into effect.
            RequestError: It was refused; nothing has changed.
            ServiceError: The service or its control plane cannot be reached.
        """
        content = json.dumps({**body, "timeout_s": timeout_s}).encode()
        call = HttpCall("POST", f"/v1/admin/{kind}", content, {"content-type": "application/json"})
        policy = RetryPolicy(retries=0, timeout_s=timeout_s + _BEYOND_S)
        return codec.json_object(self._transport.exchange(call, policy))

    def status(self) -> dict[str, Any]:
        """`StatusReport` of the OpenAPI document."""
        return codec.json_object(self._transport.exchange(HttpCall("GET", "/v1/admin/status")))

    def audit(self, limit: int = 100) -> list[dict[str, Any]]:
        """The last entries of the audit trail, newest first."""
        call = HttpCall("GET", f"/v1/admin/audit?limit={limit}")
        found: list[dict[str, Any]] = codec.json_object(self._transport.exchange(call))["data"]
        return found
