"""Settings of Ray that only its environment takes; imports no Ray."""

from __future__ import annotations

import os
import socket
from pathlib import Path


def ray_environment(folder: Path) -> dict[str, str]:
    """What a single-machine service wants of Ray, as environment variables.

    Ray Serve reads most of these when it is imported, and passes them on to the processes it
    starts, so they must be set before Ray is imported.

    Args:
        folder: A folder of this run alone, for the proxy's files. The proxy's defaults are fixed
            paths and ports: a second service on the machine would collide with them.
    """
    statistics, metrics, fallback, fallback_grpc = free_ports(4)
    return {
        # Measured: seven times the requests per second of Serve's own Python proxy.
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(folder / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(folder / "admin.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(folder / "server-state"),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(statistics),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(metrics),
        # Where requests go while no ingress is up. By default these are one and the same for all
        # services of a machine, and shared: one service would answer the requests of another.
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(fallback),
        "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT": str(fallback_grpc),
        # Half a minute by default, for load balancers elsewhere; this proxy is told at once.
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1",
        # Five seconds by default: on a busy machine the proxy is then killed while it starts.
        "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",
        "RAY_USAGE_STATS_ENABLED": "0",
        # Ray otherwise hides GPUs from processes that ask for none by an empty variable, with a
        # warning about the change of that rule at every start.
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    }


def set_ray_environment(folder: Path) -> None:
    """Sets `ray_environment`; what the person has set stays as it is."""
    for name, value in ray_environment(folder).items():
        os.environ.setdefault(name, value)


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("", 0))
        return [int(one.getsockname()[1]) for one in sockets]
    finally:
        for one in sockets:
            one.close()
