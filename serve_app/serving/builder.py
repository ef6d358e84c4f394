"""The one place where deployments are wired together."""

from __future__ import annotations

from typing import Any

from ray import serve
from ray.serve import Application
from ray.serve.schema import LoggingConfig

from serve_app.config.args import AppArgs, Autoscaling, PoolArgs
from serve_app.config.declaration import Configuration
from serve_app.control.timing import Timing
from serve_app.models.placement import PoolPlacement
from serve_app.serving.control import Control, ControlSettings
from serve_app.serving.ingress import Ingress
from serve_app.serving.replica import PoolReplica

# A replica that cannot load its models will not do so at the twentieth try either.
_CONSTRUCTOR_TRIES = 3

# A killed replica is replaced when its health was asked for in vain.
_NOTICED_AFTER_S = 2.0

# glibc gives every thread that allocates an arena of its own, and gives back little of what large
# buffers leave in it: an ingress took a third more, and grew. Two cost no speed that was measured.
_MEMORY = {"MALLOC_ARENA_MAX": "2"}

_MOST_MEMBERS = 10_000
_SLOW_REQUESTS = 1024
_A_LITTLE = 0.001
_HEAD = "node:__internal_head__"
"""Where mounted files and the state are the same after a restart; Ray gives the head node this."""


def build_application(
    args: AppArgs,
    configuration: Configuration,
    placements: dict[str, PoolPlacement],
) -> Application:
    """Wires control plane, pools and ingress.

    Args:
        args: The application's arguments.
        configuration: Where models and routing come from, and what else the environment says.
        placements: Pool name → device and threads, resolved.
    """
    # Serve's access log costs more than the request's routing; ours names errors and slow loads.
    logging = LoggingConfig(
        encoding=args.log_format.upper(), log_level=args.log_level, enable_access_log=False
    )
    control = serve.deployment(
        Control,
        name="control",
        num_replicas=1,
        # Every replica of the application waits in one call, and operators besides.
        max_ongoing_requests=_MOST_MEMBERS,
        ray_actor_options={"num_cpus": 0, "resources": {_HEAD: _A_LITTLE}},
        health_check_period_s=_NOTICED_AFTER_S,
        # Nothing is lost when it ends, and those who wait in a call ask again.
        graceful_shutdown_wait_loop_s=0.1,
        graceful_shutdown_timeout_s=1.0,
        logging_config=logging,
    ).bind(
        ControlSettings(
            placements=placements,
            models=configuration.models,
            routing=configuration.routing,
            access=configuration.access,
            state_url=configuration.state_url,
            timing=Timing(poll_s=args.control.poll_s, retire_after_s=args.control.retire_after_s),
            log_level=args.log_level,
        )
    )
    pools = {
        pool.name: _pool_deployment(pool, placements[pool.name], logging).bind(
            pool,
            control,
            # What the replica admits must find room: an image and two texts (clipscore) a pair.
            3 * pool.max_ongoing_requests * args.limits.max_pairs,
            args.log_level,
            configuration.cache,
            gpu=placements[pool.name].device == "cuda",
        )
        for pool in args.pools
    }
    ingress = serve.deployment(
        Ingress,
        name="ingress",
        # More than our own bound: beyond ours the middleware answers with problem+json, Serve's own
        # rejection would be plain text, and who sends slowly must not take a place.
        max_ongoing_requests=2 * args.ingress.max_ongoing_requests + _SLOW_REQUESTS,
        ray_actor_options={
            "num_cpus": args.ingress.cpus,
            "runtime_env": {"env_vars": _MEMORY},
        },
        max_constructor_retry_count=_CONSTRUCTOR_TRIES,
        health_check_period_s=_NOTICED_AFTER_S,
        logging_config=logging,
        **_replicas(args.ingress.replicas),
    )
    application: Application = ingress.bind(
        args,
        control,
        pools,
        configuration.access.operated,
        configuration.fetch_hosts,
    )
    return application


def _pool_deployment(pool: PoolArgs, placement: PoolPlacement, logging: LoggingConfig) -> Any:
    gpus = (1.0 if placement.device == "cuda" else 0.0) if pool.gpus == "auto" else pool.gpus
    # Ray sets OMP_NUM_THREADS from num_cpus; libraries that read it at import must agree with the
    # threads that are set explicitly later.
    environment = {
        **_MEMORY,
        "OMP_NUM_THREADS": str(placement.threads),
        "TOKENIZERS_PARALLELISM": "false",
    }
    return serve.deployment(
        PoolReplica,
        name=f"pool-{pool.name}",
        max_ongoing_requests=pool.max_ongoing_requests,
        ray_actor_options={
            "num_cpus": pool.cpus,
            "num_gpus": gpus,
            "runtime_env": {"env_vars": environment},
        },
        max_constructor_retry_count=_CONSTRUCTOR_TRIES,
        health_check_period_s=_NOTICED_AFTER_S,
        logging_config=logging,
        **_replicas(pool.replicas),
    )


def _replicas(replicas: int | Autoscaling) -> dict[str, Any]:
    if isinstance(replicas, int):
        return {"num_replicas": replicas}
    return {"autoscaling_config": replicas.model_dump()}
