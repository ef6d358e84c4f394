"""A running service exports every metric that there is, and that alerts and dashboard read."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from serve_app.config.access import key_digest
from serve_app.config.defaults import WEIGHTS_FOLDER
from serve_app.observability.instruments import INSTRUMENTS, exported
from tests.integration.mounted import Mounted
from tests.integration.support import TRUE, Deploy, Running, drawing
from tests.promql import expressions, series_of
from tests.weights_server import serving

KEY = "sk-" + "k" * 43
Sample = tuple[str, dict[str, str], float]

FAKE = {"backend": "serve_app.testing:FakeDualEncoder", "architecture": "fake"}
ROUTING = yaml.safe_dump(
    {
        "default": "split",
        "experiments": {"split": {"arms": {"fast": 100, "slow": 0}, "shadow": ["slow"]}},
    }
)

# There is no GPU here.
ELSEWHERE = {"similarity_gpu_memory_bytes"}


class Scraped:
    """What Prometheus reads of one application."""

    def __init__(self, application: str) -> None:
        import ray

        self._application = application
        self._ports = [node["MetricsExportPort"] for node in ray.nodes() if node["Alive"]]

    def samples(self) -> list[Sample]:
        found: list[Sample] = []
        for port in self._ports:
            text = httpx.get(f"http://127.0.0.1:{port}/metrics", trust_env=False).text
            for family in text_string_to_metric_families(text):
                if not family.name.startswith("ray_similarity"):
                    continue
                for sample in family.samples:
                    if sample.labels.get("application") == self._application:
                        found.append((sample.name, sample.labels, sample.value))
        return found

    def names(self) -> set[str]:
        return {name for name, _, _ in self.samples()}

    def total(self, series: str, **labels: str) -> float:
        """The sum of what has these labels."""
        return sum(
            value
            for name, found, value in self.samples()
            if name == series and labels.items() <= found.items()
        )


def eventually(
    condition: Callable[[], bool], what: Callable[[], object], seconds: float = 60
) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what()
        time.sleep(0.5)


@pytest.fixture(scope="module")
def mounted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mounted]:
    content = (WEIGHTS_FOLDER / "demo.safetensors").read_bytes()
    with serving({"/demo.safetensors": content}) as server:
        far = {
            "architecture": str(WEIGHTS_FOLDER / "demo.json"),
            "pretrained": server.url("/demo.safetensors"),
            "preload": True,
        }
        models = {
            "fast": {**FAKE, "options": {"version": 1, "size": 256}},
            "slow": {**FAKE, "options": {"version": 2}},
            "broken": {**FAKE, "options": {"fail_load": "no"}},
            "far": far,
        }
        folder = tmp_path_factory.mktemp("metrics")
        yield Mounted(folder, {"models.yaml": yaml.safe_dump(models), "routing.yaml": ROUTING})


@pytest.fixture(scope="module")
def app(deploy: Deploy, mounted: Mounted, tmp_path_factory: pytest.TempPathFactory) -> Running:
    return deploy(
        {"pools": [{"gpus": 0, "replicas": 2}], "control": {"poll_s": 0.2}},
        variables={
            "SIMILARITY_MODELS_FILE": str(mounted.folder / "models.yaml"),
            "SIMILARITY_ROUTING_FILE": str(mounted.folder / "routing.yaml"),
            "SIMILARITY_API_KEYS": f"team: {{sha256: {key_digest(KEY)}}}",
            "SIMILARITY_CACHE_DIR": str(tmp_path_factory.mktemp("cache")),
        },
    )


def ask(app: Running, model: str | None = None, **options: str) -> httpx.Response:
    """One image and two texts, of which one is blank."""
    data = {"text": [TRUE, " "], **({} if model is None else {"model": model}), **options}
    return app.http.post(
        "/v1/score",
        data=data,
        files=[("image", ("drawing.png", drawing(), "image/png"))],
        headers={"Authorization": f"Bearer {KEY}"},
    )


def test_every_metric_is_exported_and_tells_what_happened(app: Running, mounted: Mounted) -> None:
    assert app.http.get("/v1/models").status_code == 401
    assert ask(app, "broken").status_code == 503
    for _ in range(20):  # the experiment's, and each of them several items of one batch
        assert ask(app).status_code == 200
    assert ask(app, "far").status_code == 200
    # Requests at the same time share their text.
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda _: ask(app, "slow"), range(64)))
    models = mounted.read("models.yaml")
    mounted.write({"models.yaml": models + "\nbad: {backend: nobody}", "routing.yaml": ROUTING})

    scraped = Scraped(app.name)
    wanted = {name for instrument in set(INSTRUMENTS) - ELSEWHERE for name in exported(instrument)}
    eventually(lambda: wanted <= scraped.names(), lambda: wanted - scraped.names())
    eventually(lambda: scraped.total("ray_similarity_config_faults") >= 1, scraped.samples)

    for name, labels, _ in scraped.samples():
        instrument = next(it for it in INSTRUMENTS if name in exported(it))
        assert set(INSTRUMENTS[instrument].labels) <= set(labels)
    total = scraped.total
    code_of = {"path": "/v1/score", "method": "POST", "status": "200", "code": "ok"}
    eventually(
        lambda: total("ray_similarity_http_requests_total", **code_of) == 85, scraped.samples
    )
    assert total("ray_similarity_http_latency_ms_count", path="/v1/score") == 86
    assert total("ray_similarity_requests_total", experiment="split", arm="fast", code="ok") == 20
    assert total("ray_similarity_latency_ms_count", experiment="split", arm="fast") == 20
    assert total("ray_similarity_errors_total", model="broken", code="model_load_failed") == 1
    assert total("ray_similarity_items_total", model="fast", code="ok") == 20
    assert total("ray_similarity_items_total", model="fast", code="text_empty") == 20
    of_fast = {"model": "fast", "metric": "cosine", "arm": "fast"}
    assert total("ray_similarity_scores_total", **of_fast, le="+Inf") == 20
    assert total("ray_similarity_scores_total", **of_fast, le="1") == 20
    assert total("ray_similarity_refused_total", code="unauthorized", key="") >= 1
    assert total("ray_similarity_queue_ms_count", model="slow") >= 64
    assert total("ray_similarity_cache_hits_total", cache="batch") > 0
    assert total("ray_similarity_cache_misses_total", cache="batch") > 0
    assert total("ray_similarity_cache_hits_total", cache="weights", model="far") == 1
    assert total("ray_similarity_cache_misses_total", cache="weights", model="far") == 1
    assert total("ray_similarity_loads_total", model="far", code="ok", pool="default") == 2
    assert total("ray_similarity_loads_total", model="broken", code="model_load_failed") >= 1
    assert total("ray_similarity_resident_bytes", model="slow") >= 1000
    assert total("ray_similarity_revisions", model="far", state="active") == 1


def test_what_alerts_and_dashboard_read_is_exported(app: Running) -> None:
    there = Scraped(app.name).names()
    read = {name for expression in expressions() for name, _ in series_of(expression)}
    assert read - {name for it in ELSEWHERE for name in exported(it)} <= there


@pytest.mark.slow
def test_gauges_stay_while_nothing_happens(app: Running) -> None:
    """Ray forgets a gauge some 20 s after it was set; the alert on faults waits for minutes."""
    scraped = Scraped(app.name)
    gauges = {f"ray_{name}" for name, it in INSTRUMENTS.items() if it.kind == "gauge"} - {
        f"ray_{name}" for name in ELSEWHERE
    }
    for _ in range(9):
        assert gauges <= scraped.names()
        time.sleep(5)
