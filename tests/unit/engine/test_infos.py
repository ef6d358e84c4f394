from __future__ import annotations

import asyncio
from typing import Any

import pytest

from serve_app.engine.infos import ModelInfos
from serve_app.errors import ModelLoadError


class Oracle:
    """Answers with a number that grows by each question, once it is allowed to."""

    def __init__(self) -> None:
        self.asked = 0
        self.open = asyncio.Event()
        self.error: Exception | None = None

    async def describe(self, model_id: str) -> Any:
        self.asked += 1
        await self.open.wait()
        if self.error is not None:
            raise self.error
        return self.asked


async def test_one_question_for_all_even_if_the_first_gives_up():
    oracle = Oracle()
    infos = ModelInfos(oracle.describe)
    tasks = [asyncio.create_task(infos.get("a@1")) for _ in range(3)]
    await asyncio.sleep(0)
    tasks[0].cancel()
    oracle.open.set()
    done = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(done[0], asyncio.CancelledError)
    assert done[1:] == [1, 1]
    assert await infos.get("a@1") == infos.known("a@1") == 1
    assert infos.known("b@1") is None


async def test_failures_are_not_kept():
    oracle = Oracle()
    oracle.open.set()
    oracle.error = ModelLoadError("no")
    infos = ModelInfos(oracle.describe)
    with pytest.raises(ModelLoadError):
        await infos.get("a@1")
    oracle.error = None
    assert await infos.get("a@1") == 2


async def test_models_that_are_no_longer_declared_are_forgotten():
    oracle = Oracle()
    oracle.open.set()
    infos = ModelInfos(oracle.describe)
    await infos.get("a@1")
    await infos.get("b@1")
    infos.keep_only(["b@1"])
    assert infos.known("a@1") is None
    assert infos.known("b@1") == 2
