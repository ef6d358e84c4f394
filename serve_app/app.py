"""The import path in `serve_config.yaml`: from arguments and environment to an application."""

# No `from __future__ import annotations` here: Ray Serve reads the type of `args` off the function,
# and would take its name, a string, for no type at all.

import ray
from ray.serve import Application

from serve_app.config.args import AppArgs
from serve_app.config.declaration import configuration_from_environment, read_declaration
from serve_app.config.exposure import check_exposure
from serve_app.control.sqlite_store import SqliteStateStore
from serve_app.models.factory import SimilarityModelFactory
from serve_app.models.placement import pool_placement
from serve_app.models.registry import DynamicModelRegistry
from serve_app.serving.builder import build_application
from serve_app.serving.listening import listening_host


def build_app(args: AppArgs) -> Application:
    """Builds the application; Ray Serve calls it with the `args` of its configuration.

    The environment is read here, once, and frozen into the control plane's arguments: no replica
    reads it for itself, so no two can disagree. A file that it names is followed.

    Args:
        args: Validated by Ray Serve; unknown keys are refused.

    Raises:
        ConfigError: Models, routing, keys or settings have faults; or others can reach the service
            and no key is asked for.
    """
    has_gpu = ray.is_initialized() and ray.cluster_resources().get("GPU", 0) > 0
    placements = {pool.name: pool_placement(pool, has_gpu=has_gpu) for pool in args.pools}
    declared = read_declaration()
    # Refused here, what runs goes on; the control plane reads it again and follows it.
    DynamicModelRegistry(placements, SimilarityModelFactory()).update(
        declared.models, declared.routing
    )
    configuration = configuration_from_environment()
    configuration.access.read()
    host = listening_host()
    if host is not None:
        check_exposure(host, configuration)
    if configuration.state_url is not None:
        SqliteStateStore(configuration.state_url).close()
    return build_application(args, configuration, placements)
