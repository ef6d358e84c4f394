from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest

from serve_app.config.args import AppArgs
from serve_app.config.serve_file import SCHEMA, read_serve_config
from serve_app.errors import ConfigError

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Ray's own use of pydantic is deprecated
    from ray.serve import schema
    from ray.serve.config import AutoscalingConfig

GOOD = """
proxy_location: EveryNode
http_options: {host: 127.0.0.1, port: 8000}
logging_config: {log_level: INFO}
applications:
  - name: similarity
    route_prefix: /
    import_path: serve_app.app:build_app
    args:
      pools:
        - {name: default, replicas: {min_replicas: 1, max_replicas: 3}}
      limits: {max_pairs: 100}
    deployments:
      - name: Ingress
        ray_actor_options: {num_cpus: 1}
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "serve_config.yaml"
    path.write_text(text)
    return path


def refused(folder: Path, text: str) -> dict[str, str]:
    with pytest.raises(ConfigError) as caught:
        read_serve_config(write(folder, text))
    prefix = "serve_config.yaml:"
    return {fault.key.removeprefix(prefix): fault.message for fault in caught.value.faults}


def test_a_good_file_gives_arguments_and_raw_data(tmp_path: Path) -> None:
    args, raw = read_serve_config(write(tmp_path, GOOD))
    assert args.limits.max_pairs == 100
    assert raw["http_options"]["port"] == 8000
    # Serve reads it as well: the text above is not only our idea of it.
    assert schema.ServeDeploySchema.model_validate(raw).applications[0].name == "similarity"


def test_arguments_may_be_left_out(tmp_path: Path) -> None:
    text = "applications: [{import_path: 'serve_app.app:build_app'}]"
    assert read_serve_config(write(tmp_path, text))[0] == AppArgs()


def test_every_fault_is_named(tmp_path: Path) -> None:
    found = refused(
        tmp_path,
        """
http_option: {port: 1}
http_options: {prt: 1}
grpc_options: 5
applications:
  - import_path: serve_app.app:build_app
    route_prefx: /
    args: {pols: [], limits: {max_pairs: 0}, log_level: loud}
    deployments:
      - {name: x, max_ongoing_request: 5, ray_actor_options: {num_cpu: 1}}
      - {name: y, autoscaling_config: {max_replica: 3}}
  - {name: other}
applications_: 1
target_capacity: 1
target_capacity: 2
""",
    )
    assert set(found) == {
        "target_capacity",
        "http_option",
        "http_options.prt",
        "grpc_options",
        "applications.0.route_prefx",
        "applications.0.args.pols",
        "applications.0.args.limits.max_pairs",
        "applications.0.args.log_level",
        "applications.0.deployments.0.max_ongoing_request",
        "applications.0.deployments.0.ray_actor_options.num_cpu",
        "applications.0.deployments.1.autoscaling_config.max_replica",
        "applications.1.import_path",
        "applications_",
    }
    assert "did you mean 'http_options'?" in found["http_option"]
    assert "did you mean 'pools'?" in found["applications.0.args.pols"]
    assert (
        "did you mean 'num_cpus'?"
        in found["applications.0.deployments.0.ray_actor_options.num_cpu"]
    )


@pytest.mark.parametrize(
    "text",
    [
        "applications: []",
        "applications: 3",
        "http_options: {}",
        "applications: [{import_path: a:b}]",
    ],
)
def test_a_file_without_our_application_is_refused(tmp_path: Path, text: str) -> None:
    assert "applications" in refused(tmp_path, text)


def test_arguments_must_be_a_mapping(tmp_path: Path) -> None:
    text = "applications: [{import_path: 'serve_app.app:build_app', args: [1]}]"
    assert "must be a mapping" in refused(tmp_path, text)["applications.0.args"]


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (SCHEMA, schema.ServeDeploySchema),
        (SCHEMA["http_options"], schema.HTTPOptionsSchema),
        (SCHEMA["grpc_options"], schema.gRPCOptionsSchema),
        (SCHEMA["logging_config"], schema.LoggingConfig),
        (SCHEMA["applications"][0], schema.ServeApplicationSchema),
        (SCHEMA["applications"][0]["deployments"][0], schema.DeploymentSchema),
        (
            SCHEMA["applications"][0]["deployments"][0]["ray_actor_options"],
            schema.RayActorOptionsSchema,
        ),
        (SCHEMA["applications"][0]["deployments"][0]["autoscaling_config"], AutoscalingConfig),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_keys_are_those_of_ray(ours: dict[str, Any], theirs: type[Any]) -> None:
    assert set(ours) == set(theirs.model_fields)
