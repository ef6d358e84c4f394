"""How a model that is elsewhere is asked: tries, time, and a breaker; knows no score and no image.

A request that fails in a way that may pass is sent again. A remote that goes on failing is left
alone for a while: to wait for it again and again would hold up the replica's other models.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping
from typing import Any

import httpx
import tenacity

from serve_app.config.secrets import secret
from serve_app.errors import MissingExtraError, ModelFailedError, ModelUnavailableError
from serve_app.models.remote_spec import RemoteOptions

try:
    import pybreaker
except ImportError as error:
    raise MissingExtraError(
        f"The backend `remote` needs the package pybreaker ({error}). "
        "Run: pip install 'serve-app[remote]'"
    ) from error

_CONNECT_S = 5.0
_MOST_BYTES = 256 * 1024 * 1024
_PASSING = (408, 429, 500, 502, 503, 504)
_LONGEST_WAIT_S = 5.0


class RemoteConnection:
    """A connection to one remote. Its methods are called from one thread at a time.

    Args:
        options: Where it is, and how long to wait.

    Raises:
        ModelLoadError: The key is not there.
    """

    def __init__(self, options: RemoteOptions) -> None:
        self._options = options
        headers = {"Accept": "application/json"}
        if options.api_key_env is not None:
            headers["Authorization"] = f"Bearer {secret(options.api_key_env)}"
        self._client = httpx.Client(
            headers=headers,
            timeout=httpx.Timeout(options.timeout_s, connect=min(_CONNECT_S, options.timeout_s)),
            follow_redirects=False,  # the key is for this host
        )
        self._breaker = pybreaker.CircuitBreaker(
            fail_max=options.breaker.failures,
            reset_timeout=options.breaker.reset_s,
            # Neither is a failure of the remote: to ask again would change nothing.
            exclude=[ModelUnavailableError, ModelFailedError],
            throw_new_error_on_trip=False,
        )
        self._last = ""
        self._lock = threading.Lock()

    def get(self, path: str) -> Any:
        """The document at a path; see `post`."""
        return self._guarded("GET", path, None)

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """The answer to a document.

        Raises:
            ModelUnavailableError: It cannot be reached, fails, is left alone at the moment,
                refuses the key, or has no such model.
            ModelFailedError: It refuses what it was asked.
        """
        return self._guarded("POST", path, json.dumps(body).encode())

    def close(self) -> None:
        """Ends all connections."""
        self._client.close()

    def _guarded(self, method: str, path: str, body: bytes | None) -> Any:
        with self._lock:
            try:
                return self._breaker.call(self._tried, method, path, body)
            except pybreaker.CircuitBreakerError:
                raise ModelUnavailableError(
                    f"{self._options.url} has failed {self._options.breaker.failures} times in a "
                    f"row and is left alone for {self._options.breaker.reset_s:g} s "
                    f"(the last time: {self._last})."
                ) from None
            except _Passing as failure:
                self._last = str(failure)
                raise ModelUnavailableError(
                    f"{self._options.url} cannot be asked ({failure})."
                ) from failure.__cause__

    def _tried(self, method: str, path: str, body: bytes | None) -> Any:
        retrying = tenacity.Retrying(
            stop=tenacity.stop_after_attempt(self._options.retries + 1)
            | tenacity.stop_after_delay(self._options.timeout_s),
            wait=_wait,
            retry=tenacity.retry_if_exception_type(_Passing),
            reraise=True,
        )
        return retrying(self._once, method, path, body)

    def _once(self, method: str, path: str, body: bytes | None) -> Any:
        url = f"{self._options.url}{path}"
        content_type = {} if body is None else {"Content-Type": "application/json"}
        deadline = time.monotonic() + self._options.timeout_s
        try:
            with self._client.stream(method, url, content=body, headers=content_type) as answer:
                content = bytearray()
                for part in answer.iter_bytes():
                    content += part
                    if time.monotonic() > deadline:
                        raise _Passing(f"no whole answer within {self._options.timeout_s:g} s")
                    if len(content) > _MOST_BYTES:
                        raise ModelFailedError(f"{url} answers with more than {_MOST_BYTES} bytes.")
        except httpx.TimeoutException as error:
            raise _Passing(f"no answer within {self._options.timeout_s:g} s") from error
        except httpx.TransportError as error:
            raise _Passing(f"{type(error).__name__}: {error}") from error
        return self._document(url, answer, bytes(content))

    def _document(self, url: str, answer: httpx.Response, content: bytes) -> Any:
        status = answer.status_code
        try:
            document = json.loads(content)
        except ValueError:
            document = None
        if status == 200 and document is not None:
            return document
        problem = document if isinstance(document, dict) else {}
        code, detail = problem.get("code"), str(problem.get("detail") or f"status {status}")[:500]
        if code == "all_items_failed":
            return document  # each of them says why
        if status in (401, 403):
            raise ModelUnavailableError(f"{url} refuses the key ({detail}).")
        if code == "unknown_model" or status == 404:
            raise ModelUnavailableError(f"{url}: {detail}")
        if status in _PASSING:
            raise _Passing(detail, _seconds(answer.headers.get("Retry-After")))
        if status == 200:
            raise ModelFailedError(f"{url} does not answer with JSON.")
        raise ModelFailedError(f"{url} refuses what it was asked ({detail}).")


class _Passing(Exception):  # noqa: N818 - it never leaves this module
    """A try failed in a way that may pass."""

    def __init__(self, detail: str, retry_after_s: float = 0.0) -> None:
        super().__init__(detail)
        self.retry_after_s = retry_after_s


_jitter = tenacity.wait_exponential_jitter(multiplier=0.1, max=_LONGEST_WAIT_S)


def _wait(state: tenacity.RetryCallState) -> float:
    """As long as the remote wishes, within reason, and not at the same moment as all others."""
    error = state.outcome.exception() if state.outcome is not None else None
    wished = error.retry_after_s if isinstance(error, _Passing) else 0.0
    return max(min(wished, _LONGEST_WAIT_S), _jitter(state))


def _seconds(text: str | None) -> float:
    try:
        return max(0.0, float(text or 0))
    except ValueError:
        return 0.0  # a date: nobody sends one for so short a time
