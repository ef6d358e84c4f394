"""The bridge writes a hash where KubeRay sees it, over TLS, and as little as that."""

from __future__ import annotations

import copy
import json
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import trustme

from serve_app.kubernetes.bridge import ANNOTATION, content_hash, patch_of
from serve_app.kubernetes.effects import Effect
from serve_app.kubernetes.manifests import Key
from serve_app.kubernetes.plan import plan_changes
from tests.kuberay.test_manifests import rayservice

PATH = "/apis/ray.io/v1/namespaces/images/rayservices/serve-app"


class Api:
    """An API server with one object.

    Attributes:
        manifest: The object.
        asked: Method, path and token of each request.
        refusals: How many requests are answered by 503 first.
    """

    def __init__(self) -> None:
        self.manifest = rayservice("reloader")
        self.asked: list[tuple[str, str, str]] = []
        self.refusals = 0

    def answer(self, method: str, path: str, token: str, body: bytes) -> tuple[int, Any]:
        self.asked.append((method, path, token))
        if self.refusals:
            self.refusals -= 1
            return 503, {}
        assert path == PATH
        if method == "PATCH":
            for change in json.loads(body):
                self.manifest = patched(self.manifest, change)
        return 200, self.manifest


def patched(manifest: Any, change: dict[str, Any]) -> Any:
    """RFC 6902's `add`: refused where the parent is not there."""
    made = copy.deepcopy(manifest)
    *parents, last = change["path"].split("/")[1:]
    here = made
    for part in parents:
        here = here[part]
    assert change["op"] == "add"
    here[last.replace("~1", "/").replace("~0", "~")] = change["value"]
    return made


@pytest.fixture
def api(tmp_path: Path) -> Iterator[tuple[Api, list[str]]]:
    """The server, and the arguments by which the bridge finds it."""
    served = Api()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            token = self.headers.get("authorization", "")
            status, answer = served.answer(self.command, self.path, token, body)
            content = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_PATCH = do_GET

        def log_message(self, format: str, *args: Any) -> None:
            pass

    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    account = tmp_path / "account"
    account.mkdir()
    authority.cert_pem.write_to_path(str(account / "ca.crt"))
    (account / "token").write_text("the token\n")
    (account / "namespace").write_text("images")
    config = tmp_path / "config"
    config.mkdir()
    (config / "SIMILARITY_MODELS").write_text("fast: {}")
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        url = f"https://127.0.0.1:{server.server_address[1]}"
        yield served, ["--api", url, "--account", str(account), "--folder", str(config)]
        server.shutdown()
        thread.join()


def run(arguments: list[str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "serve_app.kubernetes.bridge", "--rayservice", "serve-app"]
    return subprocess.run(
        [*command, "--once", *arguments], capture_output=True, text=True, timeout=60, check=True
    )


def test_a_changed_configmap_is_a_new_cluster_and_the_same_is_none(
    api: tuple[Api, list[str]], tmp_path: Path
) -> None:
    served, arguments = api
    before = copy.deepcopy(served.manifest)
    assert "written" in run(arguments).stderr
    assert {token for _, _, token in served.asked} == {"Bearer the token"}
    first = copy.deepcopy(served.manifest)
    key = Key("ray.io", "RayService", "", "serve-app")
    assert plan_changes({key: before}, {key: first}).effect is Effect.NEW_CLUSTER

    assert "there already" in run(arguments).stderr
    assert [method for method, _, _ in served.asked].count("PATCH") == 1

    (tmp_path / "config" / "SIMILARITY_MODELS").write_text("slow: {}")
    served.refusals = 1
    assert "written" in run(arguments).stderr
    assert plan_changes({key: first}, {key: served.manifest}).effect is Effect.NEW_CLUSTER
    assert served.manifest["spec"]["serveConfigV2"] == before["spec"]["serveConfigV2"]


def test_the_patch_fits_whatever_is_there() -> None:
    for metadata in (None, {}, {"annotations": {}}, {"annotations": {"a": "b"}, "labels": {}}):
        template = {} if metadata is None else {"metadata": metadata}
        manifest = {"spec": {"rayClusterConfig": {"headGroupSpec": {"template": template}}}}
        (change,) = patch_of(manifest, "1234")
        made = patched(manifest, change)
        assert patch_of(made, "1234") == []
        annotations = made["spec"]["rayClusterConfig"]["headGroupSpec"]["template"]["metadata"][
            "annotations"
        ]
        assert annotations[ANNOTATION] == "1234"
        if metadata and metadata.get("annotations"):
            assert annotations["a"] == "b"


def test_the_hash_is_of_names_and_contents_however_they_are_mounted(tmp_path: Path) -> None:
    data = tmp_path / "..data"
    data.mkdir()
    (data / "a").write_text("1")
    (tmp_path / "a").symlink_to("..data/a")
    plain = tmp_path / "plain"
    plain.mkdir()
    (plain / "a").write_text("1")
    (plain / "a").rename(plain / "b")
    renamed = content_hash(plain)
    (plain / "b").rename(plain / "a")
    assert content_hash(plain) == content_hash(data) == content_hash(tmp_path) != renamed
