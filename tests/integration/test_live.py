"""What is served changes under load from another process: counts of a real service, no times."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from serve_app.bench.live_service import LiveLoad, LiveService, Record
from serve_app.config.child_environment import child_environment
from serve_app.config.defaults import WEIGHTS_FOLDER
from tests.integration.support import drawing, uri
from tests.one_clip import write_three

pytestmark = pytest.mark.slow

_FAKE = "serve_app.testing:FakeDualEncoder"
_ARGS = {
    "ingress": {"cpus": 0.1, "replicas": 2},
    "pools": [{"gpus": 0, "cpus": 0.1, "replicas": 2}],
    "control": {"poll_s": 0.2},
}
_ROUNDS = 20
_CLIENTS = 16


def fake(version: int = 0, **options: Any) -> dict[str, Any]:
    """A fake model, one revision for each version."""
    return {"backend": _FAKE, "load_timeout_s": 30, "options": {"version": version, **options}}


SLOW = fake(1000)
_IMAGE = uri(drawing(size=(32, 24)))


def faults_of(records: list[Record]) -> list[str]:
    """What went wrong."""
    return [record.fault for record in records if record.fault is not None]


@pytest.fixture(scope="module")
def live() -> Iterator[LiveService]:
    """Two models behind an experiment; two ingress replicas and two of the pool."""
    routing = {"default": "split", "experiments": {"split": {"arms": {"fast": 90, "slow": 10}}}}
    with LiveService({"fast": fake(), "slow": SLOW}, routing, _ARGS) as service:
        yield service


@pytest.fixture(autouse=True)
def _as_at_first(live: LiveService) -> Iterator[None]:
    """Every test begins and ends with what was declared at first."""
    first = live.active("fast")
    yield
    live.declare({"fast": fake(), "slow": SLOW})
    live.wait(f"{first} does not answer again", lambda: live.active("fast") == first)
    live.wait("not all is as wanted", lambda: live.status()["complete"])


def test_twenty_swaps_rollbacks_and_weights_lose_no_request(live: LiveService) -> None:
    old = live.active("fast")
    rolled_back: list[tuple[float, str]] = []
    with LiveLoad(live.url, clients=_CLIENTS) as load:
        for round_ in range(1, _ROUNDS + 1):
            live.declare({"fast": fake(round_), "slow": SLOW})
            new = live.wait_replaced("fast", old)
            time.sleep(0.1)  # it answers for a while, or there would be nothing to roll back
            answer = live.operate("rollback")
            rolled_back.append((time.time(), new))
            assert answer["outcome"] == "in_effect", answer
            assert len(answer["confirmed"]) == 2, answer
            assert live.active("fast") == old
            arms = {"fast": 90 - round_, "slow": 10 + round_}
            answer = live.operate("weights", experiment="split", arms=arms)
            assert answer["outcome"] == "in_effect", answer
        records = load.stop()
    assert faults_of(records) == []
    assert len(records) > _CLIENTS * _ROUNDS
    for back_at, new in rolled_back:
        late = [record for record in records if record.model == new and record.begun > back_at]
        assert late == [], f"{new} answered after the rollback from it had returned"
    answered = {record.model for record in records}
    assert all(new in answered for _, new in rolled_back), "a new revision never answered"


def test_a_name_changes_its_backend_and_loses_no_request(live: LiveService, tmp_path: Path) -> None:
    """The same weights by three libraries: nothing but the specification says which."""
    old, scores = live.active("fast"), {}
    with LiveLoad(live.url, clients=4, model="fast") as load:
        for backend, spec in write_three(tmp_path).items():
            live.declare({"fast": {**spec, "precision": "fp32"}, "slow": SLOW})
            old = live.wait_replaced("fast", old)
            body = {"images": [_IMAGE], "texts": ["a red circle"], "model": "fast"}
            answer = httpx.post(f"{live.url}/v1/score", json=body, timeout=60).json()
            assert answer["model"] == old
            scores[backend] = answer["results"][0]["scores"]["cosine"]
            told = httpx.get(f"{live.url}/v1/models/fast").json()
            assert (told["id"], told["backend"]) == (old, backend)
            time.sleep(1)
        records = load.stop()
    assert faults_of(records) == []
    answered = dict.fromkeys(record.model for record in records)
    assert len(answered) == 4, "each of them answered, and the one before"
    assert scores["open_clip"] == pytest.approx(scores["transformers"], abs=1e-5)
    assert scores["open_clip"] == pytest.approx(scores["torch_clip"], abs=1e-5)


def _broken(kind: str, folder: Path) -> tuple[dict[str, Any], str]:
    """A spec that cannot be loaded, and what must be told of it."""
    demo = {"architecture": str(WEIGHTS_FOLDER / "demo.json"), "load_timeout_s": 60}
    weights = WEIGHTS_FOLDER / "demo.safetensors"
    if kind == "wrong path":
        return {**demo, "pretrained": str(folder / "nowhere.safetensors")}, "nowhere.safetensors"
    if kind == "corrupt file":
        (folder / "corrupt.safetensors").write_bytes(weights.read_bytes()[:100_000])
        return {**demo, "pretrained": str(folder / "corrupt.safetensors")}, "corrupt.safetensors"
    if kind == "wrong checksum":
        return {**demo, "pretrained": str(weights), "sha256": "0" * 64}, "sha256"
    if kind == "another architecture":
        config = json.loads((WEIGHTS_FOLDER / "demo.json").read_text())
        model = config.get("model_cfg", config)
        model["embed_dim"] *= 2
        (folder / "other.json").write_text(json.dumps(config))
        for part in WEIGHTS_FOLDER.glob("*.bpe.gz"):
            (folder / part.name).write_bytes(part.read_bytes())
        return {
            "architecture": str(folder / "other.json"),
            "pretrained": str(weights),
        }, "demo.safetensors"
    if kind == "hangs":
        return {**fake(1, hang_load_s=3600), "load_timeout_s": 2}, "2 s"
    if kind == "runs out of memory":
        return fake(1, out_of_memory=True), "memory"
    if kind == "is killed for want of memory":
        return fake(1, kill_process=True), "died"
    assert kind == "drifts"
    pairs = [{"image": uri(drawing()), "text": "a red circle", "scores": {"cosine": 0.123}}]
    return {**fake(1), "parity": {"pairs": pairs, "tolerance": 0.001}}, "0.123"


@pytest.mark.parametrize(
    "kind",
    [
        "wrong path",
        "corrupt file",
        "wrong checksum",
        "another architecture",
        "hangs",
        "runs out of memory",
        "is killed for want of memory",
        "drifts",
    ],
)
def test_a_broken_specification_costs_nothing(live: LiveService, kind: str, tmp_path: Path) -> None:
    broken, reason = _broken(kind, tmp_path)
    before, other = live.active("fast"), live.active("slow")
    with LiveLoad(live.url, clients=4) as load:
        live.declare({"fast": broken, "slow": SLOW})
        live.wait(f"no reason with {reason!r}", lambda: reason in _reasons(live))
        time.sleep(1)
        assert (live.active("fast"), live.active("slow")) == (before, other)
        records = load.stop()
    assert faults_of(records) == []
    assert {record.model for record in records} <= {before, other}
    # What is mended after that is taken.
    live.declare({"fast": fake(2), "slow": SLOW})
    live.wait_replaced("fast", before)
    assert live.active("slow") == other


def _reasons(live: LiveService) -> str:
    """All that the service tells about what is wrong."""
    told = live.models()
    failed = [item["reason"] for item in told["revisions"] if item["state"] == "failed"]
    return " ".join([*(fault["key"] + fault["message"] for fault in told["faults"]), *failed])


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (None, "models.yaml"),
        ("", "empty"),
        ("fast: [", "models.yaml"),
        ("fast: {backend: nosuch}\nslow: {pool: nowhere}\n", "nowhere"),
    ],
    ids=["vanished", "empty", "no YAML", "two faults"],
)
def test_an_invalid_file_changes_nothing_and_is_told(
    live: LiveService, text: str | None, told: str
) -> None:
    before = live.models()
    live.write("models", text)
    live.wait(f"no fault with {told!r}", lambda: told in _reasons(live))
    after = live.models()
    assert [model["id"] for model in after["data"]] == [model["id"] for model in before["data"]]
    assert after["snapshot"] == before["snapshot"]
    if text is not None and "nosuch" in text:
        assert "nosuch" in _reasons(live), "every fault is named"


@pytest.mark.parametrize(
    ("routing", "told"),
    [
        ({"default": "nosuch"}, "nosuch"),
        ({"experiments": {"split": {"arms": {"fast": 90, "slow": 20}}}}, "110"),
        ({"experiments": {"split": {"arms": {"fast": 90, "ghost": 10}}}}, "ghost"),
        ({"aliases": {"a": "b", "b": "a"}}, "a"),
    ],
    ids=["unknown default", "weights that do not sum", "an arm without a model", "a cycle"],
)
def test_invalid_routing_changes_nothing_and_is_told(
    live: LiveService, routing: dict[str, Any], told: str
) -> None:
    before = live.models()
    live.route(routing)
    live.wait(f"no fault with {told!r}", lambda: told in _reasons(live))
    assert live.models()["snapshot"] == before["snapshot"]
    live.route({"default": "split", "experiments": {"split": {"arms": {"fast": 90, "slow": 10}}}})
    live.wait("the faults stay", lambda: not live.models()["faults"])


def test_an_operation_that_cannot_be_changes_nothing(live: LiveService) -> None:
    before = live.status()
    for kind, body in (
        ("weights", {"experiment": "nosuch", "arms": {"fast": 100}}),
        ("weights", {"experiment": "split", "arms": {"fast": 50, "slow": 40}}),
        ("weights", {"experiment": "split", "arms": {"fast": 50, "ghost": 50}}),
        ("promote", {"target": "nosuch"}),
        ("promote", {"target": "slow", "reason": " "}),
        ("rollback", {"number": 10_000}),
        ("pin", {"name": "nosuch"}),
    ):
        with pytest.raises(httpx.HTTPStatusError) as refused:
            live.operate(kind, **body)
        assert refused.value.response.status_code in (404, 422), refused.value.response.text
    after = live.status()
    for key in ("snapshot", "overrides", "target", "snapshots"):
        assert after[key] == before[key]


def test_a_model_that_does_not_fit_twice_is_replaced_all_the_same(tmp_path: Path) -> None:
    """With `rollout: recreate` requests wait in the replica while the old one makes room."""
    pool = {"gpus": 0, "cpus": 0.1, "replicas": 1, "memory_bytes": 1500}

    def big(version: int, **changes: Any) -> dict[str, Any]:
        spec = fake(version, hang_load_s=1, **changes)  # of 1000 bytes
        return {"big": {**spec, "rollout": "recreate"}}

    with LiveService(big(1), args={**_ARGS, "pools": [pool]}) as service:
        old = service.active("big")
        with LiveLoad(service.url, clients=4) as load:
            service.declare(big(2, fail_load="no such file"))
            told = service.wait("no reason", lambda: "no such file" in _reasons(service))
            assert told
            assert service.active("big") == old
            time.sleep(2)  # it is there again
            service.declare(big(3))
            new = service.wait_replaced("big", old)
            time.sleep(1)
            records = load.stop()
    assert faults_of(records) == []
    assert {record.model for record in records} == {old, new}


def test_what_does_not_fit_twice_and_does_not_say_so_fails_and_is_told() -> None:
    pool = {"gpus": 0, "cpus": 0.1, "replicas": 1, "memory_bytes": 1500}
    with LiveService({"big": fake(1)}, args={**_ARGS, "pools": [pool]}) as service:
        old = service.active("big")
        with LiveLoad(service.url, clients=4) as load:
            service.declare({"big": fake(2)})
            service.wait("no reason", lambda: "memory_bytes" in _reasons(service))
            assert service.active("big") == old
            records = load.stop()
    assert faults_of(records) == []


def test_arms_are_the_same_on_all_ingresses_and_after_a_restart(live: LiveService) -> None:
    keys = [f"user-{number}" for number in range(300)]
    before = _arms(live, keys)
    assert _arms(live, keys) == before, "whichever ingress answers"
    for victim in live.process.replica_pids("ingress"):
        os.kill(victim, signal.SIGKILL)
    live.wait("no ingress", lambda: len(live.process.replica_pids("ingress")) == 2)
    live.wait("it does not answer", lambda: _answers(live))
    assert _arms(live, keys) == before
    share = sum(arm == "slow" for arm in before.values()) / len(keys)
    assert 0.04 < share < 0.17


def _answers(live: LiveService) -> bool:
    try:
        return live.http.get("/readyz").is_success
    except httpx.HTTPError:
        return False


def _arms(live: LiveService, keys: list[str]) -> dict[str, str]:
    """The arm of each key."""
    found = {}
    for key in keys:
        body = {"images": [_IMAGE], "texts": ["a red circle"], "routing_key": key}
        answer = live.http.post("/v1/score", json=body).raise_for_status().json()
        found[key] = answer["experiment"]["arm"]
    return found


def test_a_killed_replica_costs_no_request(live: LiveService) -> None:
    with LiveLoad(live.url, clients=_CLIENTS) as load:
        time.sleep(1)
        victim = _victim(live, "pool-default")
        os.kill(victim, signal.SIGKILL)
        live.wait("it is not replaced", lambda: _replicas(live, "pool-default", victim) == 2)
        time.sleep(1)
        records = load.stop()
    assert faults_of(records) == []


def test_a_killed_control_plane_costs_no_request_and_comes_back(live: LiveService) -> None:
    before = live.active("fast")
    live.operate("weights", experiment="split", arms={"fast": 50, "slow": 50})
    with LiveLoad(live.url, clients=_CLIENTS) as load:
        victim = _victim(live, "control")
        os.kill(victim, signal.SIGKILL)
        live.wait("it is not replaced", lambda: _replicas(live, "control", victim) == 1)
        live.wait("it does not answer", lambda: _overrides(live))
        assert _overrides(live)["weights"] == {"split": {"fast": 50, "slow": 50}}
        live.declare({"fast": fake(3), "slow": SLOW})
        live.wait_replaced("fast", before)
        records = load.stop()
    assert faults_of(records) == []


def test_a_killed_ingress_costs_only_what_it_was_answering(live: LiveService) -> None:
    with LiveLoad(live.url, clients=_CLIENTS) as load:
        time.sleep(1)
        victim = _victim(live, "ingress")
        os.kill(victim, signal.SIGKILL)
        _wait_dead(victim)
        killed_at = time.time()
        live.wait("it is not replaced", lambda: _replicas(live, "ingress", victim) == 2)
        time.sleep(1)
        records = load.stop()
    failed = [record for record in records if record.fault is not None]
    assert len(failed) <= _CLIENTS
    assert all(record.begun <= killed_at for record in failed), faults_of(records)


def _wait_dead(process: int) -> None:
    """Until the process has let go of its sockets: the kernel takes its memory first.

    What reaches it meanwhile waits in its sockets, and is lost with them.
    """
    threads = Path(f"/proc/{process}/task")
    with contextlib.suppress(FileNotFoundError):  # it has been reaped, too
        while not all(_is_over(thread) for thread in threads.iterdir()):
            time.sleep(0.001)


def _is_over(thread: Path) -> bool:
    return (thread / "stat").read_text().rpartition(")")[2].split()[0] in "ZX"


def test_a_killed_node_costs_only_what_its_ingress_was_answering() -> None:
    # Not a child of this process's Ray, whose variables it must not see.
    run = subprocess.run(
        [sys.executable, "-m", "tests.integration.two_nodes"],
        env=child_environment(threads=1),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    result = json.loads(run.stdout.strip().splitlines()[-1])
    assert "pool-default" in result["on_the_node"], result
    assert result["after"] > 100, result
    in_flight = result["clients"] if "ingress" in result["on_the_node"] else 0
    assert result["failed"] <= in_flight, result
    assert result["failed_after"] == 0, result


def _victim(live: LiveService, deployment: str) -> int:
    """A replica's process id."""
    pids: list[int] = live.wait("no replica", lambda: live.process.replica_pids(deployment))
    return pids[0]


def _replicas(live: LiveService, deployment: str, without: int) -> int:
    """How many replicas there are besides one that was killed."""
    return len([pid for pid in live.process.replica_pids(deployment) if pid != without])


def _overrides(live: LiveService) -> dict[str, Any]:
    """What an operator changed; nothing while the control plane cannot be reached."""
    try:
        return dict(live.status()["overrides"] or {})
    except httpx.HTTPError:
        return {}
