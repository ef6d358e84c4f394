"""Rendered manifests: reads them, and finds what in them consumes a ConfigMap or Secret."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import yaml

from serve_app.config.settings import API_KEYS_FILE, MODELS_FILE, ROUTING_FILE
from serve_app.errors import ConfigError, Fault

Manifest = Mapping[str, Any]

FOLLOWED = (MODELS_FILE, ROUTING_FILE, API_KEYS_FILE)
"""Variables that name files which the running service follows."""


class Key(NamedTuple):
    """What an object is known by."""

    group: str
    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        where = f"{self.namespace}/" if self.namespace else ""
        return f"{self.kind} {where}{self.name}"


@dataclass(frozen=True, slots=True)
class PodSpec:
    """A pod template, and where it stands.

    Attributes:
        where: In words: the head, a worker group, or the template of a Deployment.
        spec: The pod's spec.
    """

    where: str
    spec: Manifest


Way = Literal["environment", "file", "sub_path"]
"""How a container gets at a ConfigMap: variables, a mounted folder, or a file by a subPath."""


@dataclass(frozen=True, slots=True)
class Use:
    """A container that consumes a ConfigMap or Secret.

    Attributes:
        owner: Of the pod template.
        where: Which pods, in words.
        way: How.
        followed: Whether the service follows the file while it runs: one of its variables names it.
    """

    owner: Key
    where: str
    way: Way
    followed: bool = False


def read_manifests(path: Path) -> dict[Key, Manifest]:
    """Reads the objects of a file, or of all YAML files of a folder.

    Raises:
        ConfigError: It cannot be read, is no YAML, holds something else, or one object twice.
    """
    files = sorted(path.glob("*.y*ml")) if path.is_dir() else [path]
    if not files:
        raise ConfigError((Fault(str(path), "has no .yaml files"),))
    found: dict[Key, Manifest] = {}
    faults: list[Fault] = []
    for file in files:
        for index, item in _documents(file):
            key = _key(item)
            if key is None:
                message = f"document {index} is no Kubernetes object: it lacks kind or name"
                faults.append(Fault(str(file), message))
            elif key in found:
                faults.append(Fault(str(file), f"{key} is there twice"))
            else:
                found[key] = item
    if faults:
        raise ConfigError(tuple(faults))
    return found


def pod_specs(key: Key, manifest: Manifest) -> list[PodSpec]:
    """The pod templates of a RayService, or of what Kubernetes runs by itself."""
    spec = _mapping(manifest.get("spec"))
    if key.kind == "RayService":
        cluster = _mapping(spec.get("rayClusterConfig"))
        head = _mapping(cluster.get("headGroupSpec"))
        found = [PodSpec("the head", _template(head))]
        found += [
            PodSpec(f"worker group {group.get('groupName', '?')}", _template(group))
            for group in worker_groups(manifest)
        ]
        return found
    if key.kind in ("Deployment", "StatefulSet", "DaemonSet"):
        return [PodSpec("its pods", _template(spec))]
    return []


def worker_groups(manifest: Manifest) -> list[Manifest]:
    """The worker groups of a RayService."""
    cluster = _mapping(_mapping(manifest.get("spec")).get("rayClusterConfig"))
    return [_mapping(group) for group in cluster.get("workerGroupSpecs") or ()]


def uses(objects: Mapping[Key, Manifest], source: Key) -> list[Use]:
    """Who consumes a ConfigMap or Secret, and how."""
    found: list[Use] = []
    for owner, manifest in objects.items():
        if owner.namespace != source.namespace:
            continue
        for pod in pod_specs(owner, manifest):
            found.extend(_uses_of(pod, owner, source, objects))
    return list(dict.fromkeys(found))


def _documents(file: Path) -> Iterator[tuple[int, Manifest]]:
    try:
        documents = list(yaml.safe_load_all(file.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError((Fault(str(file), f"cannot be read: {error}"),)) from error
    except yaml.YAMLError as error:
        message = f"is not YAML: {' '.join(str(error).split())}"
        raise ConfigError((Fault(str(file), message),)) from error
    for index, item in enumerate(documents):
        items = item.get("items") if isinstance(item, dict) and item.get("kind") == "List" else None
        for one in items if isinstance(items, list) else [item]:
            if one is not None:
                yield index, one if isinstance(one, dict) else {}


def _key(item: Manifest) -> Key | None:
    metadata = _mapping(item.get("metadata"))
    kind, name = item.get("kind"), metadata.get("name")
    if not kind or not name:
        return None
    group = str(item.get("apiVersion", "")).rpartition("/")[0]
    return Key(group, str(kind), str(metadata.get("namespace") or ""), str(name))


def _uses_of(
    pod: PodSpec, owner: Key, source: Key, objects: Mapping[Key, Manifest]
) -> Iterator[Use]:
    volumes = {
        str(volume.get("name"))
        for volume in pod.spec.get("volumes") or ()
        if _of_volume(_mapping(volume), source)
    }
    containers = [*(pod.spec.get("containers") or ()), *(pod.spec.get("initContainers") or ())]
    for container in map(_mapping, containers):
        if _in_environment(container, source):
            yield Use(owner, pod.where, "environment")
        for mount in map(_mapping, container.get("volumeMounts") or ()):
            if str(mount.get("name")) not in volumes:
                continue
            if mount.get("subPath"):
                yield Use(owner, pod.where, "sub_path")
            else:
                folder = str(mount.get("mountPath", "")).rstrip("/") + "/"
                variables = _variables(container, owner.namespace, objects)
                followed = any(variables.get(name, "").startswith(folder) for name in FOLLOWED)
                yield Use(owner, pod.where, "file", followed)


def _of_volume(volume: Manifest, source: Key) -> bool:
    sources = [volume, *_mapping(volume.get("projected")).get("sources", ())]
    field, name = ("configMap", "name") if source.kind == "ConfigMap" else ("secret", "secretName")
    return any(
        source.name in (_mapping(one.get(field)).get(name), _mapping(one.get(field)).get("name"))
        for one in sources
    )


def _in_environment(container: Manifest, source: Key) -> bool:
    whole, one = (
        ("configMapRef", "configMapKeyRef")
        if source.kind == "ConfigMap"
        else ("secretRef", "secretKeyRef")
    )
    names = [
        _mapping(_mapping(item).get(whole)).get("name") for item in container.get("envFrom") or ()
    ]
    names += [
        _mapping(_mapping(_mapping(item).get("valueFrom")).get(one)).get("name")
        for item in container.get("env") or ()
    ]
    return source.name in names


def _variables(
    container: Manifest, namespace: str, objects: Mapping[Key, Manifest]
) -> dict[str, str]:
    """The environment of a container, as far as these objects tell it."""
    found: dict[str, str] = {}
    for item in map(_mapping, container.get("envFrom") or ()):
        name = str(_mapping(item.get("configMapRef")).get("name", ""))
        source = objects.get(Key("", "ConfigMap", namespace, name), {})
        found.update({str(key): str(value) for key, value in _mapping(source.get("data")).items()})
    for item in map(_mapping, container.get("env") or ()):
        found[str(item.get("name"))] = str(item.get("value", ""))
    return found


def _template(group: Manifest) -> Manifest:
    return _mapping(_mapping(group.get("template")).get("spec"))


def _mapping(value: Any) -> Manifest:
    return value if isinstance(value, dict) else {}
