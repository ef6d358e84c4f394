from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from serve_app.engine.batcher import BatchOutcome, MicroBatcher
from serve_app.engine.coalescing import CoalescingPolicy
from serve_app.engine.lanes import Lane
from serve_app.engine.permit import DevicePermit
from serve_app.errors import OverloadedError
from serve_app.types import ItemFault


class Doubler:
    """A lane that doubles numbers, keeps its batches, and can be held while it computes."""

    def __init__(self, capacity: int = 8) -> None:
        self.batches: list[list[Any]] = []
        self.entered = threading.Event()
        self.gate = threading.Event()
        self.gate.set()
        self.lane = Lane(capacity, self, lambda item: item)

    def __call__(self, items: Sequence[Any]) -> list[Any]:
        self.batches.append(list(items))
        self.entered.set()
        assert self.gate.wait(10)
        if "poison" in items:
            raise RuntimeError("poison")
        if "exit" in items:
            raise SystemExit(3)
        if "short" in items and len(items) > 1:
            return items[1:]
        return [item * 2 for item in items]


@pytest.fixture
def doubler() -> Doubler:
    return Doubler()


@pytest.fixture
async def permit() -> AsyncIterator[DevicePermit]:
    made = DevicePermit()
    yield made
    made.close()


@pytest.fixture
def batcher(doubler: Doubler, permit: DevicePermit) -> MicroBatcher:
    return MicroBatcher({"x": doubler.lane}, permit, policy=CoalescingPolicy(0))


def results(outcome: BatchOutcome) -> list[Any]:
    return outcome.results["x"]


async def entered(doubler: Doubler) -> None:
    assert await asyncio.to_thread(doubler.entered.wait, 10)


async def submitted(batcher: MicroBatcher, *requests: Sequence[Any]) -> list[asyncio.Task[Any]]:
    tasks = [asyncio.create_task(batcher.submit({"x": items})) for items in requests]
    await asyncio.sleep(0)
    return tasks


async def test_an_idle_device_starts_at_once(batcher: MicroBatcher, doubler: Doubler):
    assert results(await batcher.submit({"x": [1]})) == [2]
    assert results(await batcher.submit({"x": [2, 3]})) == [4, 6]
    assert doubler.batches == [[1], [2, 3]]
    assert batcher.waiting == 0


async def test_what_arrives_while_the_device_is_busy_is_one_batch(
    batcher: MicroBatcher, doubler: Doubler
):
    doubler.gate.clear()
    first = asyncio.create_task(batcher.submit({"x": [0]}))
    await entered(doubler)
    others = await submitted(batcher, [1], [2, 3], [4])
    assert batcher.waiting == 4
    doubler.gate.set()
    assert [results(o) for o in await asyncio.gather(first, *others)] == [[0], [2], [4, 6], [8]]
    assert doubler.batches == [[0], [1, 2, 3, 4]]
    assert (batcher.statistics.batches, batcher.statistics.largest) == (2, {"x": 4})


async def test_equal_items_of_different_requests_are_computed_once(
    batcher: MicroBatcher, doubler: Doubler
):
    doubler.gate.clear()
    first = asyncio.create_task(batcher.submit({"x": [0]}))
    await entered(doubler)
    others = await submitted(batcher, [7, 1], [1, 7], [7])
    doubler.gate.set()
    await first
    assert [results(o) for o in await asyncio.gather(*others)] == [[14, 2], [2, 14], [14]]
    assert doubler.batches[1:] == [[7, 1]]


async def test_a_large_request_does_not_keep_small_ones_waiting(
    batcher: MicroBatcher, doubler: Doubler
):
    doubler.gate.clear()
    first = asyncio.create_task(batcher.submit({"x": [0]}))
    await entered(doubler)
    large, *small = await submitted(batcher, list(range(100, 140)), [1], [2], [3, 4])
    doubler.gate.set()
    await first
    assert results(await large) == [2 * item for item in range(100, 140)]
    assert [results(await task) for task in small] == [[2], [4], [6, 8]]
    assert max(map(len, doubler.batches)) == 8
    assert doubler.batches[1] == [100, 101, 102, 103, 1, 2, 3, 4]
    assert len(doubler.batches) == 1 + 6  # 44 items in batches of 8: none is left half empty


async def test_lanes_share_a_batch_and_each_keeps_its_capacity(permit: DevicePermit):
    images, texts = Doubler(2), Doubler(8)
    batcher = MicroBatcher({"image": images.lane, "text": texts.lane}, permit)
    outcome = await batcher.submit({"image": [1, 2, 3], "text": [4, 5, 6, 7]})
    assert outcome.results == {"image": [2, 4, 6], "text": [8, 10, 12, 14]}
    assert images.batches == [[1, 2], [3]]
    assert texts.batches == [[4, 5, 6, 7]]
    assert batcher.statistics.batches == 2
    assert (await batcher.submit({"image": [], "text": [1]})).results == {"image": [], "text": [2]}
    assert (await batcher.submit({"image": [], "text": []})).results == {"image": [], "text": []}


@pytest.mark.parametrize("bad", ["poison", "exit"])
async def test_a_bad_item_is_its_own_fault(batcher: MicroBatcher, doubler: Doubler, bad: str):
    doubler.gate.clear()
    first = asyncio.create_task(batcher.submit({"x": [0]}))
    await entered(doubler)
    tasks = await submitted(batcher, [1, 2, 3], [4, bad], [5])
    doubler.gate.set()
    await first
    got = [results(await task) for task in tasks]
    assert got[0] == [2, 4, 6]
    assert got[2] == [10]
    assert got[1][0] == 8
    assert isinstance(got[1][1], ItemFault)
    assert got[1][1].code == "model_failed"
    assert results(await batcher.submit({"x": [9]})) == [18]


async def test_a_wrong_number_of_results_is_a_failure_of_the_batch(batcher: MicroBatcher):
    assert results(await batcher.submit({"x": [1, "short", 2]})) == [2, "shortshort", 4]


async def test_an_error_outside_the_model_harms_only_its_batch(
    batcher: MicroBatcher, doubler: Doubler, permit: DevicePermit
):
    permit.close()  # its thread takes no more work: the next batch fails
    (fault,) = results(await batcher.submit({"x": [1]}))
    assert isinstance(fault, ItemFault)
    (fault,) = results(await batcher.submit({"x": [2]}))
    assert fault.code == "model_failed"
    assert doubler.batches == []


async def test_too_much_waiting_is_refused_but_never_a_request_that_is_alone(
    doubler: Doubler, permit: DevicePermit
):
    batcher = MicroBatcher({"x": doubler.lane}, permit, max_waiting=5)
    doubler.gate.clear()
    first = asyncio.create_task(batcher.submit({"x": [0]}))
    await entered(doubler)
    (large,) = await submitted(batcher, list(range(1, 10)))
    with pytest.raises(OverloadedError, match="9 images and texts are waiting"):
        await batcher.submit({"x": [11]})
    doubler.gate.set()
    await asyncio.gather(first, large)
    assert results(await batcher.submit({"x": [11]})) == [22]


async def test_cancelled_requests_are_dropped_before_they_run(
    batcher: MicroBatcher, doubler: Doubler
):
    doubler.gate.clear()
    first = asyncio.create_task(batcher.submit({"x": [0]}))
    await entered(doubler)
    gone, kept = await submitted(batcher, [1, 2], [3])
    gone.cancel()
    await asyncio.gather(gone, return_exceptions=True)
    assert batcher.waiting == 1
    doubler.gate.set()
    await first
    assert results(await kept) == [6]
    assert doubler.batches == [[0], [3]]
    assert batcher.waiting == 0


async def test_cancelling_the_running_request_leaves_the_batcher_at_work(
    batcher: MicroBatcher, doubler: Doubler
):
    doubler.gate.clear()
    first = asyncio.create_task(batcher.submit({"x": list(range(20))}))
    await entered(doubler)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    (second,) = await submitted(batcher, [50])
    doubler.gate.set()
    assert results(await second) == [100]
    assert doubler.batches == [list(range(8)), [50]]
    assert batcher.waiting == 0


async def test_two_busy_models_take_turns_on_the_device(permit: DevicePermit):
    order: list[str] = []
    gate = threading.Event()

    def lane(name: str) -> Lane:
        def compute(items: Sequence[Any]) -> list[Any]:
            assert gate.wait(10)
            order.append(name)
            return list(items)

        return Lane(2, compute, id)

    batchers = [MicroBatcher({"x": lane(name)}, permit) for name in "ab"]
    items = [[object() for _ in range(6)] for _ in batchers]
    tasks = [
        asyncio.create_task(batcher.submit({"x": each}))
        for batcher, each in zip(batchers, items, strict=True)
    ]
    await asyncio.sleep(0)
    gate.set()
    outcomes = await asyncio.gather(*tasks)
    assert [results(outcome) for outcome in outcomes] == items
    assert "".join(order) == "ababab"


async def test_the_policy_makes_the_next_batch_wait_for_what_is_about_to_come(
    doubler: Doubler, permit: DevicePermit
):
    # Four were answered just now; one is back at once and three a little later.
    policy = CoalescingPolicy(fraction=1)
    policy.ended(4, took=1e9, now=time.perf_counter())
    batcher = MicroBatcher({"x": doubler.lane}, permit, policy=policy)
    (first,) = await submitted(batcher, [1])
    for _ in range(5):
        await asyncio.sleep(0)
    assert doubler.batches == []
    others = await submitted(batcher, [2], [3], [4])
    await asyncio.gather(first, *others)
    assert doubler.batches == [[1, 2, 3, 4]]


async def test_a_full_batch_never_waits(doubler: Doubler, permit: DevicePermit):
    policy = CoalescingPolicy(fraction=1)
    policy.ended(100, took=1e9, now=time.perf_counter())
    batcher = MicroBatcher({"x": doubler.lane}, permit, policy=policy)
    assert results(await batcher.submit({"x": list(range(8))})) == [2 * item for item in range(8)]


async def test_a_wait_in_vain_ends(doubler: Doubler, permit: DevicePermit):
    policy = CoalescingPolicy(fraction=1)
    policy.ended(100, took=0.01, now=time.perf_counter())
    batcher = MicroBatcher({"x": doubler.lane}, permit, policy=policy)
    assert results(await batcher.submit({"x": [1]})) == [2]


def test_the_policy_never_waits_when_idle_or_alone():
    policy = CoalescingPolicy(fraction=0.05)
    assert policy.wait(1, now=0.0) == 0
    policy.ended(1, took=1.0, now=1.0)
    assert policy.wait(1, now=1.0) == 0  # nobody else was answered
    policy.ended(8, took=1.0, now=2.0)
    assert policy.wait(1, now=2.0) == pytest.approx(0.05)
    assert policy.wait(7, now=2.03) == pytest.approx(0.02)
    assert policy.wait(8, now=2.03) == 0  # all are back
    policy.ended(8, took=1.0, now=3.0)
    assert policy.wait(1, now=4.0) == 0  # idle since long


def test_waits_in_vain_become_rare_and_a_good_one_makes_them_usual_again():
    policy = CoalescingPolicy(fraction=0.05)
    waits = []
    for now in range(40):
        policy.ended(8, took=1.0, now=float(now))
        waits.append(policy.wait(1, now=float(now)) > 0)
        assert policy.wait(1, now=now + 0.06) == 0  # nobody came
    assert [now for now, waited in enumerate(waits) if waited] == [0, 2, 5, 10, 19, 36]
    for now in range(40, 80):
        policy.ended(8, took=1.0, now=float(now))
        if policy.wait(1, now=float(now)) > 0:
            assert policy.wait(8, now=now + 0.01) == 0  # all came
            break
    policy.ended(8, took=1.0, now=100.0)
    assert policy.wait(1, now=100.0) > 0


def test_the_policy_without_a_fraction_never_waits():
    policy = CoalescingPolicy(fraction=0)
    policy.ended(8, took=1.0, now=1.0)
    assert policy.wait(1, now=1.0) == 0
