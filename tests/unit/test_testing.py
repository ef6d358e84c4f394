"""The shipped fakes do what their options say."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serve_app.errors import ModelLoadError
from serve_app.models.base import Placement
from serve_app.models.factory import SimilarityModelFactory
from serve_app.testing import FakeModel, fake_spec

PAIR = (np.full((8, 8, 3), 200, dtype=np.uint8), "a red square")


def make(backend: str = "FakeDualEncoder", **options: Any) -> FakeModel:
    model = SimilarityModelFactory().create(fake_spec(backend, options=options), Placement())
    assert isinstance(model, FakeModel)
    return model


def events(journal: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in journal.read_text().splitlines()]


def test_out_of_memory() -> None:
    with pytest.raises(MemoryError):
        make(out_of_memory=True).load()


def test_it_kills_its_process() -> None:
    program = (
        "from serve_app.models.base import Placement\n"
        "from serve_app.testing import FakeDualEncoder, fake_spec\n"
        "FakeDualEncoder(fake_spec(options={'kill_process': True}), Placement()).load()\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], check=False)
    assert ended.returncode == -signal.SIGKILL


@pytest.mark.parametrize(
    ("backend", "metric"), [("FakeDualEncoder", "cosine"), ("FakePairScorer", "match")]
)
def test_drift_moves_every_score(backend: str, metric: str) -> None:
    (before,) = make(backend).compute_similarity([PAIR])
    (after,) = make(backend, drift=0.125).compute_similarity([PAIR])
    assert after[metric] == pytest.approx(before[metric] + 0.125)


@pytest.mark.parametrize("backend", ["FakeDualEncoder", "FakePairScorer"])
def test_the_journal_has_every_event_in_order(backend: str, tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    began = time.time()
    model = make(backend, journal=str(journal), version=7)
    model.load()
    model.compute_similarity([PAIR])
    model.unload()
    found = events(journal)
    kinds = [event["event"] for event in found]
    assert kinds[:3] == ["load", "loaded", "begin"]
    assert kinds[-2:] == ["end", "unload"]
    assert {(event["model"], event["pid"]) for event in found} == {(7, os.getpid())}
    times = [event["at"] for event in found]
    assert times == sorted(times)
    assert began <= times[0] <= times[-1] <= time.time()


def test_the_journal_tells_of_a_load_that_fails(tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    with pytest.raises(ModelLoadError):
        make(journal=str(journal), label="broken", fail_load=True).load()
    assert [(event["event"], event["model"]) for event in events(journal)] == [("load", "broken")]
