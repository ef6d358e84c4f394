"""One Ray and one Serve for all integration tests; each test deploys applications of its own."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import httpx
import pytest
import yaml

from serve_app.config.args import AppArgs
from serve_app.config.declaration import configuration_from_environment, read_declaration
from serve_app.config.ray_environment import free_ports, set_ray_environment
from serve_app.launcher import run_folder
from serve_app.models.factory import SimilarityModelFactory
from serve_app.models.placement import pool_placement
from serve_app.models.registry import DynamicModelRegistry
from tests.integration.support import Deploy, Running


@pytest.fixture(scope="session")
def serve_address() -> Iterator[str]:
    """Address of Serve's proxy, on a Ray with four pretend GPUs."""
    with run_folder() as folder, warnings.catch_warnings():
        set_ray_environment(folder)
        # Ray's own deprecations are not ours to mend.
        warnings.simplefilter("ignore")
        import ray
        from ray import serve

        port = free_ports(1)[0]
        ray.init(
            address="local",
            num_cpus=32,
            num_gpus=4,
            object_store_memory=512 * 2**20,
            include_dashboard=False,
            logging_level="ERROR",
            log_to_driver=False,
        )
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        yield f"http://127.0.0.1:{port}"
        serve.shutdown()
        ray.shutdown()


_names = (f"app{number}" for number in itertools.count())


@pytest.fixture(scope="module")
def deploy(serve_address: str) -> Iterator[Deploy]:
    """Deploys an application under a name of its own; gone when the module's tests are done."""
    from ray import serve

    from serve_app.serving.builder import build_application

    names: list[str] = []
    clients: list[httpx.Client] = []

    def deploy_one(
        args: Mapping[str, Any] | None = None,
        models: Mapping[str, Any] | None = None,
        routing: Mapping[str, Any] | None = None,
        variables: Mapping[str, str] | None = None,
    ) -> Running:
        name = next(_names)
        app_args = AppArgs.model_validate(dict(args or {"pools": [{"gpus": 0}]}))
        placements = {pool.name: pool_placement(pool, has_gpu=False) for pool in app_args.pools}
        environment = dict(variables or {})
        if models is not None:
            environment["SIMILARITY_MODELS"] = yaml.safe_dump(dict(models), sort_keys=False)
        if routing is not None:
            environment["SIMILARITY_ROUTING"] = yaml.safe_dump(dict(routing), sort_keys=False)
        registry = DynamicModelRegistry(placements, SimilarityModelFactory())
        declared = read_declaration(environment)
        snapshot = registry.update(declared.models, declared.routing)
        names.append(name)
        serve.run(
            build_application(app_args, configuration_from_environment(environment), placements),
            name=name,
            route_prefix=f"/{name}",
        )
        url = f"{serve_address}/{name}"
        clients.append(httpx.Client(base_url=url, timeout=120))
        return Running(name, url, clients[-1], snapshot)

    yield deploy_one
    for client in clients:
        client.close()
    for name in names:
        serve.delete(name)


@pytest.fixture(scope="module")
def demo(deploy: Deploy) -> Running:
    """The demo models, served as with nothing configured."""
    return deploy()
