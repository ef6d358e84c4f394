"""Keys on a running application: they change with the mounted file, and nothing restarts."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from serve_app.config.access import key_digest
from serve_app.config.ray_environment import free_ports
from serve_app.errors import ConfigError
from serve_app.serving.listening import listening_host
from tests.integration.launched import started
from tests.integration.mounted import Mounted
from tests.integration.support import TRUE, Deploy, drawing

OLD, NEW, ADMIN = ("sk-" + letter * 43 for letter in "ona")


def until(condition: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_keys_are_exchanged_while_it_runs(deploy: Deploy, tmp_path: Path) -> None:
    old = (
        f"team: {{sha256: {key_digest(OLD)}}}\nops: {{sha256: {key_digest(ADMIN)}, role: admin}}\n"
    )
    secret = Mounted(tmp_path, {"keys.yaml": old})
    app = deploy(
        {
            "pools": [{"gpus": 0}],
            "ingress": {"replicas": 2, "cpus": 0.1},
            "control": {"poll_s": 0.1},
        },
        variables={
            "SIMILARITY_API_KEYS_FILE": str(tmp_path / "keys.yaml"),
            "SIMILARITY_STATE_URL": f"sqlite:///{tmp_path}/state.db",
        },
    )

    def ask(key: str, path: str = "/v1/models") -> int:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        return app.http.get(path, headers=headers).status_code

    def everywhere(key: str) -> set[int]:
        return {ask(key) for _ in range(20)}

    assert everywhere("") == {401}
    assert everywhere(OLD) == {200}
    assert app.http.get("/readyz").status_code == 200
    assert (ask(OLD, "/v1/admin/status"), ask(ADMIN, "/v1/admin/status")) == (403, 200)
    scored = app.http.post(
        "/v1/score",
        files=[("image", ("drawing.png", drawing(), "image/png"))],
        data={"text": TRUE},
        headers={"Authorization": f"Bearer {OLD}"},
    )
    assert scored.status_code == 200, scored.text

    secret.write({"keys.yaml": old + f"new: {{sha256: {key_digest(NEW)}}}\n"})
    until(lambda: everywhere(NEW) == {200})
    assert everywhere(OLD) == {200}

    operator = f"ops: {{sha256: {key_digest(ADMIN)}, role: admin}}\n"
    secret.write({"keys.yaml": operator + f"new: {{sha256: {NEW}}}\n"})
    headers = {"Authorization": f"Bearer {ADMIN}"}
    until(lambda: bool(app.http.get("/v1/models", headers=headers).json()["faults"]))
    told = app.http.get("/v1/models", headers=headers).text
    assert "must be the SHA-256" in told
    assert NEW not in told, "what was written in the hash's place is perhaps the key"
    assert everywhere(OLD) == {200}, "a file with faults changes nothing"

    secret.write({"keys.yaml": operator + f"new: {{sha256: {key_digest(NEW)}}}\n"})
    until(lambda: everywhere(OLD) == {401})
    assert everywhere(NEW) == {200}


def test_a_service_that_others_can_reach_does_not_start_without_keys(serve_address: str) -> None:
    assert listening_host() == "127.0.0.1", "what `build_app` goes by under `serve deploy`"
    port = str(free_ports(1)[0])
    with started("serve-app", "serve", "--host", "0.0.0.0", "--port", port) as refused:
        assert refused.ends() == 2
        assert "no key is asked for" in refused.output
        assert "new-key" in refused.output
        assert "Traceback" not in refused.output


def test_build_app_refuses_too_where_the_proxy_is_open_to_others(
    serve_address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from serve_app import app
    from serve_app.config.args import AppArgs

    monkeypatch.setattr(app, "listening_host", lambda: "0.0.0.0")
    with pytest.raises(ConfigError, match="no key is asked for"):
        app.build_app(AppArgs())
    monkeypatch.setenv("SIMILARITY_OPEN", "true")
    assert app.build_app(AppArgs())


def test_with_a_key_it_starts_for_others_and_asks_for_it() -> None:
    port = free_ports(1)[0]
    keys = f"team: {{sha256: {key_digest(OLD)}}}"
    with started(
        "serve-app", "serve", "--host", "0.0.0.0", "--port", str(port), SIMILARITY_API_KEYS=keys
    ) as service:
        service.wait_for("Ctrl-C stops it")
        url = f"http://127.0.0.1:{port}"
        assert httpx.get(f"{url}/v1/models").status_code == 401
        headers = {"Authorization": f"Bearer {OLD}"}
        assert httpx.get(f"{url}/v1/models", headers=headers).status_code == 200
