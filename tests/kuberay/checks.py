"""What is wrong with a manifest, as an API server, KubeRay's operator and Ray Serve would say."""

from __future__ import annotations

import json
import re
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import yaml

from serve_app.config.serve_file import read_serve_config
from serve_app.errors import ConfigError

HERE = Path(__file__).parent
VERSION = "1.31"
"""Of Kubernetes: the oldest that the manifests are meant for."""

# KubeRay 1.7's custom resource definition, Apache-2.0, without descriptions.
_SCHEMA = json.loads((HERE / "rayservice-schema.json").read_text())


def closed(schema: Any) -> Any:
    """A schema that refuses what it does not name: an API server would drop that silently."""
    if isinstance(schema, list):
        return [closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: closed(value) for key, value in schema.items()}
    properties = made.get("properties")
    named = isinstance(properties, dict) and made.get("type") == "object"
    if named and not made.get("x-kubernetes-preserve-unknown-fields"):
        made.setdefault("additionalProperties", False)
    return made


CLOSED = closed(_SCHEMA)
# An API server knows all of an object's metadata; the definition says only that it is an object.
CLOSED["properties"]["metadata"] = {
    "type": "object",
    "additionalProperties": False,
    "required": ["name"],
    "properties": {
        "name": {"type": "string"},
        "namespace": {"type": "string"},
        "labels": {"type": "object", "additionalProperties": {"type": "string"}},
        "annotations": {"type": "object", "additionalProperties": {"type": "string"}},
    },
}


def with_defaults(value: Any, schema: Any) -> Any:
    """The value without nulls and with the schema's defaults, as an API server stores it."""
    if isinstance(value, dict) and isinstance(schema, dict):
        properties = schema.get("properties", {})
        made = {
            key: with_defaults(item, properties.get(key, schema.get("additionalProperties")))
            for key, item in value.items()
            if item is not None
        }
        for key, below in properties.items():
            if key not in made and "default" in below:
                made[key] = below["default"]
        return made
    if isinstance(value, list) and isinstance(schema, dict):
        return [with_defaults(item, schema.get("items")) for item in value]
    return value


def faults(manifest: dict[str, Any]) -> list[str]:
    """Everything that is wrong."""
    if manifest.get("kind") == "RayService":
        # The operator sees what the API server has taken.
        refused = [*_schema_faults(manifest)]
        return refused or [*_operator_faults(manifest), *_serve_faults(manifest)]
    try:
        kubernetes_validate.validate(manifest, VERSION, strict=True)
    except (kubernetes_validate.ValidationError, kubernetes_validate.SchemaNotFoundError) as error:
        return [str(getattr(error, "message", error))]
    return []


def _schema_faults(manifest: dict[str, Any]) -> Iterator[str]:
    stored = with_defaults(manifest, CLOSED)
    for error in jsonschema.Draft202012Validator(CLOSED).iter_errors(stored):
        yield f"{'.'.join(map(str, error.absolute_path))}: {error.message[:300]}"


def _operator_faults(manifest: dict[str, Any]) -> Iterator[str]:
    """The rules of KubeRay's `ValidateRayServiceMetadata` and `ValidateRayServiceSpec`."""
    name = manifest["metadata"]["name"]
    if len(name) > 47 or not re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name):
        yield f"metadata.name: {name!r} is no DNS label of at most 47 characters"
    spec = manifest.get("spec", {})
    cluster = spec.get("rayClusterConfig") or {}
    autoscaling = bool(cluster.get("enableInTreeAutoscaling"))
    v2 = (cluster.get("autoscalerOptions") or {}).get("version") == "v2"
    groups = [cluster.get("headGroupSpec") or {}, *(cluster.get("workerGroupSpecs") or ())]
    for group in groups:
        where = group.get("groupName", "head")
        pod = (group.get("template") or {}).get("spec") or {}
        if not pod.get("containers"):
            yield f"{where}: at least one container"
        if "labels" in group.get("rayStartParams", {}):
            yield f"{where}: labels are no rayStartParams"
        if v2 and pod.get("restartPolicy", "Never") != "Never":
            yield f"{where}: restartPolicy Never, with the second autoscaler"
    for group in cluster.get("workerGroupSpecs") or ():
        low, high = group.get("minReplicas"), group.get("maxReplicas")
        if not autoscaling and (low is None or high is None):
            yield f"{group.get('groupName')}: minReplicas and maxReplicas"
        if low is not None and high is not None and not 0 <= low <= high:
            yield f"{group.get('groupName')}: minReplicas is beyond maxReplicas"
        if not (low or 0) <= group.get("replicas", low or 0) <= (high or 10**9):
            yield f"{group.get('groupName')}: replicas is not between minReplicas and maxReplicas"
    yield from _upgrade_faults(spec, autoscaling)
    yield from _redis_faults(manifest, cluster)
    auth = cluster.get("authOptions") or {}
    version = tuple(map(int, re.findall(r"\d+", cluster.get("rayVersion", "0"))))
    if auth.get("mode") == "token" and version < (2, 52):
        yield "authOptions.mode: a token needs rayVersion 2.52"
    if auth.get("enableK8sTokenAuth"):
        yield "authOptions.enableK8sTokenAuth: not for a RayService"


def _upgrade_faults(spec: dict[str, Any], autoscaling: bool) -> Iterator[str]:
    strategy = spec.get("upgradeStrategy") or {}
    kinds = ("NewCluster", "None", "NewClusterWithIncrementalUpgrade")
    if strategy.get("type", "NewCluster") not in kinds:
        yield f"upgradeStrategy.type: one of {kinds}"
    if strategy.get("type") != kinds[2]:
        return
    if not autoscaling:
        yield "upgradeStrategy: an incremental upgrade needs enableInTreeAutoscaling"
    options = strategy.get("clusterUpgradeOptions") or {}
    surge, step = options.get("maxSurgePercent", 100), options.get("stepSizePercent", -1)
    if not (0 <= step <= surge <= 100) or options.get("intervalSeconds", 0) <= 0:
        yield "clusterUpgradeOptions: 0 <= stepSizePercent <= maxSurgePercent <= 100, an interval"
    if not options.get("gatewayClassName"):
        yield "clusterUpgradeOptions.gatewayClassName"


def _redis_faults(manifest: dict[str, Any], cluster: dict[str, Any]) -> Iterator[str]:
    options = cluster.get("gcsFaultToleranceOptions")
    if options is None:
        return
    head = cluster["headGroupSpec"]
    names = {
        item["name"]
        for container in head["template"]["spec"]["containers"]
        for item in container.get("env", ())
    }
    if {"RAY_REDIS_ADDRESS", "REDIS_PASSWORD"} & names or "redis-password" in head.get(
        "rayStartParams", {}
    ):
        yield "gcsFaultToleranceOptions: Redis is named in the head's environment as well"
    annotations = manifest["metadata"].get("annotations", {})
    if {"ray.io/ft-enabled", "ray.io/external-storage-namespace"} & set(annotations):
        yield "gcsFaultToleranceOptions: the annotations say the same"


def _serve_faults(manifest: dict[str, Any]) -> Iterator[str]:
    """Strict about keys by our own check, about values by Serve's schema."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Ray's own deprecations are not ours to mend
        from ray.serve.schema import ServeDeploySchema

    text = manifest.get("spec", {}).get("serveConfigV2", "")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "serve.yaml"
        path.write_text(text)
        try:
            _, config = read_serve_config(path)
        except ConfigError as error:
            yield from map(str, error.faults)
            return
    try:
        ServeDeploySchema.model_validate(config)
    except ValueError as error:
        yield f"serveConfigV2: {error}"


def documents(path: Path) -> list[dict[str, Any]]:
    return [item for item in yaml.safe_load_all(path.read_text()) if item is not None]
