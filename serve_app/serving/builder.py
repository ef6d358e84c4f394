"""The one place where deployments are wired together."""

from __future__ import annotations

from typing import Any

from ray import serve
from ray.serve import Application
from ray.serve.schema import LoggingConfig

from serve_app.config.args import AppArgs, Autoscaling, PoolArgs
from serve_app.models.placement import PoolPlacement
from serve_app.models.registry import RegistrySnapshot
from serve_app.serving.ingress import Ingress
from serve_app.serving.replica import PoolReplica

# A replica that cannot load its models will not do so at the twentieth try either.
_CONSTRUCTOR_TRIES = 3


def build_application(
    args: AppArgs, snapshot: RegistrySnapshot, placements: dict[str, PoolPlacement]
) -> Application:
    """Wires ingress and pools.

    Args:
        args: The application's arguments.
        snapshot: The declared models.
        placements: Pool name → device and threads, resolved.
    """
    # Serve's access log costs more than the request's routing; ours names errors and slow loads.
    logging = LoggingConfig(log_level=args.log_level, enable_access_log=False)
    pools = {
        pool.name: _pool_deployment(pool, placements[pool.name], logging).bind(
            pool.name,
            snapshot,
            pool.memory_bytes,
            # What the replica admits must find room: an image and two texts (clipscore) a pair.
            3 * pool.max_ongoing_requests * args.limits.max_pairs,
            args.log_level,
        )
        for pool in args.pools
    }
    ingress = serve.deployment(
        Ingress,
        name="ingress",
        # Twice our own bound: beyond ours the middleware answers with problem+json, Serve's own
        # rejection would be plain text.
        max_ongoing_requests=2 * args.ingress.max_ongoing_requests,
        ray_actor_options={"num_cpus": args.ingress.cpus},
        max_constructor_retry_count=_CONSTRUCTOR_TRIES,
        logging_config=logging,
        **_replicas(args.ingress.replicas),
    )
    application: Application = ingress.bind(args, snapshot, pools)
    return application


def _pool_deployment(pool: PoolArgs, placement: PoolPlacement, logging: LoggingConfig) -> Any:
    gpus = (1.0 if placement.device == "cuda" else 0.0) if pool.gpus == "auto" else pool.gpus
    # Ray sets OMP_NUM_THREADS from num_cpus; libraries that read it at import must agree with the
    # threads that are set explicitly later.
    environment = {"OMP_NUM_THREADS": str(placement.threads), "TOKENIZERS_PARALLELISM": "false"}
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
        logging_config=logging,
        **_replicas(pool.replicas),
    )


def _replicas(replicas: int | Autoscaling) -> dict[str, Any]:
    if isinstance(replicas, int):
        return {"num_replicas": replicas}
    return {"autoscaling_config": replicas.model_dump()}
