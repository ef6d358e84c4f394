"""What `serve-app plan` says of a change is what KubeRay, the kubelet and Reloader make of it."""

from __future__ import annotations

import copy
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from serve_app.cli import app
from serve_app.kubernetes.effects import Effect
from serve_app.kubernetes.manifests import Key, Manifest, read_manifests
from serve_app.kubernetes.plan import Plan, plan_changes
from serve_app.kubernetes.room import without_room
from tests.kuberay.test_manifests import ROOT, kustomize

SERVICE = Key("ray.io", "RayService", "", "serve-app")
Objects = dict[Key, Any]


def rendered(name: str) -> Objects:
    return dict(read_manifests(ROOT / "rendered" / f"{name}.yaml"))


def planned(name: str, change: Callable[[Objects], None]) -> Plan:
    """The plan of a change of a rendering."""
    old: dict[Key, Manifest] = rendered(name)
    new = copy.deepcopy(old)
    change(new)
    return plan_changes(old, new)


def cluster(objects: Objects) -> Any:
    return objects[SERVICE]["spec"]["rayClusterConfig"]


def container(objects: Objects) -> Any:
    return cluster(objects)["workerGroupSpecs"][0]["template"]["spec"]["containers"][0]


def serve(old: str, new: str) -> Callable[[Objects], None]:
    def change(objects: Objects) -> None:
        text = objects[SERVICE]["spec"]["serveConfigV2"]
        assert old in text
        objects[SERVICE]["spec"]["serveConfigV2"] = text.replace(old, new, 1)

    return change


def at(path: str, value: Any) -> Callable[[Objects], None]:
    def change(objects: Objects) -> None:
        here = objects[SERVICE]["spec"]
        *before, last = path.split("/")
        for part in before:
            here = here[int(part)] if part.isdecimal() else here.setdefault(part, {})
        here[int(last) if last.isdecimal() else last] = value

    return change


def more_workers(objects: Objects) -> None:
    groups = cluster(objects)["workerGroupSpecs"]
    groups.append({**copy.deepcopy(groups[0]), "groupName": "more"})


def annotated(objects: Objects) -> None:
    objects[SERVICE]["metadata"]["annotations"] = {"reloader.stakater.com/auto": "true"}


def redeployed(objects: Objects) -> None:
    bridge = objects[Key("apps", "Deployment", "", "serve-app-bridge")]
    bridge["spec"]["template"]["spec"]["containers"][0]["image"] = "serve-app:0.2.0"


def no_strategy(objects: Objects) -> None:
    objects[SERVICE]["spec"]["upgradeStrategy"] = {"type": "None"}
    container(objects)["image"] = "serve-app:0.2.0"


_GROUP = "rayClusterConfig/workerGroupSpecs/0"
CASES: dict[str, tuple[str, Callable[[Objects], None], Effect, str]] = {
    "nothing": ("base", lambda objects: None, Effect.NOTHING, ""),
    "an image": (
        "base",
        at(f"{_GROUP}/template/spec/containers/0/image", "serve-app:0.2.0"),
        Effect.NEW_CLUSTER,
        "",
    ),
    "an annotation of the pods": (
        "base",
        at("rayClusterConfig/headGroupSpec/template/metadata/annotations", {"a": "b"}),
        Effect.NEW_CLUSTER,
        "",
    ),
    "replicas": ("base", at(f"{_GROUP}/replicas", 3), Effect.NOTHING, "running cluster"),
    "the most replicas": ("base", at(f"{_GROUP}/maxReplicas", 9), Effect.NOTHING, "next cluster"),
    "tolerations": (
        "base",
        at(f"{_GROUP}/template/spec/tolerations", [{"operator": "Exists"}]),
        Effect.NOTHING,
        "running cluster",
    ),
    "another worker group": ("base", more_workers, Effect.IN_PLACE, ""),
    "an image without a strategy": ("base", no_strategy, Effect.IN_PLACE, "no new cluster"),
    "arguments": ("base", serve("cpus: 1", "cpus: 0.9"), Effect.ROLLING_RESTART, ""),
    "more replicas than there is room for": (
        "base",
        serve("replicas: 2", "replicas: 6"),
        Effect.ROLLING_RESTART,
        "no room",
    ),
    "bounds beyond the workers": (
        "base",
        serve("max_replicas: 4", "max_replicas: 5"),
        Effect.ROLLING_RESTART,
        "no room",
    ),
    "smaller workers": (
        "base",
        at(f"{_GROUP}/template/spec/containers/0/resources/requests/cpu", "1500m"),
        Effect.NEW_CLUSTER,
        "no room",
    ),
    "more replicas on GPUs than there are": (
        "gpu",
        serve("replicas: 2", "replicas: 3"),
        Effect.ROLLING_RESTART,
        "no room",
    ),
    "a deployment's replicas": (
        "high-availability",
        serve("- name: ingress", "- name: ingress\n        num_replicas: 3"),
        Effect.IN_PLACE,
        "",
    ),
    "user_config": (
        "high-availability",
        serve("- name: ingress", "- name: ingress\n        user_config: {a: 1}"),
        Effect.IN_PLACE,
        "",
    ),
    "a deployment's resources": (
        "high-availability",
        serve("max_replicas_per_node: 1", "max_replicas_per_node: 2"),
        Effect.ROLLING_RESTART,
        "",
    ),
    "Serve's port": ("base", serve("port: 8000", "port: 9000"), Effect.NOTHING, "when it starts"),
    "a comment": ("base", serve("applications:", "applications:  # ours"), Effect.NOTHING, ""),
    "Reloader on the RayService": ("base", annotated, Effect.NOTHING, "does nothing"),
    "a Deployment": ("reloader", redeployed, Effect.ROLLING_RESTART, ""),
}


@pytest.mark.parametrize("case", CASES)
def test_what_a_change_does(case: str) -> None:
    name, change, effect, warning = CASES[case]
    made = planned(name, change)
    assert made.effect is effect, made
    if warning:
        assert any(warning in found.warning for found in made.warnings), made
    else:
        assert not made.warnings, made


def edited(name: str, file: str, tmp_path: Path) -> Plan:
    """The plan of an edited file of an overlay, rendered anew."""
    folder = tmp_path / "kuberay"
    shutil.copytree(ROOT, folder)
    path = folder / "overlays" / name / file
    path.write_text(path.read_text().replace("laion2b_s34b_b79k", "openai"))
    made = subprocess.run(
        ["kubectl", "kustomize", str(folder / "overlays" / name)],
        capture_output=True,
        text=True,
        check=True,
    )
    changed = tmp_path / "new.yaml"
    changed.write_text(made.stdout)
    return plan_changes(rendered(name), read_manifests(changed))


@pytest.mark.skipif(not kustomize(), reason="needs kubectl 1.27 or newer")
@pytest.mark.parametrize(
    ("name", "effect", "told"),
    [
        ("gpu", Effect.NEW_CLUSTER, "configMapRef.name"),
        ("config-file", Effect.LIVE_RELOAD, "follows the file"),
        ("reloader", Effect.NEW_CLUSTER, "Reloader restarts it"),
    ],
)
def test_each_way_of_configuring_changes_as_it_is_planned(
    name: str, effect: Effect, told: str, tmp_path: Path
) -> None:
    made = edited(name, "models.yaml", tmp_path)
    assert made.effect is effect
    assert not made.warnings
    assert any(told in change.detail for change in made.changes), made
    services = [change for change in made.changes if change.key == SERVICE]
    # (a) is a change of the RayService, (b) and (c) are none.
    assert bool(services) is (name == "gpu")


def same_name(name: str) -> Plan:
    """Other content of the environment under the name that it has."""

    def change(objects: Objects) -> None:
        for key, item in objects.items():
            if key.kind == "ConfigMap":
                item["data"] = {**item["data"], "SIMILARITY_ROUTING": "{default: demo}"}

    return planned(name, change)


def test_other_content_of_the_environment_under_the_same_name_is_warned_of() -> None:
    made = same_name("base")
    assert made.effect is Effect.NOTHING
    assert "two configurations in one cluster" in made.warnings[0].warning


def test_a_file_by_a_subpath_is_not_followed() -> None:
    def by_subpath(objects: Objects) -> None:
        cluster_ = cluster(objects)
        groups = [cluster_["headGroupSpec"], *cluster_["workerGroupSpecs"]]
        for group in groups:
            for mount in group["template"]["spec"]["containers"][0]["volumeMounts"]:
                if mount["name"] == "models":
                    mount.update(
                        subPath="models.yaml", mountPath="/etc/serve_app/models/models.yaml"
                    )

    old = rendered("config-file")
    by_subpath(old)
    new = copy.deepcopy(old)
    new[Key("", "ConfigMap", "", "serve-app-models")]["data"]["models.yaml"] = "{}"
    made = plan_changes(old, new)
    assert made.effect is Effect.NOTHING
    assert "subPath" in made.warnings[0].warning


def test_gpus_are_counted() -> None:
    def image(objects: Objects) -> None:
        container(objects)["image"] = "serve-app:0.2.0"

    (change,) = planned("gpu", image).changes
    assert change.gpus == 4, "two clusters of two workers with one each"
    (change,) = planned("incremental-upgrade", image).changes
    assert change.gpus == 3, "the old one, and half of the new one"


def run(*words: str) -> Any:
    return CliRunner().invoke(app, ["plan", *words])


def test_the_command_tells_it_with_exit_codes_for_ci(tmp_path: Path) -> None:
    base = str(ROOT / "rendered" / "base.yaml")
    same = run(base, base)
    assert same.exit_code == 0
    assert "the manifests are the same" in same.stdout
    changed = tmp_path / "new.yaml"
    documents = list(yaml.safe_load_all(Path(base).read_text()))
    for item in documents:
        if item["kind"] == "RayService":
            item["spec"]["rayClusterConfig"]["workerGroupSpecs"][0]["replicas"] = 3
    changed.write_text(yaml.safe_dump_all(documents))
    warned = run(base, str(changed))
    assert warned.exit_code == 4
    assert "Warning" in warned.stdout
    ha = str(ROOT / "rendered" / "high-availability.yaml")
    assert run(base, ha).exit_code == 0
    beyond = run(base, ha, "--allow", "rolling-restart", "--json")
    assert beyond.exit_code == 5
    assert json.loads(beyond.stdout)["effect"] == "new-cluster"


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("a: [", "is not YAML"),
        ("a: 1", "no Kubernetes object"),
        ("kind: A\nmetadata: {name: b}\n---\nkind: A\nmetadata: {name: b}", "is there twice"),
        (None, "cannot be read"),
    ],
)
def test_what_is_no_manifest_is_told(content: str | None, told: str, tmp_path: Path) -> None:
    path = tmp_path / "new.yaml"
    if content is not None:
        path.write_text(content)
    result = run(str(ROOT / "rendered" / "base.yaml"), str(path))
    assert result.exit_code == 2
    assert told in result.stderr


def test_what_goes_along_with_a_new_cluster_is_told_once_and_without_warnings() -> None:
    def both(objects: Objects) -> None:
        container(objects)["image"] = "serve-app:0.2.0"
        serve("port: 8000", "port: 9000")(objects)
        serve("cpus: 1", "cpus: 0.9")(objects)

    made = planned("base", both)
    assert [change.detail.partition(":")[0] for change in made.changes] == [
        "rayClusterConfig",
        "serveConfigV2",
    ]
    assert not made.warnings


@pytest.mark.parametrize(
    ("replicas", "told"),
    [(4, None), (5, "1 of 5 replicas of the pool gpu")],
)
def test_fractions_of_gpus_find_room_on_each(replicas: int, told: str | None) -> None:
    objects = rendered("gpu-fraction")
    serve("replicas: 4", f"replicas: {replicas}")(objects)
    assert without_room(objects[SERVICE]) == told


def test_autoscaled_workers_count_as_many_as_there_may_be() -> None:
    objects = rendered("autoscaling")
    assert without_room(objects[SERVICE]) is None
    cluster(objects)["enableInTreeAutoscaling"] = False
    assert without_room(objects[SERVICE]) == "8 of 8 replicas of the ingress"


def test_what_is_no_configuration_of_ours_is_not_judged() -> None:
    objects = rendered("base")
    for text in ("]", "applications: 3", "applications: [{import_path: other:app, args: 3}]"):
        objects[SERVICE]["spec"]["serveConfigV2"] = text
        assert without_room(objects[SERVICE]) is None
