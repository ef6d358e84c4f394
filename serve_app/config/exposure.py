"""Whether others can reach an address, and whether they may without a key."""

from __future__ import annotations

import ipaddress

from serve_app.config.declaration import Configuration
from serve_app.config.settings import API_KEYS, API_KEYS_FILE, OPEN
from serve_app.errors import ConfigError, Fault


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a host; a name counts only if it is `localhost`."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def check_exposure(host: str, configuration: Configuration) -> None:
    """Refuses to answer everybody by accident.

    Args:
        host: Where the service listens.
        configuration: Says whether there are keys, or that there need be none.

    Raises:
        ConfigError: Others can reach it, no key is asked for, and nobody said that this is meant.
    """
    if is_loopback(host) or configuration.access.required or configuration.open:
        return
    message = (
        f"others can reach {host}, and no key is asked for. Set {API_KEYS} or {API_KEYS_FILE} "
        f"(`serve-app new-key NAME` makes a key), listen on 127.0.0.1, or set {OPEN}=true if "
        "everybody who can reach it may use it"
    )
    raise ConfigError((Fault("host", message),))
