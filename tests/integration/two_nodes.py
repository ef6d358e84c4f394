"""Two Ray nodes on this machine, one of which is killed under load; prints what became of it.

A process of its own, `python -m tests.integration.two_nodes`: the tests' own Ray has one node.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

import yaml

from serve_app.bench.live_service import LiveLoad
from serve_app.config.args import AppArgs
from serve_app.config.ray_environment import free_ports, set_ray_environment
from serve_app.launcher import run_folder

_CLIENTS = 8
_MODELS = {"fast": {"backend": "serve_app.testing:FakeDualEncoder"}}
# Nodes of four CPUs: of two replicas with three, each node gets one.
_ARGS = {
    "pools": [{"gpus": 0, "cpus": 3, "replicas": 2}],
    "ingress": {"cpus": 0.4, "replicas": 2},
}


def main() -> None:
    """Starts, kills, counts."""
    os.environ["SIMILARITY_MODELS"] = yaml.safe_dump(_MODELS)
    with run_folder() as folder:
        set_ray_environment(folder)
        # Else the address of this cluster stays behind, and `serve run` looks for it.
        os.environ["RAY_TMPDIR"] = str(folder)
        import ray
        from ray import serve
        from ray.cluster_utils import Cluster

        from serve_app.app import build_app

        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 4})
        worker = cluster.add_node(num_cpus=4)
        ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
        port = free_ports(1)[0]
        serve.start(http_options={"host": "127.0.0.1", "port": port, "location": "HeadOnly"})
        serve.run(build_app(AppArgs.model_validate(_ARGS)), name="app", route_prefix="/")
        with LiveLoad(f"http://127.0.0.1:{port}", clients=_CLIENTS) as load:
            time.sleep(3)
            there = _placed(worker.node_id)
            cluster.remove_node(worker, allow_graceful=False)
            killed_at = time.time()
            time.sleep(15)
            records = load.stop()
        failed = [record for record in records if record.fault is not None]
        result: dict[str, Any] = {
            "requests": len(records),
            "after": sum(record.begun > killed_at for record in records),
            "on_the_node": there,
            "failed": len(failed),
            "faults": sorted({record.fault or "" for record in failed})[:5],
            "failed_after": sum(record.begun > killed_at + 2 for record in failed),
            "clients": _CLIENTS,
        }
        sys.stdout.write(json.dumps(result) + "\n")
        sys.stdout.flush()
        os._exit(0)  # what is left of two nodes ends with the run's folder


def _placed(node_id: str) -> list[str]:
    """Deployments with a replica on a node."""
    from ray.util.state import list_actors

    alive = list_actors(filters=[("state", "=", "ALIVE"), ("node_id", "=", node_id)])
    names = (actor.name or "" for actor in alive)
    return sorted(name.split("#")[1] for name in names if name.startswith("SERVE_REPLICA::"))


if __name__ == "__main__":
    main()
