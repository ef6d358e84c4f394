"""The environment of processes that a command starts; the variables the service itself reads."""

from __future__ import annotations

import os

from serve_app.config.settings import MODELS, PREFIX

_OWN_RAY = ("RAY_SERVE_HAPROXY_", "RAY_SERVE_FALLBACK_PROXY_")
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def child_environment(
    *, models: str | None = None, threads: int | None = None, ray_token: str | None = None
) -> dict[str, str]:
    """This process's environment, with what a child of its own should have instead.

    Args:
        models: Text of `SIMILARITY_MODELS`; None: nothing about models is set.
        threads: What OpenMP may use; None: the libraries' own defaults.
        ray_token: Token that the child's Ray asks for, or shows to the Ray it joins: Ray guards
            the clusters it starts, and looks for no token by itself where it is given an
            address. None: as Ray does by default.

    Returns:
        Every variable of this process except those about models, threads, and files and ports of
        this process's own Ray, which are replaced or left out.
    """
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith((PREFIX, *_OWN_RAY)) and name not in _THREADS
    }
    if models is not None:
        environment[MODELS] = models
    if threads is not None:
        environment |= dict.fromkeys(_THREADS, str(threads))
    if ray_token is not None:
        environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": ray_token}
    return environment
