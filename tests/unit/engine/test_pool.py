from __future__ import annotations

import asyncio
import gc
import logging
import pickle
import threading
import weakref
from collections.abc import AsyncIterator
from typing import Any

import pytest

from serve_app.engine.loading import LoadedModel
from serve_app.engine.pool import ModelPool, PoolListeners
from serve_app.errors import (
    ModelLoadError,
    ModelTooLargeError,
    NotReadyError,
)
from serve_app.models.registry import ResolvedModel
from tests.unit.engine.conftest import RecordingLoader, resolved


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Bench:
    """A pool with an injected clock, a loader that can be held, and what its listeners heard."""

    def __init__(self, memory_bytes: int | None = None, **options: Any) -> None:
        self.clock = Clock()
        self.load = RecordingLoader()
        self.loads: list[str] = []
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()
        self.heard: list[tuple[str, str]] = []
        self.pool = ModelPool(
            self._load,
            memory_bytes,
            listeners=PoolListeners(
                lambda model_id: self.heard.append(("loading", model_id)),
                lambda model_id: self.heard.append(("loaded", model_id)),
                lambda model_id: self.heard.append(("unloaded", model_id)),
            ),
            clock=self.clock,
            **options,
        )

    def _load(self, model: ResolvedModel) -> LoadedModel:
        self.loads.append(model.name)
        self.entered.set()
        assert self.gate.wait(10)
        return self.load(model)

    async def use(self, *models: ResolvedModel) -> None:
        for model in models:
            async with self.pool.lease(model):
                pass

    def resident(self) -> list[str]:
        return [info.id.partition("@")[0] for info in self.pool.resident()]


@pytest.fixture
async def make() -> AsyncIterator[Any]:
    benches: list[Bench] = []

    def build(memory_bytes: int | None = None, **options: Any) -> Bench:
        benches.append(Bench(memory_bytes, **options))
        return benches[-1]

    yield build
    for bench in benches:
        bench.gate.set()
        await bench.pool.close()


def sized(name: str, size: int, **changes: Any) -> ResolvedModel:
    """A model whose bytes are known only once it is loaded."""
    return resolved(name, options={"bytes": size, **changes})


def declared(name: str, size: int, **options: Any) -> ResolvedModel:
    return resolved(name, performance={"bytes": size}, options=options)


BROKEN = resolved("broken", options={"fail_load": "no such file"})


async def test_concurrent_cold_requests_load_once(make: Any):
    bench = make()
    bench.gate.clear()
    model = resolved()

    async def use() -> LoadedModel:
        async with bench.pool.lease(model) as loaded:
            return loaded

    tasks = [asyncio.create_task(use()) for _ in range(8)]
    await asyncio.to_thread(bench.entered.wait, 10)
    assert bench.pool.states()[model.id].state == "loading"
    bench.gate.set()
    assert len({id(loaded) for loaded in await asyncio.gather(*tasks)}) == 1
    assert bench.loads == ["fake"]
    assert bench.pool.states()[model.id].info is not None
    assert bench.heard == [("loading", model.id), ("loaded", model.id)]


async def test_info_is_declared_or_measured(make: Any):
    bench = make()
    async with bench.pool.lease(sized("measured", 500)) as loaded:
        assert loaded.info.bytes == 500
        assert loaded.info.expected_ms > 0
    given = resolved("given", performance={"bytes": 7, "expected_ms": 3.0, "max_batch": 2})
    async with bench.pool.lease(given) as loaded:
        assert (loaded.info.bytes, loaded.info.expected_ms) == (7, 3.0)
        assert loaded.info.capabilities.max_batch == 2


@pytest.mark.parametrize("cancelled", [0, 1, 2])
async def test_cancelling_one_who_waits_changes_nothing_for_the_others(make: Any, cancelled: int):
    bench = make()
    bench.gate.clear()
    tasks = [asyncio.create_task(bench.use(resolved())) for _ in range(3)]
    await asyncio.to_thread(bench.entered.wait, 10)
    tasks[cancelled].cancel()
    await asyncio.sleep(0)
    bench.gate.set()
    done = await asyncio.gather(*tasks, return_exceptions=True)
    assert [isinstance(each, asyncio.CancelledError) for each in done].count(True) == 1
    assert bench.loads == ["fake"]


async def test_a_load_goes_on_when_nobody_waits_any_longer(make: Any):
    bench = make()
    bench.gate.clear()
    task = asyncio.create_task(bench.use(resolved()))
    await asyncio.to_thread(bench.entered.wait, 10)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    bench.gate.set()
    await bench.use(resolved())
    assert bench.loads == ["fake"]


async def test_others_are_leased_while_one_loads(make: Any):
    bench = make()
    await bench.use(resolved("a"))
    bench.gate.clear()
    bench.entered.clear()
    cold = [asyncio.create_task(bench.use(resolved(name))) for name in "bc"]
    await asyncio.to_thread(bench.entered.wait, 10)
    await asyncio.wait_for(bench.use(resolved("a")), 5)
    assert bench.loads == ["a", "b"]  # c waits: one load at a time
    bench.gate.set()
    await asyncio.gather(*cold)
    assert sorted(bench.resident()) == ["a", "b", "c"]


async def test_least_recently_used_goes_first_and_only_as_many_as_needed(make: Any):
    bench = make(100)
    a, b, c = sized("a", 40), sized("b", 40), sized("c", 20)
    await bench.use(a, b, c, a)
    assert bench.resident() == ["b", "c", "a"]
    await bench.use(sized("d", 30))
    assert bench.resident() == ["c", "a", "d"]
    assert ("unloaded", b.id) in bench.heard
    await bench.pool.close()
    assert bench.load["b"].unloads == 1


async def test_a_leased_model_is_never_unloaded(make: Any):
    bench = make(100)
    async with bench.pool.lease(sized("a", 60)):
        async with bench.pool.lease(sized("b", 60)):
            assert bench.resident() == ["a", "b"]
        # Over the budget only as long as it must be.
        assert bench.resident() == ["a"]
    assert bench.resident() == ["a"]
    assert bench.load["a"].unloads == 0


async def test_pinned_models_stay(make: Any):
    bench = make(100)
    bench.pool.pin(sized("a", 60).id)
    await bench.use(sized("a", 60), sized("b", 40), sized("c", 40))
    assert bench.resident() == ["a", "c"]
    with pytest.raises(ModelTooLargeError, match="pinned models take 60"):
        await bench.use(declared("d", 50))
    assert bench.resident() == ["a", "c"]
    bench.pool.unpin(sized("a", 60).id)
    await bench.use(sized("e", 50))
    assert bench.resident() == ["c", "e"]


async def test_a_model_too_large_is_refused_before_it_is_loaded_where_that_is_known(make: Any):
    bench = make(100)
    await bench.use(sized("a", 60))
    with pytest.raises(ModelTooLargeError, match="101 bytes"):
        await bench.use(declared("huge", 101))
    assert bench.loads == ["a"]
    assert bench.resident() == ["a"]


async def test_a_model_found_too_large_after_the_load_goes_itself(make: Any):
    bench = make(100)
    await bench.use(sized("a", 60))
    huge = sized("huge", 101)
    with pytest.raises(ModelTooLargeError):
        await bench.use(huge)
    assert bench.resident() == ["a"]
    bench.clock.now = 1000
    with pytest.raises(ModelTooLargeError):
        await bench.use(huge)
    assert bench.loads == ["a", "huge"]  # measured once, it is not loaded again
    await bench.pool.close()
    assert bench.load["huge"].unloads == 1


async def test_a_failed_load_costs_no_good_model_its_place(make: Any):
    bench = make(100)
    await bench.use(sized("a", 60), sized("b", 40))
    with pytest.raises(ModelLoadError, match="no such file"):
        await bench.use(declared("c", 90, fail_load="no such file"))
    assert bench.resident() == ["a", "b"]
    state = bench.pool.states()["c@00000001"]
    assert (state.state, state.reason) == ("failed", "no such file")
    assert bench.heard[-1] == ("unloaded", "c@00000001")


async def test_failures_are_remembered_and_retried_ever_later(make: Any):
    bench = make()
    for number, wait in enumerate([1, 2, 4, 8, 16, 32, 60, 60], start=1):
        with pytest.raises(ModelLoadError, match=rf"no such file.*after {wait} s"):
            await bench.use(BROKEN)
        assert len(bench.loads) == number
        bench.clock.now += wait - 0.5
        with pytest.raises(ModelLoadError, match=r"after 0\.5 s"):
            await bench.use(BROKEN)
        assert len(bench.loads) == number
        bench.clock.now += 0.5


async def test_a_success_forgets_the_failures(make: Any):
    bench = make()
    with pytest.raises(ModelLoadError):
        await bench.use(BROKEN)
    bench.clock.now = 1
    await bench.use(resolved("broken"))  # mended in the meantime
    assert bench.pool.states()["broken@00000001"].state == "resident"


async def test_all_who_wait_get_the_failure_and_it_crosses_processes(make: Any):
    bench = make()
    tasks = [bench.use(BROKEN) for _ in range(4)]
    errors = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(error) for error in errors] == [ModelLoadError] * 4
    assert len({id(error) for error in errors}) == 4
    assert bench.loads == ["broken"]
    assert pickle.loads(pickle.dumps(errors[0])).detail == errors[0].detail


async def test_other_errors_become_load_errors_with_their_cause(make: Any):
    bench = make()

    def fail(model: ResolvedModel) -> LoadedModel:
        raise OSError("disk on fire")

    bench.pool._load = fail
    with pytest.raises(ModelLoadError, match="OSError: disk on fire") as caught:
        await bench.use(resolved())
    remembered = caught.value.__cause__
    assert isinstance(remembered, ModelLoadError)
    assert isinstance(remembered.__cause__, OSError)


async def test_a_remembered_failure_does_not_keep_what_was_loaded_so_far(
    make: Any, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.CRITICAL, "serve_app.engine")  # pytest keeps log records' tracebacks

    class Weights:
        pass

    held: list[weakref.ref[Weights]] = []

    def fail(model: ResolvedModel) -> LoadedModel:
        weights = Weights()
        held.append(weakref.ref(weights))
        try:
            raise OSError("disk on fire")
        except OSError as error:
            raise ModelLoadError("half-way") from error

    bench = make()
    bench.pool._load = fail
    with pytest.raises(ModelLoadError, match="half-way"):
        await bench.use(resolved())
    gc.collect()
    assert held[0]() is None
    assert bench.pool.states()["fake@00000001"].reason == "half-way"


async def test_a_load_past_its_deadline_fails_and_its_late_result_is_unloaded(make: Any):
    bench = make(load_timeout_s=0.05)
    bench.gate.clear()
    with pytest.raises(ModelLoadError, match=r"took longer than 0\.05 s"):
        await bench.use(resolved("slow"))
    # The hung load holds up nobody.
    bench.pool._load_timeout_s = 60
    bench.gate.set()
    await bench.use(resolved("other"))
    assert bench.resident() == ["other"]
    for _ in range(200):
        if bench.load.models.get("slow") and bench.load["slow"].unloads:
            break
        await asyncio.sleep(0.01)
    assert bench.load["slow"].unloads == 1


async def test_a_failing_listener_is_no_reason_to_lose_a_model(make: Any):
    bench = make()

    def fail(model_id: str) -> None:
        raise RuntimeError("listener")

    bench.pool._listeners = PoolListeners(on_loading=fail, on_loaded=fail)
    await bench.use(resolved())
    assert bench.resident() == ["fake"]


async def test_close_unloads_ends_waits_and_refuses(make: Any):
    bench = make()
    await bench.use(resolved("a"))
    bench.gate.clear()
    bench.entered.clear()
    waiting = asyncio.create_task(bench.use(resolved("b")))
    await asyncio.to_thread(bench.entered.wait, 10)
    await bench.pool.close()
    with pytest.raises(NotReadyError):
        await waiting
    assert bench.load["a"].unloads == 1
    with pytest.raises(NotReadyError):
        await bench.use(resolved("a"))
