"""A Serve config file: checked as a whole, without Ray.

Ray Serve ignores keys that it does not know, so a misspelt `max_ongoing_requests` would change
nothing and say nothing. Knows which keys Serve reads (a test compares them with Serve's schema),
and leaves their values to Serve; the `args` of this application are validated entirely.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from serve_app.config.args import AppArgs
from serve_app.config.faults import Origin, located_messages, show, unknown_key
from serve_app.config.text import parse_mapping, read_text
from serve_app.errors import ConfigError, Fault

IMPORT_PATH = "serve_app.app:build_app"
"""What makes an application of a Serve config file ours."""

_LOGGING = {
    "encoding": None,
    "log_level": None,
    "logs_dir": None,
    "enable_access_log": None,
    "additional_log_standard_attrs": None,
}
_ACTOR_OPTIONS = {
    "runtime_env": None,
    "num_cpus": None,
    "num_gpus": None,
    "memory": None,
    "resources": None,
    "accelerator_type": None,
    "label_selector": None,
    "fallback_strategy": None,
}
_AUTOSCALING = {
    "min_replicas": None,
    "initial_replicas": None,
    "max_replicas": None,
    "target_ongoing_requests": None,
    "metrics_interval_s": None,
    "look_back_period_s": None,
    "smoothing_factor": None,
    "upscale_smoothing_factor": None,
    "downscale_smoothing_factor": None,
    "upscaling_factor": None,
    "downscaling_factor": None,
    "downscale_delay_s": None,
    "downscale_to_zero_delay_s": None,
    "upscale_delay_s": None,
    "aggregation_function": None,
    "policy": None,
}
_DEPLOYMENT = {
    "name": None,
    "num_replicas": None,
    "max_ongoing_requests": None,
    "max_queued_requests": None,
    "backpressure_config": None,
    "user_config": None,
    "autoscaling_config": _AUTOSCALING,
    "graceful_shutdown_wait_loop_s": None,
    "graceful_shutdown_timeout_s": None,
    "health_check_period_s": None,
    "health_check_timeout_s": None,
    "ray_actor_options": _ACTOR_OPTIONS,
    "placement_group_bundles": None,
    "placement_group_strategy": None,
    "placement_group_bundle_label_selector": None,
    "max_replicas_per_node": None,
    "logging_config": _LOGGING,
    "request_router_config": None,
    "gang_scheduling_config": None,
    "deployment_actors": None,
    "rolling_update_percentage": None,
    "max_surge_percent": None,
}
_APPLICATION = {
    "name": None,
    "route_prefix": None,
    "import_path": None,
    "runtime_env": None,
    "host": None,
    "port": None,
    "deployments": [_DEPLOYMENT],
    "autoscaling_policy": None,
    "args": None,
    "logging_config": _LOGGING,
    "external_scaler_enabled": None,
}
SCHEMA: Mapping[str, Any] = {
    "proxy_location": None,
    "http_options": {
        "host": None,
        "port": None,
        "root_path": None,
        "request_timeout_s": None,
        "keep_alive_timeout_s": None,
        "ssl_keyfile": None,
        "ssl_certfile": None,
        "ssl_keyfile_password": None,
        "ssl_ca_certs": None,
    },
    "grpc_options": {
        "port": None,
        "grpc_servicer_functions": None,
        "request_timeout_s": None,
        "enable_reflection": None,
    },
    "controller_options": None,
    "logging_config": _LOGGING,
    "tracing_config": None,
    "applications": [_APPLICATION],
    "target_capacity": None,
}
"""Keys that Serve 2.60 reads: a mapping of keys, a list of such mappings, or None: not followed
(free, or refused by Serve itself)."""


def read_serve_config(path: str | Path) -> tuple[AppArgs, dict[str, Any]]:
    """Reads and checks a Serve config file.

    Args:
        path: For example `serve_config.yaml`.

    Returns:
        The validated arguments of the (first) application of `serve_app`, and the whole file as
        plain data.

    Raises:
        ConfigError: Every fault, each with its key path.
    """
    path = Path(path)
    origin = Origin(path.name, ":")
    parsed = parse_mapping(read_text(path, origin.key()), origin)
    faults = [Fault(origin.key(where), message) for where, message in parsed.messages]
    _check_keys(parsed.value, SCHEMA, (), origin, faults)
    ours: list[AppArgs] = []
    found = False
    for index, application in _applications(parsed.value, origin, faults):
        here = ("applications", str(index))
        if not application.get("import_path"):
            faults.append(Fault(origin.key((*here, "import_path")), "is missing"))
        if application.get("import_path") != IMPORT_PATH:
            continue
        found = True
        written = application.get("args")
        try:
            ours.append(AppArgs.model_validate({} if written is None else written))
        except ValidationError as error:
            faults.extend(
                Fault(origin.key((*here, "args", *where)), message)
                for where, message in located_messages(error, AppArgs)
            )
    if not found:
        key = origin.key(("applications",))
        faults.append(Fault(key, f"none has the import_path {IMPORT_PATH}"))
    if faults:
        raise ConfigError(tuple(faults))
    return ours[0], parsed.value


def _applications(
    value: dict[str, Any], origin: Origin, faults: list[Fault]
) -> list[tuple[int, dict[str, Any]]]:
    applications = value.get("applications")
    if not isinstance(applications, list):
        if applications is not None:
            message = f"must be a list, not {show(applications)}"
            faults.append(Fault(origin.key(("applications",)), message))
        return []
    return [(index, item) for index, item in enumerate(applications) if isinstance(item, dict)]


def _check_keys(
    value: Any, schema: Any, path: tuple[str, ...], origin: Origin, faults: list[Fault]
) -> None:
    if value is None or schema is None:
        return
    if isinstance(schema, list):
        items = value if isinstance(value, list) else []
        for index, item in enumerate(items):
            _check_keys(item, schema[0], (*path, str(index)), origin, faults)
    elif not isinstance(value, dict):
        faults.append(Fault(origin.key(path), f"must be a mapping, not {show(value)}"))
    else:
        for key, item in value.items():
            if key in schema:
                _check_keys(item, schema[key], (*path, key), origin, faults)
            else:
                faults.append(Fault(origin.key((*path, key)), unknown_key(key, schema)))
