"""The bridge from Reloader to KubeRay: `python -m serve_app.kubernetes.bridge`.

Reloader restarts Deployments, and no RayService. A Deployment of this, restarted with every change
of a ConfigMap, writes the hash of its content into an annotation of the head's pod template: a
change of the RayService, for which KubeRay makes a new cluster.
"""

from __future__ import annotations

import argparse
import hashlib
import logging
import signal
import ssl
import sys
import threading
from pathlib import Path
from typing import Any

import httpx
import tenacity

logger = logging.getLogger("serve_app.bridge")

ANNOTATION = "serve-app.io/config-hash"
"""Of the head's pod template: it is part of what KubeRay compares."""

_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_API = "https://kubernetes.default.svc"
_POINTER = "/spec/rayClusterConfig/headGroupSpec/template/metadata"


def content_hash(folder: Path) -> str:
    """SHA-256 of a mounted ConfigMap: its names and contents."""
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.name.startswith("..") or not path.is_file():  # the kubelet's own links
            continue
        for part in (path.name.encode(), path.read_bytes()):
            digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()


def patch_of(manifest: dict[str, Any], value: str) -> list[dict[str, Any]]:
    """The JSON patch (RFC 6902) that writes the hash; empty where it is there already.

    A merge patch would replace whole lists, and an addition below what is not there is refused.
    """
    template = manifest["spec"]["rayClusterConfig"]["headGroupSpec"]["template"]
    metadata = template.get("metadata")
    if metadata is None:
        return [{"op": "add", "path": _POINTER, "value": {"annotations": {ANNOTATION: value}}}]
    annotations = metadata.get("annotations")
    if annotations is None:
        path = f"{_POINTER}/annotations"
        return [{"op": "add", "path": path, "value": {ANNOTATION: value}}]
    if annotations.get(ANNOTATION) == value:
        return []
    escaped = ANNOTATION.replace("~", "~0").replace("/", "~1")
    return [{"op": "add", "path": f"{_POINTER}/annotations/{escaped}", "value": value}]


def write_hash(client: httpx.Client, namespace: str, name: str, value: str) -> bool:
    """Writes the hash into a RayService; returns whether that changed anything.

    Raises:
        httpx.HTTPError: The API server refuses it or cannot be reached.
    """
    url = f"/apis/ray.io/v1/namespaces/{namespace}/rayservices/{name}"
    answer = client.get(url)
    answer.raise_for_status()
    patch = patch_of(answer.json(), value)
    if not patch:
        return False
    headers = {"Content-Type": "application/json-patch+json"}
    client.patch(url, json=patch, headers=headers).raise_for_status()
    return True


def main() -> None:
    """Writes the hash, and stays: Reloader restarts what runs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rayservice", required=True, help="name of the RayService")
    parser.add_argument("--folder", required=True, type=Path, help="the mounted ConfigMap")
    parser.add_argument("--api", default=_API, help="address of the API server")
    parser.add_argument("--account", default=_ACCOUNT, type=Path, help="token and certificate")
    parser.add_argument("--once", action="store_true", help="end when it is written")
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s", stream=sys.stderr)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    value = content_hash(given.folder)
    for attempt in tenacity.Retrying(
        wait=tenacity.wait_exponential_jitter(initial=1, max=30),
        retry=tenacity.retry_if_exception_type(httpx.HTTPError),
        before_sleep=tenacity.before_sleep_log(logger, logging.WARNING),
    ):
        with attempt, _api(given.api, given.account) as client:
            namespace = (given.account / "namespace").read_text().strip()
            written = write_hash(client, namespace, given.rayservice, value)
    state = "written" if written else "there already"
    logger.info("%s of %s: %s", value[:12], given.rayservice, state)
    if not given.once:
        stopped = threading.Event()
        signal.signal(signal.SIGTERM, lambda *_: stopped.set())
        signal.signal(signal.SIGINT, lambda *_: stopped.set())
        stopped.wait()


def _api(url: str, account: Path) -> httpx.Client:
    token = (account / "token").read_text().strip()  # anew each time: the kubelet exchanges it
    return httpx.Client(
        base_url=url,
        verify=ssl.create_default_context(cafile=str(account / "ca.crt")),
        headers={"Authorization": f"Bearer {token}"},
        timeout=10,
        trust_env=False,
    )


if __name__ == "__main__":
    main()
