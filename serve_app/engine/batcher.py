"""Makes batches out of concurrent requests for one model; knows no metric and no transport.

The rule: when the device is idle, start at once with what is there; while it is busy, collect.
There is no window in which an idle device waits (see `coalescing` for the small exception right
after a batch). A request takes part with each of its items, so batches are counted in images and
texts, not in requests.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from serve_app.engine.coalescing import CoalescingPolicy
from serve_app.engine.lanes import Lane
from serve_app.engine.observer import BatchRun
from serve_app.engine.permit import DevicePermit
from serve_app.engine.poison import run_poison_proof
from serve_app.errors import ModelFailedError, OverloadedError
from serve_app.types import ItemFault

logger = logging.getLogger("serve_app.engine")


@dataclass(frozen=True, slots=True)
class BatchOutcome:
    """What became of one request's items.

    Attributes:
        results: Lane → per item, in order: the lane's result, or the item's `ItemFault`.
        queue_ms: Milliseconds in which nothing of the request was computed.
        model_ms: Milliseconds of the batches that had its items.
    """

    results: Mapping[str, list[Any]]
    queue_ms: float
    model_ms: float


@dataclass(slots=True)
class BatchStatistics:
    """What a batcher has run: batches, items per lane, and the largest batch per lane."""

    batches: int = 0
    items: dict[str, int] = field(default_factory=dict)
    largest: dict[str, int] = field(default_factory=dict)


class _Job:
    """One request's items and what is known of them so far."""

    def __init__(
        self,
        items: Mapping[str, Sequence[Any]],
        lanes: Mapping[str, Lane],
        done: asyncio.Future[None],
    ) -> None:
        self.items = items
        self.keys = {lane: [lanes[lane].key(item) for item in i] for lane, i in items.items()}
        self.results: dict[str, list[Any]] = {lane: [None] * len(i) for lane, i in items.items()}
        self.taken = dict.fromkeys(items, 0)  # items before this index are in a batch or done
        self.missing = sum(map(len, items.values()))
        self.model_s = 0.0
        self.done = done

    def put(self, lane: str, index: int, result: Any) -> None:
        """Notes one item's result; the last one completes the job."""
        self.results[lane][index] = result
        self.missing -= 1
        if self.missing == 0 and not self.done.done():
            self.done.set_result(None)


@dataclass(slots=True)
class _LaneBatch:
    """Distinct items of one lane, and who waits for each."""

    items: list[Any] = field(default_factory=list)
    owners: list[list[tuple[_Job, int]]] = field(default_factory=list)


class MicroBatcher:
    """Batches one model's items; all methods belong to one event loop.

    Args:
        lanes: What the model can batch, by name.
        permit: The device, shared with the other models of the replica.
        max_waiting: Most items that wait; a request that finds the queue empty is always taken.
        policy: When to wait for more after a batch.
        on_batch: Is told of every batch that was computed; quick, and never raises.
    """

    def __init__(
        self,
        lanes: Mapping[str, Lane],
        permit: DevicePermit,
        max_waiting: int = 1024,
        policy: CoalescingPolicy | None = None,
        on_batch: Callable[[BatchRun], None] | None = None,
    ) -> None:
        self._on_batch = on_batch
        self.statistics = BatchStatistics()
        self._lanes = lanes
        self._permit = permit
        self._max_waiting = max_waiting
        self._policy = policy or CoalescingPolicy()
        self._queues: dict[str, deque[_Job]] = {lane: deque() for lane in lanes}
        self._waiting = dict.fromkeys(lanes, 0)  # items
        self._jobs: set[_Job] = set()
        self._arrived = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def waiting(self) -> int:
        """Items that wait for the device."""
        return sum(self._waiting.values())

    async def submit(self, items: Mapping[str, Sequence[Any]]) -> BatchOutcome:
        """Computes items together with those of other requests.

        Args:
            items: Lane → items. What is cancelled before it runs is never computed.

        Raises:
            OverloadedError: Too many items are waiting.
        """
        count = sum(map(len, items.values()))
        if count == 0:
            return BatchOutcome({lane: [] for lane in items}, 0.0, 0.0)
        if self.waiting and self.waiting + count > self._max_waiting:
            raise OverloadedError(
                f"{self.waiting} images and texts are waiting for this model, and {count} more "
                f"would pass the bound of {self._max_waiting}; try again later."
            )
        job = _Job(items, self._lanes, asyncio.get_running_loop().create_future())
        started = time.perf_counter()
        self._jobs.add(job)
        for lane, lane_items in items.items():
            if lane_items:
                self._queues[lane].append(job)
                self._waiting[lane] += len(lane_items)
        self._wake()
        try:
            await job.done
        finally:
            self._jobs.discard(job)
            for lane, lane_items in items.items():
                # What was not taken was cancelled; `_form` drops it.
                self._waiting[lane] -= len(lane_items) - job.taken[lane]
        queue_s = max(0.0, time.perf_counter() - started - job.model_s)
        return BatchOutcome(job.results, 1000 * queue_s, 1000 * job.model_s)

    def _wake(self) -> None:
        self._arrived.set()
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        """Runs batches until nothing waits; the next arrival starts it again."""
        while self.waiting:
            await self._linger()
            async with self._permit.turn():
                # Formed only now: what arrived while another model had the device is in it.
                batch = self._form()
                if batch:
                    await self._dispatch(batch)
            # Those who got results run before the next batch is formed, so that what they send
            # next can be in it.
            await asyncio.sleep(0)

    async def _linger(self) -> None:
        """Waits for a full batch or for those who were just answered, if the policy says so."""
        while not self._full():
            pause = self._policy.wait(len(self._jobs), time.perf_counter())
            if pause <= 0:
                return
            self._arrived.clear()
            try:
                async with asyncio.timeout(pause):
                    await self._arrived.wait()
            except TimeoutError:
                continue  # the policy learns that the wait was in vain

    def _full(self) -> bool:
        return any(self._waiting[name] >= lane.capacity for name, lane in self._lanes.items())

    def _form(self) -> dict[str, _LaneBatch]:
        batch = {lane: self._form_lane(lane) for lane in self._lanes}
        return {lane: lane_batch for lane, lane_batch in batch.items() if lane_batch.items}

    def _form_lane(self, name: str) -> _LaneBatch:
        lane, queue, batch = self._lanes[name], self._queues[name], _LaneBatch()
        rows: dict[Hashable, int] = {}
        # In turn, a request gives at most half a batch and goes to the back: a large one cannot
        # keep small ones waiting, and the batch is filled all the same.
        quantum = max(1, lane.capacity // 2)
        while queue and len(batch.items) < lane.capacity:
            job = queue.popleft()
            if job.done.done():  # cancelled
                continue
            items, keys, index = job.items[name], job.keys[name], job.taken[name]
            stop = min(len(items), index + quantum)
            while index < stop:
                row = rows.get(keys[index])
                if row is None:
                    if len(batch.items) == lane.capacity:
                        break
                    row = rows[keys[index]] = len(batch.items)
                    batch.items.append(items[index])
                    batch.owners.append([])
                batch.owners[row].append((job, index))
                index += 1
            self._waiting[name] -= index - job.taken[name]
            unfinished_turn = index < stop
            job.taken[name] = index
            if unfinished_turn:
                queue.appendleft(job)
            elif index < len(items):
                queue.append(job)
        return batch

    async def _dispatch(self, batch: dict[str, _LaneBatch]) -> None:
        def compute() -> dict[str, list[Any]]:
            return {
                lane: run_poison_proof(self._lanes[lane].compute, lane_batch.items)
                for lane, lane_batch in batch.items()
            }

        started = time.perf_counter()
        try:
            results = await self._permit.run(compute)
        except Exception as error:
            # Whatever it is, it must not end the loop: later requests would wait for ever.
            logger.exception("a batch failed outside the model")
            fault = ItemFault(ModelFailedError.code, f"The batch failed ({type(error).__name__}).")
            results = {lane: [fault] * len(each.items) for lane, each in batch.items()}
        ended = time.perf_counter()
        self._policy.ended(len(self._jobs), ended - started, ended)
        self._note(batch, ended - started)
        for job in _jobs(batch):
            job.model_s += ended - started
        for lane, lane_batch in batch.items():
            for result, owners in zip(results[lane], lane_batch.owners, strict=True):
                for job, index in owners:
                    job.put(lane, index, result)

    def _note(self, batch: dict[str, _LaneBatch], seconds: float) -> None:
        statistics = self.statistics
        statistics.batches += 1
        if self._on_batch is not None:
            computed = {lane: len(lane_batch.items) for lane, lane_batch in batch.items()}
            owners = sum(len(own) for lane_batch in batch.values() for own in lane_batch.owners)
            self._on_batch(BatchRun(computed, owners - sum(computed.values()), seconds))
        for lane, lane_batch in batch.items():
            size = len(lane_batch.items)
            statistics.items[lane] = statistics.items.get(lane, 0) + size
            statistics.largest[lane] = max(statistics.largest.get(lane, 0), size)


def _jobs(batch: dict[str, _LaneBatch]) -> set[_Job]:
    return {
        job for lane_batch in batch.values() for owners in lane_batch.owners for job, _ in owners
    }
