"""Where Ray Serve's proxy listens; knows nothing of what is served."""

from __future__ import annotations


def listening_host() -> str | None:
    """The address that the proxies of the running Serve listen on; None where none runs."""
    # No public way tells: `serve.status()` has no addresses.
    from ray.serve.context import _get_global_client

    client = _get_global_client(raise_if_no_controller_running=False)
    return None if client is None else str(client.http_config.host)
