"""From two sets of manifests to what will happen, object by object."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from serve_app.kubernetes.effects import Change, Effect
from serve_app.kubernetes.manifests import Key, Manifest, Use, uses
from serve_app.kubernetes.rayservice import gpus_of, rayservice_changes, room_changes

_SOURCES = ("ConfigMap", "Secret")
_HASH = re.compile(r"-[bcdfghkmt2456789]{10}$")
"""What kustomize puts behind a generated name: the letters of its hashes."""

_IMMUTABLE = {"StatefulSet": ("volumeClaimTemplates", "serviceName", "selector")}
_RESTARTING = ("Deployment", "StatefulSet", "DaemonSet")
_RELOADER = "reloader.stakater.com/"
_BRIDGE = "serve_app.kubernetes.bridge"


@dataclass(frozen=True, slots=True)
class Plan:
    """What will happen.

    Attributes:
        changes: Object by object; empty where the manifests are the same.
    """

    changes: tuple[Change, ...]

    @property
    def effect(self) -> Effect:
        """The most that happens."""
        return max((change.effect for change in self.changes), default=Effect.NOTHING)

    @property
    def warnings(self) -> tuple[Change, ...]:
        """What is not as somebody may expect."""
        return tuple(change for change in self.changes if change.warning)


def plan_changes(old: Mapping[Key, Manifest], new: Mapping[Key, Manifest]) -> Plan:
    """What happens when `new` is applied where `old` was."""
    renamed = _renamed(old, new)
    renewing = frozenset(
        key
        for key in new
        if key.kind == "RayService"
        and key in old
        and any(
            change.effect is Effect.NEW_CLUSTER
            for change in rayservice_changes(key, old[key], new[key])
        )
    )
    changes: list[Change] = []
    for key in sorted({*old, *new}):
        if key not in old:
            changes += _created(key, renamed.get(key), new)
        elif key not in new:
            if key not in renamed.values():
                changes.append(_gone(key))
        elif old[key] != new[key]:
            changes += _changed(key, old, new, renewing)
    return Plan(tuple(changes))


def _changed(
    key: Key,
    old: Mapping[Key, Manifest],
    new: Mapping[Key, Manifest],
    renewing: frozenset[Key],
) -> list[Change]:
    before, after = old[key], new[key]
    if key.kind == "RayService":
        return rayservice_changes(key, before, after)
    if key.kind in _SOURCES:
        return _source_changes(key, before, after, new, renewing)
    if key.kind in _RESTARTING:
        return [_workload_change(key, before, after)]
    if key.kind == "PersistentVolumeClaim":
        warning = "of a claim only the requested storage can change, where its class allows that"
        return [Change(key, Effect.IN_PLACE, "is updated", warning=warning)]
    return [Change(key, Effect.IN_PLACE, "is updated")]


def _source_changes(
    key: Key,
    before: Manifest,
    after: Manifest,
    new: Mapping[Key, Manifest],
    renewing: frozenset[Key],
) -> list[Change]:
    """What a ConfigMap or Secret does that has other content under the same name."""
    fields = ("data", "binaryData", "stringData")
    if all(before.get(field) == after.get(field) for field in fields):
        return [Change(key, Effect.NOTHING, "its content stays")]
    if before.get("immutable"):
        warning = "it is immutable: applying this is refused"
        return [Change(key, Effect.NOTHING, "its content changes", warning=warning)]
    found = _joined(uses(new, key))
    if not found:
        return [Change(key, Effect.NOTHING, "its content changes; nothing here reads it")]
    restarted = [use for use in found if _reloads(key, new[use.owner])]
    renewed = renewing | {
        Key("ray.io", "RayService", key.namespace, target)
        for use in restarted
        if (target := _bridged(new[use.owner])) is not None
    }
    return [
        _reloader_change(key, use, new)
        if use in restarted
        else _use_change(key, use, renewed=use.owner in renewed)
        for use in found
    ]


def _joined(found: list[Use]) -> list[Use]:
    """The pods of one owner that use it in one way are one use."""
    joined: dict[Use, list[str]] = {}
    for use in found:
        joined.setdefault(replace(use, where=""), []).append(use.where)
    return [replace(use, where=" and ".join(where)) for use, where in joined.items()]


def _use_change(key: Key, use: Use, *, renewed: bool) -> Change:
    where = f"{use.owner.kind} {use.owner.name}, {use.where}"
    if renewed and not use.followed:
        detail = f"{where}: the new cluster reads the new content"
        return Change(key, Effect.NEW_CLUSTER, detail)
    if use.way == "file" and use.followed:
        detail = f"{where}: the running service follows the file, within about a minute"
        return Change(key, Effect.LIVE_RELOAD, detail)
    if use.way == "file":
        warning = "the file changes in running pods, and nothing there is known to look at it"
        return Change(key, Effect.NOTHING, f"{where}: reads it as a file", warning=warning)
    how = "as environment" if use.way == "environment" else "by a subPath"
    warning = (
        f"running pods keep the old content, which they read {how}; pods that start later read "
        "the new: two configurations in one cluster. Give it a name with a hash "
        "(configMapGenerator), or mount it as a folder that is followed"
    )
    return Change(key, Effect.NOTHING, f"{where}: reads it {how}", warning=warning)


def _reloader_change(key: Key, use: Use, new: Mapping[Key, Manifest]) -> Change:
    owner = new[use.owner]
    target = _bridged(owner)
    if target is None:
        detail = f"{use.owner}: Reloader restarts it"
        return Change(key, Effect.ROLLING_RESTART, detail)
    services = [
        item
        for other, item in new.items()
        if other.kind == "RayService" and (other.namespace, other.name) == (key.namespace, target)
    ]
    detail = (
        f"{use.owner}: Reloader restarts it, and it writes the new hash into RayService {target}: "
        "a new cluster is made"
    )
    return Change(key, Effect.NEW_CLUSTER, detail, gpus=sum(2 * gpus_of(one) for one in services))


def _reloads(key: Key, owner: Manifest) -> bool:
    if owner.get("kind") not in _RESTARTING:
        return False
    annotations = (owner.get("metadata") or {}).get("annotations") or {}
    kind = key.kind.lower()
    named = str(annotations.get(f"{kind}.{_RELOADER}reload", "")).replace(" ", "").split(",")
    return (
        key.name in named
        or annotations.get(f"{_RELOADER}auto") == "true"
        or annotations.get(f"{kind}.{_RELOADER}auto") == "true"
    )


def _bridged(owner: Manifest) -> str | None:
    """The RayService that a Deployment is the bridge of."""
    pod = ((owner.get("spec") or {}).get("template") or {}).get("spec") or {}
    for container in pod.get("containers") or ():
        words = [
            str(word)
            for word in (*(container.get("command") or ()), *(container.get("args") or ()))
        ]
        if _BRIDGE in words and "--rayservice" in words[:-1]:
            return words[words.index("--rayservice") + 1]
    return None


def _workload_change(key: Key, before: Manifest, after: Manifest) -> Change:
    old, new = before.get("spec") or {}, after.get("spec") or {}
    refused = [
        name for name in _IMMUTABLE.get(key.kind, ("selector",)) if old.get(name) != new.get(name)
    ]
    if refused:
        warning = f"{', '.join(refused)} cannot change: applying this is refused; delete it first"
        return Change(key, Effect.NOTHING, "its spec changes", warning=warning)
    if old.get("template") != new.get("template"):
        return Change(key, Effect.ROLLING_RESTART, "its pods are replaced one after the other")
    return Change(key, Effect.IN_PLACE, "is updated; its pods stay")


def _created(key: Key, old_name: Key | None, new: Mapping[Key, Manifest]) -> list[Change]:
    if key.kind == "RayService":
        detail = "is created, with its first cluster"
        created = Change(key, Effect.NEW_CLUSTER, detail, gpus=gpus_of(new[key]))
        return [created, *room_changes(key, new[key])]
    if old_name is not None:
        # What follows from it is the change of those who name it.
        return [Change(key, Effect.IN_PLACE, f"is created, with new content of {old_name.name}")]
    effect = Effect.ROLLING_RESTART if key.kind in _RESTARTING else Effect.IN_PLACE
    return [Change(key, effect, "is created")]


def _gone(key: Key) -> Change:
    warning = "`kubectl apply` deletes nothing by itself: it stays, unless you prune or delete it"
    return Change(key, Effect.NOTHING, "is no longer there", warning=warning)


def _renamed(old: Mapping[Key, Manifest], new: Mapping[Key, Manifest]) -> dict[Key, Key]:
    """New names of generated ConfigMaps and Secrets, to their old ones."""
    gone = {_stem(key): key for key in old if key not in new and key.kind in _SOURCES}
    return {
        key: gone[_stem(key)]
        for key in new
        if key not in old and key.kind in _SOURCES and _stem(key) in gone
    }


def _stem(key: Key) -> Key:
    return key._replace(name=_HASH.sub("", key.name))
