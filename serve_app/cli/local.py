"""The declared models in this process, without Ray: what the environment says, on this machine."""

from __future__ import annotations

import contextlib
import logging
import os
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from serve_app.config.document import Document
    from serve_app.config.routing_source import RoutingDocument
    from serve_app.models.placement import PoolPlacement
    from serve_app.models.registry import RegistrySnapshot


def cpu_count() -> int:
    """CPUs that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def snapshot_here(
    document: Document,
    pools: Mapping[str, PoolPlacement] | None = None,
    threads: int | None = None,
    routing: RoutingDocument | None = None,
) -> RegistrySnapshot:
    """Models and routing, checked, nothing loaded.

    Args:
        document: The declared models.
        pools: Declared pools; None: pools are a matter of the deployment, which is not here, so
            whichever pool a model names is this machine.
        threads: Torch threads; None: one for each CPU.
        routing: The declared routing; None where there is none.

    Raises:
        ConfigError: Every fault.
    """
    from serve_app.config.args import PoolArgs
    from serve_app.models.placement import pool_placement
    from serve_app.models.registry import DynamicModelRegistry

    if pools is None:
        args = PoolArgs(threads=threads or cpu_count())
        here = pool_placement(args, has_gpu=has_gpu())
        pools = dict.fromkeys(("default", *_pools_named(document.models)), here)
    return DynamicModelRegistry(pools).update(document, routing)


def has_gpu() -> bool:
    """Whether there is a GPU, by its device file: asking torch would take seconds."""
    return any(Path("/dev").glob("nvidia[0-9]*"))


@contextlib.contextmanager
def quiet_libraries() -> Iterator[None]:
    """Keeps model libraries from writing between our lines: their remarks are for developers."""
    loggers = [logging.getLogger(name) for name in ("open_clip", "transformers", "serve_app")]
    levels = [logger.level for logger in loggers]
    root_level = logging.getLogger().level
    try:
        # open_clip logs on the root logger.
        for logger in (*loggers, logging.getLogger()):
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.getLogger().setLevel(root_level)
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _pools_named(models: Mapping[str, Any]) -> Iterator[str]:
    for spec in models.values():
        pool = spec.get("pool") if isinstance(spec, Mapping) else None
        if isinstance(pool, str):
            yield pool
