"""More models than fit, in random order: what was loaded and unloaded when, on a real service."""

from __future__ import annotations

import json
import random
from collections import Counter, OrderedDict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from serve_app.bench.live_service import LiveService
from tests.integration.support import drawing, uri

pytestmark = pytest.mark.slow

_MODELS = 9
_FIT = 5
_REQUESTS = 2000
_CLIENTS = 8
_IMAGE = uri(drawing(size=(32, 24)))


@pytest.fixture(params=[1, 2], ids=["one replica", "two replicas"])
def crowded(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[LiveService]:
    """The default model and nine others, of which five fit besides it."""
    journal = tmp_path / "journal"

    def spec(number: int) -> dict[str, Any]:
        options = {"bytes": 1000, "version": number, "delay_ms": 1, "journal": str(journal)}
        return {"backend": "serve_app.testing:FakeDualEncoder", "options": options}

    models = {"home": spec(0)} | {f"m{number}": spec(number) for number in range(1, _MODELS + 1)}
    pool = {"gpus": 0, "cpus": 0.1, "replicas": request.param, "memory_bytes": 1000 * (1 + _FIT)}
    with LiveService(models, args={"pools": [pool]}) as service:
        yield service


def test_models_that_do_not_all_fit_are_loaded_once_at_a_time_and_never_unloaded_in_use(
    crowded: LiveService, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    chance = random.Random(0)
    order = [chance.randint(1, _MODELS) for _ in range(_REQUESTS)]

    def ask(number: int) -> tuple[int, str]:
        body = {"model": f"m{number}", "images": [_IMAGE], "texts": ["a red circle"]}
        answer = crowded.http.post("/v1/score", json=body)
        return answer.status_code, answer.text

    with ThreadPoolExecutor(_CLIENTS) as clients:
        answers = list(clients.map(ask, order))
    assert [text for status, text in answers if status != 200] == []
    events = [json.loads(line) for line in (tmp_path / "journal").read_text().splitlines()]
    replicas = {event["pid"] for event in events}
    loads = 0
    for pid in replicas:
        loads += _check([event for event in events if event["pid"] == pid])
    assert loads >= _MODELS
    if len(replicas) == 1:
        assert loads <= 1.1 * _least_recently_used(order, _FIT)


def _check(events: Sequence[dict[str, Any]]) -> int:
    """One replica's events; returns how often a model was loaded, the default's load aside."""
    loading: set[int] = set()
    loaded: set[int] = set()
    computing: Counter[int] = Counter()
    loads = 0
    for event in events:
        model, kind = event["model"], event["event"]
        if kind == "load":
            assert model not in loading, f"{model} is loaded twice at a time"
            assert model not in loaded, f"{model} is loaded though it is there"
            loading.add(model)
            loads += model != 0
        elif kind == "loaded":
            loading.remove(model)
            loaded.add(model)
            assert len(loaded) <= 1 + _FIT + 1, "one more than fits, while it is loaded"
        elif kind == "begin":
            computing[model] += 1
        elif kind == "end":
            computing[model] -= 1
        elif kind == "unload":
            assert computing[model] == 0, f"{model} is unloaded while it computes"
            assert model != 0, "the default model is resident"
            loaded.discard(model)
    return loads


def _least_recently_used(order: Sequence[int], size: int) -> int:
    """Loads of an ideal cache that sees one request after the other."""
    held: OrderedDict[int, None] = OrderedDict()
    loads = 0
    for model in order:
        if model not in held:
            loads += 1
            if len(held) == size:
                held.popitem(last=False)
        held[model] = None
        held.move_to_end(model)
    return loads
