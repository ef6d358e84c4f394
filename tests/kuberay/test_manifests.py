"""Every overlay is what it is rendered from, and what an API server, KubeRay and Serve take."""

from __future__ import annotations

import copy
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from serve_app.kubernetes.room import without_room
from tests.kuberay.checks import documents, faults

ROOT = Path(__file__).parents[2] / "kuberay"
RENDERED = sorted((ROOT / "rendered").glob("*.yaml"))
OVERLAYS = ["base", *sorted(path.name for path in (ROOT / "overlays").iterdir())]


AUTOSCALED = ("autoscaling", "incremental-upgrade")


def rayservice(name: str) -> dict[str, Any]:
    (found,) = [
        item
        for item in documents(ROOT / "rendered" / f"{name}.yaml")
        if item["kind"] == "RayService"
    ]
    return found


def pods(name: str) -> list[dict[str, Any]]:
    cluster = rayservice(name)["spec"]["rayClusterConfig"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    return [group["template"]["spec"] for group in groups]


def kustomize() -> bool:
    if shutil.which("kubectl") is None:
        return False
    told = subprocess.run(
        ["kubectl", "version", "--client", "--output=yaml"],
        capture_output=True,
        text=True,
        check=False,
    )
    version = (yaml.safe_load(told.stdout) or {}).get("clientVersion", {})
    return int(str(version.get("minor", "0")).rstrip("+")) >= 27


def test_every_overlay_is_rendered() -> None:
    assert sorted(OVERLAYS) == sorted(path.stem for path in RENDERED)


@pytest.mark.skipif(not kustomize(), reason="needs kubectl 1.27 or newer")
@pytest.mark.parametrize("name", OVERLAYS)
def test_the_rendering_is_that_of_the_overlay(name: str) -> None:
    """Mend it by `make manifests`."""
    folder = ROOT / name if name == "base" else ROOT / "overlays" / name
    made = subprocess.run(
        ["kubectl", "kustomize", str(folder)], capture_output=True, text=True, check=True
    )
    assert made.stdout == (ROOT / "rendered" / f"{name}.yaml").read_text()


@pytest.mark.parametrize("path", RENDERED, ids=lambda path: path.stem)
def test_every_rendering_is_valid(path: Path) -> None:
    found = {f"{item['kind']} {item['metadata']['name']}": faults(item) for item in documents(path)}
    assert not any(found.values()), found


@pytest.mark.parametrize("path", RENDERED, ids=lambda path: path.stem)
def test_names_lead_somewhere(path: Path) -> None:
    """A ConfigMap, account or claim that a pod names is there; Secrets are for people to make."""
    objects = documents(path)
    there = {(item["kind"], item["metadata"]["name"]) for item in objects}
    for pod in pods(path.stem):
        account = pod.get("serviceAccountName")
        assert account is None or ("ServiceAccount", account) in there
        for volume in pod["volumes"]:
            if "configMap" in volume:
                assert ("ConfigMap", volume["configMap"]["name"]) in there
            if "persistentVolumeClaim" in volume:
                claim = volume["persistentVolumeClaim"]["claimName"]
                assert ("PersistentVolumeClaim", claim) in there
        for container in [*pod["containers"], *pod.get("initContainers", ())]:
            for source in container.get("envFrom", ()):
                assert ("ConfigMap", source["configMapRef"]["name"]) in there
            mounts = {mount["name"] for mount in container["volumeMounts"]}
            assert mounts <= {volume["name"] for volume in pod["volumes"]}


@pytest.mark.parametrize("name", OVERLAYS)
def test_pods_may_as_little_as_they_need(name: str) -> None:
    for pod in pods(name):
        assert pod["enableServiceLinks"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        # The autoscaler, beside the head, speaks to Kubernetes; nothing else does.
        alone = name in AUTOSCALED and "serviceAccountName" not in pod
        assert pod["automountServiceAccountToken"] is alone
        for container in [*pod["containers"], *pod.get("initContainers", ())]:
            context = container["securityContext"]
            assert context["allowPrivilegeEscalation"] is False
            assert context["readOnlyRootFilesystem"] is True
            assert context["capabilities"]["drop"] == ["ALL"]
            # One init container gives a folder of the node to the service.
            assert ("add" in context["capabilities"]) is (container["name"] == "own-cache")
            assert container["resources"]["requests"].keys() >= {"cpu", "memory"}
            assert "memory" in container["resources"]["limits"]


@pytest.mark.parametrize("name", OVERLAYS)
def test_environment_and_files_are_equal_on_all_nodes(name: str) -> None:
    """`build_app` runs on any of them, and the control plane on the head."""
    head, *workers = pods(name)
    for worker in workers:
        for field in ("env", "envFrom", "volumeMounts"):
            assert head["containers"][0].get(field) == worker["containers"][0].get(field)


@pytest.mark.parametrize("name", OVERLAYS)
def test_workers_are_ready_when_an_inference_passes(name: str) -> None:
    _, worker = pods(name)
    command = " ".join(worker["containers"][0]["readinessProbe"]["exec"]["command"])
    assert "/readyz" in command
    assert "local_raylet_healthz" in command
    assert "/-/healthz" in command
    assert "livenessProbe" not in worker["containers"][0], "no restart because of a broken model"


@pytest.mark.parametrize("name", OVERLAYS)
def test_what_serve_may_have_finds_room(name: str) -> None:
    """Else replicas wait for ever for a place."""
    assert without_room(rayservice(name)) is None


@pytest.mark.parametrize("name", OVERLAYS)
def test_workers_come_and_go_where_there_is_an_autoscaler(name: str) -> None:
    cluster = rayservice(name)["spec"]["rayClusterConfig"]
    assert cluster.get("enableInTreeAutoscaling", False) is (name in AUTOSCALED)


def test_only_the_demo_is_open_to_everybody() -> None:
    for name in OVERLAYS:
        (config,) = [
            item
            for item in documents(ROOT / "rendered" / f"{name}.yaml")
            if item["kind"] == "ConfigMap" and "RAY_SERVE_ENABLE_HA_PROXY" in item["data"]
        ]
        assert ("SIMILARITY_OPEN" in config["data"]) is (name == "cpu-demo")
        variables = {item["name"] for item in pods(name)[0]["containers"][0]["env"]}
        assert ("SIMILARITY_API_KEYS_FILE" in variables) is (name != "cpu-demo")


def _set(value: Any, *path: Any) -> Callable[[dict[str, Any]], None]:
    def change(manifest: dict[str, Any]) -> None:
        here: Any = manifest
        for part in path[:-1]:
            here = here[part]
        here[path[-1]] = value

    return change


def _rename(new: str, *path: Any) -> Callable[[dict[str, Any]], None]:
    def change(manifest: dict[str, Any]) -> None:
        here: Any = manifest
        for part in path[:-1]:
            here = here[part]
        here[new] = here.pop(path[-1])

    return change


def _serve(old: str, new: str) -> Callable[[dict[str, Any]], None]:
    def change(manifest: dict[str, Any]) -> None:
        text = manifest["spec"]["serveConfigV2"]
        assert old in text
        manifest["spec"]["serveConfigV2"] = text.replace(old, new)

    return change


_CLUSTER = ("spec", "rayClusterConfig")
_HEAD = (*_CLUSTER, "headGroupSpec", "template", "spec")
_WORKERS = (*_CLUSTER, "workerGroupSpecs", 0)
TYPOS: dict[str, Callable[[dict[str, Any]], None]] = {
    "a field of the spec": _rename("serveConfig", "spec", "serveConfigV2"),
    "a field of the cluster": _rename("headGroup", *_CLUSTER, "headGroupSpec"),
    "a field of a worker group": _rename("minReplica", *_WORKERS, "minReplicas"),
    "a field of a pod": _rename("enableServiceLink", *_HEAD, "enableServiceLinks"),
    "a field of a container": _rename("resource", *_HEAD, "containers", 0, "resources"),
    "a field of a reference": _rename(
        "configMapReference", *_HEAD, "containers", 0, "envFrom", 0, "configMapRef"
    ),
    "a number that is a text": _set("two", *_WORKERS, "replicas"),
    "more replicas at least than at most": _set(9, *_WORKERS, "minReplicas"),
    "an upgrade strategy": _set("NewClusters", "spec", "upgradeStrategy", "type"),
    "a name": _set("Serve_App", "metadata", "name"),
    "a key of Serve's": _serve("route_prefix", "routePrefix"),
    "an argument of the application": _serve("pools:", "pool:"),
    "a value of Serve's": _serve("proxy_location: EveryNode", "proxy_location: Everywhere"),
    "an argument's value": _serve("gpus: 0", "gpus: 1.5"),
    "a quantity": _set("3 GB", *_HEAD, "containers", 0, "resources", "limits", "memory"),
    "a port": _set("8000x", *_HEAD, "containers", 0, "ports", 3, "containerPort"),
}


@pytest.mark.parametrize("name", TYPOS)
def test_a_planted_typo_is_caught(name: str) -> None:
    manifest = copy.deepcopy(rayservice("base"))
    assert faults(manifest) == []
    TYPOS[name](manifest)
    assert faults(manifest), name


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("NetworkPolicy", _rename("policyType", "spec", "policyTypes")),
        ("PodDisruptionBudget", _set("one", "spec", "selector")),
        ("ServiceAccount", _rename("automountToken", "automountServiceAccountToken")),
        ("ConfigMap", _set({"A": 1}, "data")),
    ],
)
def test_a_planted_typo_in_a_core_kind_is_caught(
    kind: str, change: Callable[[dict[str, Any]], None]
) -> None:
    path = ROOT / "rendered" / "base.yaml"
    (manifest,) = [item for item in documents(path) if item["kind"] == kind]
    assert faults(manifest) == []
    change(manifest)
    assert faults(manifest)


def test_rules_that_the_schema_does_not_hold_are_checked() -> None:
    service = rayservice("incremental-upgrade")
    assert faults(service) == []
    del service["spec"]["rayClusterConfig"]["enableInTreeAutoscaling"]
    assert any("enableInTreeAutoscaling" in fault for fault in faults(service))
    service = rayservice("high-availability")
    container = service["spec"]["rayClusterConfig"]["headGroupSpec"]["template"]["spec"][
        "containers"
    ][0]
    container["env"].append({"name": "RAY_REDIS_ADDRESS", "value": "redis:6379"})
    assert any("Redis" in fault for fault in faults(service))
