"""What the manifests deploy runs on a local Ray, with the environment and files of the pods.

Paths of pods are exchanged for folders of the test; the rest is as it is rendered.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from serve_app.config.access import key_digest
from serve_app.config.ray_environment import free_ports
from tests.integration.launched import ROOT, deployed
from tests.integration.mounted import Mounted
from tests.integration.support import SWAPPED, TRUE, drawing

KEY = "sk-" + "k" * 43
MODELS = """
fast: {backend: "serve_app.testing:FakeDualEncoder", architecture: fake, preload: true}
"""
CHANGED = """
fast: {backend: "serve_app.testing:FakeDualEncoder", architecture: fake, preload: true,
  options: {version: 7}}
"""


def documents(overlay: str) -> list[dict[str, Any]]:
    text = (ROOT / "kuberay" / "rendered" / f"{overlay}.yaml").read_text()
    return list(yaml.safe_load_all(text))


def of_kind(objects: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [item for item in objects if item["kind"] == kind]


def pod_environment(objects: list[dict[str, Any]], folder: Path) -> dict[str, str]:
    """The variables of a worker's container; its folders are below `folder`."""
    (service,) = of_kind(objects, "RayService")
    pod = service["spec"]["rayClusterConfig"]["workerGroupSpecs"][0]["template"]["spec"]
    (container,) = pod["containers"]
    maps = {item["metadata"]["name"]: item["data"] for item in of_kind(objects, "ConfigMap")}
    found: dict[str, str] = {}
    for source in container["envFrom"]:
        found.update(maps[source["configMapRef"]["name"]])
    found.update({item["name"]: item["value"] for item in container["env"]})
    del found["HOME"]
    for mount in container["volumeMounts"]:
        if mount["mountPath"] == "/tmp":
            continue
        here = folder / mount["mountPath"].lstrip("/")
        here.mkdir(parents=True, exist_ok=True)
        found = {key: text.replace(mount["mountPath"], str(here)) for key, text in found.items()}
    return found


@contextmanager
def running(overlay: str, folder: Path) -> Iterator[str]:
    """What an overlay deploys, in the environment of its pods; gives its address."""
    objects = documents(overlay)
    (service,) = of_kind(objects, "RayService")
    port, *others = free_ports(5)
    config = service["spec"]["serveConfigV2"]
    assert "port: 8000" in config
    path = folder / "serve.yaml"
    path.write_text(config.replace("port: 8000", f"port: {port}"))
    variables = {
        **pod_environment(objects, folder),
        # A pod has its ports for itself; this machine has others who use them.
        "RAY_SERVE_HAPROXY_STATS_PORT": str(others[0]),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(others[1]),
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(others[2]),
        "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT": str(others[3]),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(folder / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": f"/tmp/serve-app-{port}.sock",
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(folder / "server-state"),
        "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",
    }
    url = f"http://127.0.0.1:{port}"
    with deployed(path, url, cpus=8, **variables):
        yield url


def score(url: str, key: str = KEY) -> httpx.Response:
    return httpx.post(
        f"{url}/v1/score",
        files=[("image", ("drawing.png", drawing(), "image/png"))],
        data={"text": [TRUE, SWAPPED]},
        headers={"Authorization": f"Bearer {key}"},
        timeout=60,
    )


def keys() -> dict[str, str]:
    return {"keys.yaml": f"team: {{sha256: {key_digest(KEY)}}}\n"}


@pytest.mark.slow
def test_the_base_answers_who_has_a_key(tmp_path: Path) -> None:
    Mounted(tmp_path / "etc/serve_app/keys", keys())
    with running("base", tmp_path) as url:
        answer = score(url)
        assert answer.status_code == 200, answer.text
        true, swapped = (result["score"] for result in answer.json()["results"])
        assert true > swapped
        assert score(url, "sk-wrong").status_code == 401


@pytest.mark.slow
def test_a_mounted_file_that_is_exchanged_is_served_without_a_failed_request(
    tmp_path: Path,
) -> None:
    Mounted(tmp_path / "etc/serve_app/keys", keys())
    routing = {"routing.yaml": "default: fast\n"}
    models = Mounted(tmp_path / "etc/serve_app/models", {"models.yaml": MODELS, **routing})
    with running("config-file", tmp_path) as url:
        first = score(url).json()["model"]
        statuses: list[int] = []
        served: list[str] = []
        stop = threading.Event()

        def ask() -> None:
            while not stop.is_set():
                answer = score(url)
                statuses.append(answer.status_code)
                served.append(answer.json().get("model", answer.text))

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        try:
            time.sleep(1)
            models.write({"models.yaml": CHANGED, **routing})
            deadline = time.monotonic() + 60
            while served[-1] == first:
                assert time.monotonic() < deadline
                time.sleep(0.1)
            time.sleep(1)
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        assert set(statuses) == {200}, [text for text in served if "@" not in text]
        assert len(set(served)) == 2
        assert set(served[-4:]) != {first}
