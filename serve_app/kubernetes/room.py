"""Whether the replicas that Serve may have find room on the workers that there may be.

Those that do not wait for ever, and nothing says so.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml
from pydantic import ValidationError

from serve_app.config.args import AppArgs, Autoscaling
from serve_app.config.serve_file import IMPORT_PATH
from serve_app.kubernetes.manifests import Manifest, worker_groups

_GPU = "nvidia.com/gpu"
_SUFFIXES = {"m": 1e-3, "k": 1e3, "": 1.0}


@dataclass(slots=True)
class _Node:
    """What a pod offers to Ray."""

    cpus: float
    gpus: float


def without_room(rayservice: Manifest) -> str | None:
    """Which replicas have no place when there are as many as there may be.

    As Ray does it, a deployment's replicas are spread over the nodes.

    Returns:
        None where all find room, or where that cannot be told.
    """
    spec = rayservice.get("spec") or {}
    nodes = list(_nodes(rayservice))
    lacking: list[str] = []
    for args in _arguments(str(spec.get("serveConfigV2") or "")):
        deployments = [("ingress", args.ingress.replicas, args.ingress.cpus, 0.0)]
        for pool in args.pools:
            gpus = float(pool.gpus) if pool.gpus != "auto" else float(any(n.gpus for n in nodes))
            deployments.append((f"pool {pool.name}", pool.replicas, pool.cpus, gpus))
        # What is hardest to place comes first.
        for name, replicas, cpus, gpus in sorted(deployments, key=lambda it: (-it[3], -it[2])):
            most = replicas.max_replicas if isinstance(replicas, Autoscaling) else replicas
            placed = sum(_place(nodes, cpus, gpus) for _ in range(most))
            if placed < most:
                lacking.append(f"{most - placed} of {most} replicas of the {name}")
    return ", ".join(lacking) or None


def _place(nodes: list[_Node], cpus: float, gpus: float) -> bool:
    fitting = [node for node in nodes if node.cpus >= cpus - 1e-9 and node.gpus >= gpus - 1e-9]
    if not fitting:
        return False
    # On the emptiest; without a need for a GPU, where there is least of it.
    chosen = max(fitting, key=lambda node: (node.gpus if gpus else -node.gpus, node.cpus))
    chosen.cpus -= cpus
    chosen.gpus -= gpus
    return True


def _nodes(rayservice: Manifest) -> Iterator[_Node]:
    """As many as there may be, the head among them."""
    cluster = (rayservice.get("spec") or {}).get("rayClusterConfig") or {}
    if head := cluster.get("headGroupSpec"):
        yield _node(head)
    grows = bool(cluster.get("enableInTreeAutoscaling"))
    for group in worker_groups(rayservice):
        count = group.get("replicas", group.get("minReplicas", 1))
        if grows and group.get("maxReplicas") is not None:
            count = group["maxReplicas"]
        one = _node(group)
        for _ in range(int(count or 0) * int(group.get("numOfHosts", 1))):
            yield copy.copy(one)


def _node(group: Manifest) -> _Node:
    """As KubeRay tells Ray: `rayStartParams`, else limits of the first container, else requests."""
    given = group.get("rayStartParams") or {}
    pod = (group.get("template") or {}).get("spec") or {}
    containers: list[Manifest] = list(pod.get("containers") or ())
    resources = (containers[0].get("resources") if containers else None) or {}
    requests, limits = (resources.get(name) or {} for name in ("requests", "limits"))
    cpus = given.get("num-cpus", limits.get("cpu", requests.get("cpu", 0)))
    return _Node(_quantity(cpus), _quantity(given.get("num-gpus", limits.get(_GPU, 0))))


def _quantity(value: Any) -> float:
    match = re.fullmatch(r"([0-9.]+)([mk]?)", str(value))
    return float(match[1]) * _SUFFIXES[match[2]] if match else 0.0


def _arguments(config: str) -> Iterator[AppArgs]:
    """Of our applications, as far as they are valid: `serve-app check-config` says what is not."""
    try:
        parsed = yaml.safe_load(config)
    except yaml.YAMLError:
        return
    applications = parsed.get("applications") if isinstance(parsed, dict) else None
    for application in applications if isinstance(applications, list) else ():
        if isinstance(application, dict) and application.get("import_path") == IMPORT_PATH:
            try:
                yield AppArgs.model_validate(application.get("args") or {})
            except ValidationError:
                continue
