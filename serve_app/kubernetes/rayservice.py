"""What KubeRay 1.7 makes of a changed RayService.

The rules are those of its controller: `GenerateHashWithoutReplicasAndWorkersToDelete`,
`isClusterSpecHashEqual`, `shouldPrepareNewCluster` and `isZeroDowntimeUpgradeEnabled`.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any

import yaml

from serve_app.kubernetes.effects import Change, Effect
from serve_app.kubernetes.manifests import Key, Manifest, pod_specs, worker_groups
from serve_app.kubernetes.room import without_room

_GPU = "nvidia.com/gpu"
_MUTED_POD = ("tolerations", "schedulingGates")
_MUTED_GROUP = ("replicas", "minReplicas", "maxReplicas")
_INCREMENTAL = "NewClusterWithIncrementalUpgrade"


def rayservice_changes(key: Key, old: Manifest, new: Manifest) -> list[Change]:
    """What happens when `old` becomes `new`."""
    before, after = old.get("spec") or {}, new.get("spec") or {}
    cluster = _cluster_change(key, old, new)
    changes = [] if cluster is None else [cluster]
    renews = cluster is not None and cluster.effect is Effect.NEW_CLUSTER
    if not renews:
        changes += _muted_changes(key, before, after)
    if before.get("serveConfigV2") != after.get("serveConfigV2"):
        if renews:
            changes.append(
                Change(key, Effect.NEW_CLUSTER, "serveConfigV2: goes to the new cluster")
            )
        else:
            changes += _serve_changes(key, before, after)
    changes += _metadata_changes(key, old, new)
    changes += room_changes(key, new, old)
    handled = {"rayClusterConfig", "serveConfigV2"}
    for name in sorted({*before, *after} - handled):
        if before.get(name) != after.get(name):
            detail = f"{name}: KubeRay goes by it from now on"
            changes.append(Change(key, Effect.IN_PLACE, detail))
    return changes


def room_changes(key: Key, new: Manifest, old: Manifest | None = None) -> list[Change]:
    """That replicas have no place, if that is new."""
    lacking = without_room(new)
    if lacking is None or (old is not None and lacking == without_room(old)):
        return []
    warning = (
        "there is no room for them on as many workers as there may be: they wait for ever. Raise "
        "the workers' resources or number, or lower the bounds of Serve"
    )
    return [Change(key, Effect.NOTHING, f"serveConfigV2: {lacking} begin nowhere", warning=warning)]


def gpus_of(manifest: Manifest) -> float:
    """GPUs of a whole cluster, as many workers as it begins with."""
    head, *workers = pod_specs(Key("", "RayService", "", ""), manifest)
    total = _gpus_of_pod(head.spec)
    for group, pod in zip(worker_groups(manifest), workers, strict=True):
        count = group.get("replicas", group.get("minReplicas", 1))
        total += int(count or 0) * int(group.get("numOfHosts", 1)) * _gpus_of_pod(pod.spec)
    return total


def _cluster_change(key: Key, old: Manifest, new: Manifest) -> Change | None:
    before, after = _hashed(old), _hashed(new)
    if before == after:
        return None
    groups = len(before.get("workerGroupSpecs") or ())
    shortened = {**after, "workerGroupSpecs": (after.get("workerGroupSpecs") or [])[:groups]}
    if len(after.get("workerGroupSpecs") or ()) > groups and shortened == before:
        added = [str(group.get("groupName")) for group in worker_groups(new)[groups:]]
        detail = f"rayClusterConfig: worker groups are added: {', '.join(added)}"
        return Change(key, Effect.IN_PLACE, detail)
    places = ", ".join(_differences(before, after))
    strategy = _strategy(new)
    if strategy == "None":
        return Change(
            key,
            Effect.NOTHING,
            f"rayClusterConfig: {places}",
            warning="upgradeStrategy.type is None, so KubeRay makes no new cluster, and changes "
            "none: it comes into effect with the next cluster",
        )
    needed = gpus_of(old) + gpus_of(new)
    how = "a new cluster is made, and traffic moves to it when it is ready"
    if strategy == _INCREMENTAL:
        options = ((new.get("spec") or {}).get("upgradeStrategy") or {}).get(
            "clusterUpgradeOptions"
        ) or {}
        surge = float(options.get("maxSurgePercent", 100)) / 100
        needed = gpus_of(old) + math.ceil(surge * gpus_of(new))
        how = "a new cluster grows while the old one shrinks, and traffic moves in steps"
    detail = f"rayClusterConfig: {places}; {how}"
    return Change(key, Effect.NEW_CLUSTER, detail, gpus=needed)


def _muted_changes(key: Key, before: Manifest, after: Manifest) -> list[Change]:
    """What KubeRay's hash leaves out, so that it reaches no running cluster."""
    old, new = before.get("rayClusterConfig") or {}, after.get("rayClusterConfig") or {}
    if old == new:
        return []
    found = []
    old_groups = {str(g.get("groupName")): g for g in old.get("workerGroupSpecs") or ()}
    for group in new.get("workerGroupSpecs") or ():
        name = str(group.get("groupName"))
        if name not in old_groups:
            continue
        was = old_groups[name]
        muted = [field for field in _MUTED_GROUP if was.get(field) != group.get(field)]
        muted += _muted_of_pod(was, group)
        found += [f"worker group {name}: {field}" for field in muted]
    head = _muted_of_pod(old.get("headGroupSpec") or {}, new.get("headGroupSpec") or {})
    found += [f"the head: {field}" for field in head]
    if old.get("suspend") != new.get("suspend"):
        found.append("suspend")
    if not found:
        return []
    warning = (
        "KubeRay leaves these out when it compares, so the running cluster stays as it is; they "
        "come into effect with the next cluster. To scale now, change the RayCluster, or let the "
        "autoscaler do it"
    )
    return [Change(key, Effect.NOTHING, f"rayClusterConfig: {', '.join(found)}", warning=warning)]


def _serve_changes(key: Key, before: Manifest, after: Manifest) -> list[Change]:
    old, new = _serve_config(before), _serve_config(after)
    if old is None or new is None:
        warning = "it is no YAML mapping: KubeRay cannot give it to Serve"
        return [Change(key, Effect.NOTHING, "serveConfigV2", warning=warning)]
    if old == new:
        return [Change(key, Effect.NOTHING, "serveConfigV2: only its form has changed")]
    changes = []
    for name in ("http_options", "grpc_options", "proxy_location"):
        if old.get(name) != new.get(name):
            warning = (
                "Serve reads it when it starts: the running one goes on with what it has. Change "
                "rayClusterConfig too, for example an annotation, so that there is a new cluster"
            )
            changes.append(Change(key, Effect.NOTHING, f"serveConfigV2.{name}", warning=warning))
    olds, news = _by_name(old.get("applications")), _by_name(new.get("applications"))
    for name in sorted({*olds, *news}):
        if olds.get(name) != news.get(name):
            changes.append(_application_change(key, name, olds.get(name), news.get(name)))
    rest = [
        name
        for name in sorted({*old, *new})
        if name not in ("http_options", "grpc_options", "proxy_location", "applications")
        and old.get(name) != new.get(name)
    ]
    if rest:
        detail = f"serveConfigV2: {', '.join(rest)} is updated in the running cluster"
        changes.append(Change(key, Effect.IN_PLACE, detail))
    return changes


def _application_change(key: Key, name: str, old: Manifest | None, new: Manifest | None) -> Change:
    here = f"serveConfigV2, application {name}"
    if old is None or new is None:
        verb = "is deployed" if old is None else "is deleted, with all its requests"
        return Change(key, Effect.IN_PLACE, f"{here}: {verb}")
    fields = [field for field in sorted({*old, *new}) if old.get(field) != new.get(field)]
    if fields == ["deployments"]:
        deployments = _deployment_fields(old, new)
        if deployments <= {"user_config", "num_replicas", "autoscaling_config"}:
            detail = f"{here}: {', '.join(sorted(deployments))} is updated without a restart"
            return Change(key, Effect.IN_PLACE, detail)
    return Change(
        key,
        Effect.ROLLING_RESTART,
        f"{here}: {', '.join(fields)}; it is built again, and replicas that differ are replaced "
        "one after the other",
    )


def _deployment_fields(old: Manifest, new: Manifest) -> set[str]:
    olds, news = _by_name(old.get("deployments")), _by_name(new.get("deployments"))
    return {
        field
        for name in {*olds, *news}
        for field in {*(olds.get(name) or {}), *(news.get(name) or {})}
        if (olds.get(name) or {}).get(field) != (news.get(name) or {}).get(field)
    }


def _metadata_changes(key: Key, old: Manifest, new: Manifest) -> list[Change]:
    changes = []
    for name in ("annotations", "labels"):
        was, is_ = (item["metadata"].get(name) or {} for item in (old, new))
        different = sorted(k for k in {*was, *is_} if was.get(k) != is_.get(k))
        if not different:
            continue
        warning = "a running cluster does not get them; the next one does"
        if any("reloader.stakater.com" in one for one in different):
            warning = (
                "Reloader acts on Deployments, StatefulSets and DaemonSets: on a RayService its "
                "annotation does nothing. The overlay `reloader` has a bridge"
            )
        detail = f"metadata.{name}: {', '.join(different)}"
        changes.append(Change(key, Effect.NOTHING, detail, warning=warning))
    return changes


def _hashed(manifest: Manifest) -> dict[str, Any]:
    """What KubeRay compares."""
    found = copy.deepcopy(dict((manifest.get("spec") or {}).get("rayClusterConfig") or {}))
    found.pop("suspend", None)
    found.pop("upgradeStrategy", None)
    groups = [found.get("headGroupSpec") or {}, *(found.get("workerGroupSpecs") or ())]
    for group in groups:
        for field in _MUTED_GROUP:
            group.pop(field, None)
        (group.get("scaleStrategy") or {}).pop("workersToDelete", None)
        pod = (group.get("template") or {}).get("spec") or {}
        for field in _MUTED_POD:
            pod.pop(field, None)
    return found


def _muted_of_pod(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    was, is_ = (((item.get("template") or {}).get("spec") or {}) for item in (old, new))
    return [field for field in _MUTED_POD if was.get(field) != is_.get(field)]


def _strategy(manifest: Manifest) -> str:
    strategy = (manifest.get("spec") or {}).get("upgradeStrategy") or {}
    return str(strategy.get("type") or "NewCluster")


def _serve_config(spec: Manifest) -> dict[str, Any] | None:
    try:
        found = yaml.safe_load(str(spec.get("serveConfigV2") or "{}"))
    except yaml.YAMLError:
        return None
    return found if isinstance(found, dict) else None


def _by_name(items: Any) -> dict[str, Manifest]:
    return {
        str(item.get("name", "default")): item for item in items or () if isinstance(item, dict)
    }


def _gpus_of_pod(pod: Manifest) -> float:
    total = 0.0
    for container in pod.get("containers") or ():
        resources = container.get("resources") or {}
        count = {**(resources.get("requests") or {}), **(resources.get("limits") or {})}.get(_GPU)
        total += float(count or 0)
    return total


def _differences(old: Any, new: Any, path: str = "") -> list[str]:
    """Where two values differ, at most a few places, by their paths."""
    if isinstance(old, dict) and isinstance(new, dict):
        found = [
            place
            for name in sorted({*old, *new})
            for place in _differences(
                old.get(name), new.get(name), f"{path}.{name}" if path else str(name)
            )
        ]
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        found = [
            place
            for index, (one, other) in enumerate(zip(old, new, strict=True))
            for place in _differences(one, other, f"{path}[{index}]")
        ]
    else:
        found = [] if old == new else [path]
    return [*found[:4], f"and {len(found) - 4} more"] if len(found) > 5 else found
