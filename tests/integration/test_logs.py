"""Logs in JSON, of a running service: what a line has, and what none has."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import ray

from serve_app.config.access import key_digest
from tests.integration.support import TRUE, Deploy, drawing, uri

KEY = "sk-" + "k" * 43
BROKEN = {"backend": "serve_app.testing:FakeDualEncoder", "options": {"fail_load": "on fire"}}


def lines(application: str, deployment: str) -> list[dict[str, Any]]:
    """What replicas of a deployment have logged; Serve writes it within some seconds."""
    folder = Path(ray._private.worker._global_node.get_logs_dir_path()) / "serve"
    return [
        json.loads(line)
        for path in folder.glob(f"replica_{application}_{deployment}_*.log")
        for line in path.read_text().splitlines()
    ]


def test_a_request_can_be_followed_by_its_id(deploy: Deploy) -> None:
    app = deploy(
        {"pools": [{"gpus": 0}], "log_format": "json", "access_log": 1},
        models={
            "fast": {"backend": "serve_app.testing:FakeDualEncoder", "architecture": "fake"},
            "broken": BROKEN,
        },
        routing={
            "default": "split",
            "experiments": {"split": {"arms": {"fast": 100, "broken": 0}}},
        },
        variables={"SIMILARITY_API_KEYS": f"team: {{sha256: {key_digest(KEY)}}}"},
    )
    body = {"images": [uri(drawing())], "texts": [TRUE]}
    headers = {"Authorization": f"Bearer {KEY}", "x-request-id": "followed-1"}
    assert app.http.post("/v1/score", json=body, headers=headers).status_code == 200
    headers["x-request-id"] = "followed-2"
    failed = app.http.post("/v1/score", json={**body, "model": "broken"}, headers=headers)
    assert failed.status_code == 503

    deadline = time.monotonic() + 30
    while True:
        logged = lines(app.name, "ingress")
        access = {line["request"]: line for line in logged if "duration_ms" in line}
        if {"followed-1", "followed-2"} <= set(access):
            break
        assert time.monotonic() < deadline, logged
        time.sleep(0.2)
    first, second = access["followed-1"], access["followed-2"]
    told = ("method", "path", "status", "code", "key", "experiment", "arm")
    assert [first[name] for name in told] == [
        *("POST", "/v1/score", 200, "ok", "team", "split", "fast")
    ]
    assert first["model"].startswith("fast@")
    assert first["request_id"] == "followed-1", "Serve's own field agrees"
    assert (first["application"], first["deployment"]) == (app.name, f"{app.name}_ingress")
    assert (second["status"], second["code"]) == (503, "model_load_failed")
    assert any("on fire" in line["message"] for line in logged if "followed-2" in line["message"])

    everything = json.dumps(logged + lines(app.name, "pool-default") + lines(app.name, "control"))
    assert KEY not in everything and KEY[3:] not in everything
    assert TRUE not in everything
