"""What a replica holds, on a real pool with the shipped fakes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from serve_app.engine.loading import model_loader
from serve_app.engine.parity import UNCHECKED
from serve_app.engine.pool import ModelPool, PoolListeners
from serve_app.engine.residents import Residents
from serve_app.errors import ModelLoadError, ModelReplacedError
from serve_app.models.factory import SimilarityModelFactory
from serve_app.models.snapshot import ResolvedModel
from tests.unit.engine.conftest import resolved


class Replica:
    """A pool, its residents, and what was told."""

    def __init__(self, **options: Any) -> None:
        self.pool = ModelPool(model_loader(SimilarityModelFactory()), **options)
        self.told = 0
        self.announced: list[dict[str, tuple[str, int]]] = []
        self.residents = Residents(self.pool, self._changed, self._announce)

    def _changed(self) -> None:
        self.told += 1

    async def _announce(self) -> None:
        self.announced.append(self.states())

    def states(self, *models: ResolvedModel) -> dict[str, tuple[str, int]]:
        held = self.residents.states(KNOWN)
        return {key.partition("@")[0]: (item.state, item.attempt) for key, item in held.items()}


NAMES = ("a", "b", "c", "new", "broken")
A, B, C = resolved("a"), resolved("b"), resolved("c")
BROKEN = resolved("broken", options={"fail_load": "no such file"})
KNOWN = [f"{name}@00000001" for name in NAMES] + ["a@00000002"]


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not true():
            await asyncio.sleep(0.002)


async def test_what_is_wanted_is_loaded_and_told() -> None:
    replica = Replica()
    replica.residents.want([A, B], {})
    await until(lambda: replica.states() == {"a": ("ready", 0), "b": ("ready", 0)})
    await until(lambda: replica.told == 2)
    assert replica.residents.states(KNOWN)[A.id].note == UNCHECKED


async def test_a_candidate_is_announced_before_it_is_tried_and_tried_once_an_attempt() -> None:
    replica = Replica()
    replica.residents.want([A], {BROKEN: 1})
    await until(lambda: replica.states().get("broken") == ("failed", 1))
    assert replica.announced[0]["broken"] == ("loading", 1)
    replica.residents.want([A], {BROKEN: 1})
    await asyncio.sleep(0.02)
    assert len(replica.announced) == 1
    assert replica.pool.load_counts()[BROKEN.id] == 1
    replica.residents.want([A], {BROKEN: 2})
    await until(lambda: replica.states().get("broken") == ("failed", 2))
    assert replica.pool.load_counts()[BROKEN.id] == 2, "the pool's own back-off does not count"
    held = replica.residents.states(KNOWN)[BROKEN.id]
    assert held.reason is not None and "no such file" in held.reason
    assert replica.states()["a"] == ("ready", 0)


async def test_what_was_unloaded_is_tried_again_under_the_number_it_had() -> None:
    """A control plane that has lost its history begins to count anew."""
    replica = Replica()
    new = resolved("new")
    replica.residents.want([], {new: 1})
    await until(lambda: replica.states() == {"new": ("ready", 1)})
    replica.residents.want([], {})
    replica.pool.keep_only([])
    await until(lambda: replica.states() == {})
    replica.residents.want([], {new: 1})
    await until(lambda: replica.states() == {"new": ("ready", 1)})


async def test_a_candidate_that_nobody_wants_any_longer_is_given_up() -> None:
    replica = Replica()
    slow = resolved("new", options={"hang_load_s": 0.2})
    replica.residents.want([], {slow: 1})
    await until(lambda: replica.states() == {"new": ("loading", 1)})
    replica.residents.want([], {})
    replica.pool.keep_only([])
    await until(lambda: replica.states() == {})


async def test_at_the_start_only_the_needed_model_may_not_fail() -> None:
    replica = Replica()
    await replica.residents.load([A, BROKEN, B], needed=A.id)
    assert {name: state for name, (state, _) in replica.states().items()} == {
        "a": "ready",
        "b": "ready",
        "broken": "failed",
    }
    with pytest.raises(ModelLoadError):
        await Replica().residents.load([BROKEN, A], needed=BROKEN.id)


def _successor(**changes: Any) -> ResolvedModel:
    made = resolved("a", rollout="recreate", **changes)
    return ResolvedModel(made.name, "00000002", made.spec, made.placement)


async def test_where_two_do_not_fit_the_old_one_makes_room_first() -> None:
    replica = Replica(memory_bytes=1500)  # each takes 1000
    replica.pool.set_pinned([A.id])
    replica.residents.want([A], {})
    await until(lambda: replica.states() == {"a": ("ready", 0)})
    new = _successor()
    replica.pool.set_pinned([A.id, new.id])
    replica.residents.want([A], {new: 1})
    await until(lambda: [info.id for info in replica.pool.resident()] == [new.id])

    async def use() -> None:
        async with replica.pool.lease(A):
            pass

    waiting = asyncio.create_task(use())
    await asyncio.sleep(0.02)
    assert not waiting.done()
    replica.pool.set_pinned([new.id])
    replica.residents.want([new], {})  # now it answers
    with pytest.raises(ModelReplacedError):
        await waiting


async def test_where_the_new_one_is_taken_back_it_makes_room_for_the_old_one() -> None:
    """It was loaded here, and failed on another replica: the two must not be here together."""
    journal: list[str] = []
    replica = Replica(
        memory_bytes=1500,
        listeners=PoolListeners(
            on_loading=lambda key: journal.append(f"load {key}"),
            on_unloaded=lambda key: journal.append(f"unload {key}"),
        ),
    )
    replica.residents.want([A], {})
    await until(lambda: replica.states() == {"a": ("ready", 0)})
    new = _successor()
    replica.residents.want([A], {new: 1})
    await until(lambda: [info.id for info in replica.pool.resident()] == [new.id])
    replica.residents.want([A], {})
    await until(lambda: [info.id for info in replica.pool.resident()] == [A.id])
    assert journal == [
        f"load {A.id}",
        f"unload {A.id}",
        f"load {new.id}",
        f"unload {new.id}",
        f"load {A.id}",
    ]


async def test_where_the_new_one_fails_the_old_one_is_loaded_again() -> None:
    replica = Replica(memory_bytes=1500)
    replica.residents.want([A], {})
    await until(lambda: replica.states() == {"a": ("ready", 0)})
    new = _successor(options={"fail_load": "no such file"})

    async def use() -> str:
        async with replica.pool.lease(A) as loaded:
            return loaded.info.id

    replica.residents.want([A], {new: 1})
    await until(lambda: replica.residents.states(KNOWN).get(new.id) is not None)
    assert await asyncio.wait_for(use(), 5) == A.id
    await until(lambda: replica.residents.states(KNOWN)[new.id].state == "failed")
