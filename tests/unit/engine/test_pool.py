from __future__ import annotations

import asyncio
import gc
import logging
import pickle
import threading
import weakref
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from serve_app.engine.loading import LoadedModel
from serve_app.engine.pool import ModelPool, PoolListeners
from serve_app.errors import (
    ModelLoadError,
    ModelReplacedError,
    ModelTooLargeError,
    NotReadyError,
)
from serve_app.models.base import Placement
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


async def _loading(bench: Bench, model: ResolvedModel, **options: Any) -> asyncio.Task[None]:
    """A lease whose load hangs until the gate opens."""
    bench.gate.clear()
    bench.entered.clear()

    async def use() -> None:
        async with bench.pool.lease(model, **options):
            pass

    task = asyncio.create_task(use())
    await asyncio.to_thread(bench.entered.wait, 10)
    return task


async def test_a_load_in_the_background_holds_up_no_load_that_is_waited_for(make: Any):
    bench = make()
    candidate = await _loading(bench, resolved("candidate"), background=True)
    bench.entered.clear()
    waited_for = asyncio.create_task(bench.use(resolved("other")))
    assert await asyncio.to_thread(bench.entered.wait, 10), "it is loaded beside the candidate"
    bench.gate.set()
    await asyncio.gather(candidate, waited_for)
    assert bench.pool.load_counts() == {resolved("candidate").id: 1, resolved("other").id: 1}


async def test_a_spec_can_have_a_deadline_of_its_own(make: Any):
    bench = make(load_timeout_s=60)
    bench.gate.clear()
    with pytest.raises(ModelLoadError, match=r"took longer than 0\.05 s"):
        await bench.use(resolved("slow", load_timeout_s=0.05))


async def test_running_out_of_memory_costs_no_other_model(make: Any):
    bench = make()
    await bench.use(sized("a", 10))
    with pytest.raises(ModelTooLargeError, match="ran out of memory while it was loaded"):
        await bench.use(resolved("huge", options={"out_of_memory": True}))
    assert bench.resident() == ["a"]


async def test_retry_forgets_a_failure(make: Any):
    bench = make()
    for _ in range(2):
        with pytest.raises(ModelLoadError):
            await bench.use(BROKEN)
    assert bench.loads == ["broken"], "the second is told of the first"
    bench.pool.retry(BROKEN.id)
    with pytest.raises(ModelLoadError):
        await bench.use(BROKEN)
    assert bench.loads == ["broken", "broken"]


async def test_what_nobody_used_is_unloaded_and_what_is_pinned_or_used_stays(make: Any):
    bench = make(idle_ttl_s=60)
    idle, pinned, used, fresh = (resolved(name) for name in ("idle", "pinned", "used", "fresh"))
    await bench.use(idle, pinned)
    bench.pool.set_pinned([pinned.id])
    async with bench.pool.lease(used):
        bench.clock.now = 50
        await bench.use(fresh)
        bench.clock.now = 61
        bench.pool.unload_idle()
        assert bench.resident() == ["pinned", "used", "fresh"]
    bench.clock.now = 111
    bench.pool.unload_idle()
    assert bench.resident() == ["pinned", "used"], "idle since its lease ended, not since it began"


async def test_without_a_time_to_live_nothing_is_idle(make: Any):
    bench = make()
    await bench.use(resolved())
    bench.clock.now = 1e9
    bench.pool.unload_idle()
    assert bench.resident() == ["fake"]


async def test_what_cannot_be_asked_for_any_longer_is_unloaded_when_it_is_free(make: Any):
    bench = make()
    kept, gone, used = (resolved(name) for name in ("kept", "gone", "used"))
    await bench.use(kept, gone)
    with pytest.raises(ModelLoadError):
        await bench.use(BROKEN)
    async with bench.pool.lease(used) as loaded:
        bench.pool.keep_only([kept.id])
        assert bench.resident() == ["kept", "used"]
        assert loaded.model.unloads == 0
        assert bench.pool.leases() == {kept.id: 0, used.id: 1}
    assert bench.resident() == ["kept"]
    assert list(bench.pool.states()) == [kept.id], "its failures are forgotten too"


async def test_what_cannot_be_asked_for_any_longer_goes_when_its_load_ends(make: Any):
    bench = make()
    task = await _loading(bench, resolved("gone"))
    bench.pool.keep_only([])
    task.cancel()
    bench.gate.set()
    async with asyncio.timeout(10):
        while bench.pool.states() or not bench.load["gone"].unloads:
            await asyncio.sleep(0.001)


async def test_a_model_makes_room_and_who_asks_for_it_waits(make: Any):
    bench = make()
    old = resolved("old")
    released = asyncio.Event()

    async def hold() -> None:
        async with bench.pool.lease(old):
            await released.wait()

    holding = asyncio.create_task(hold())
    while bench.resident() != ["old"]:
        await asyncio.sleep(0.001)
    vacating = asyncio.create_task(bench.pool.vacate(old.id))
    await asyncio.sleep(0.01)
    waiting = asyncio.create_task(bench.use(old))
    await asyncio.sleep(0.01)
    assert not vacating.done(), "somebody uses it"
    released.set()
    await asyncio.gather(holding, vacating)
    assert bench.resident() == []
    assert bench.load["old"].unloads == 1
    assert not waiting.done()
    bench.pool.reopen(old.id, superseded=False)
    await waiting
    assert bench.resident() == ["old"]


async def test_who_waits_for_a_replaced_model_is_told_so(make: Any):
    bench = make()
    old = resolved("old")
    await bench.use(old)
    await bench.pool.vacate(old.id)
    waiting = [asyncio.create_task(bench.use(old)) for _ in range(2)]
    await asyncio.sleep(0.01)
    waiting[0].cancel()
    bench.pool.reopen(old.id, superseded=True)
    with pytest.raises(ModelReplacedError):
        await waiting[1]
    assert bench.resident() == []
    await bench.use(old)  # who asks for it by its id later may have it


async def test_what_is_in_use_makes_room_one_after_the_other(make: Any):
    """However many are asked for at once, no more than one over the budget is loaded."""
    bench = make(memory_bytes=20)
    names = [f"m{number}" for number in range(6)]
    most = 0

    async def use(name: str) -> None:
        nonlocal most
        for _ in range(20):
            async with bench.pool.lease(sized(name, 10)):
                most = max(most, len(bench.resident()))
                await asyncio.sleep(0)

    await asyncio.gather(*map(use, names))
    assert most <= 3
    assert len(bench.resident()) == 2


async def test_a_model_that_fails_costs_none_in_use_its_place(make: Any):
    bench = make(memory_bytes=20)
    released = asyncio.Event()

    async def hold(name: str) -> LoadedModel:
        async with bench.pool.lease(sized(name, 10)) as loaded:
            await released.wait()
            return loaded

    holding = [asyncio.create_task(hold(name)) for name in ("a", "b")]
    while len(bench.resident()) < 2:
        await asyncio.sleep(0.001)
    failing = asyncio.create_task(bench.use(declared("broken", 10, fail_load="no such file")))
    await asyncio.sleep(0.01)
    assert not failing.done(), "it waits for room"
    released.set()
    with pytest.raises(ModelLoadError):
        await failing
    await asyncio.gather(*holding)
    await bench.use(sized("a", 10), sized("b", 10))
    assert bench.loads == ["a", "b", "broken"], "both were there all the time"


async def test_a_candidate_that_somebody_asks_for_no_longer_waits_behind_one_that_hangs(make: Any):
    bench = make()
    hanging = await _loading(bench, resolved("hanging"), background=True)
    second = resolved("second")

    async def hold() -> None:
        async with bench.pool.lease(second, background=True):
            pass

    queued = asyncio.create_task(hold())
    await asyncio.sleep(0.01)
    assert bench.loads == ["hanging"]
    bench.entered.clear()
    asked = [asyncio.create_task(bench.use(second)) for _ in range(2)]
    assert await asyncio.to_thread(bench.entered.wait, 10), "it is loaded beside the hanging one"
    bench.gate.set()
    await asyncio.gather(hanging, queued, *asked)
    assert bench.loads == ["hanging", "second"], "once for all who wait"
    assert [event for event in bench.heard if event[1] == second.id] == [
        ("loading", second.id),
        ("loaded", second.id),
    ]


async def test_a_candidate_that_is_unpinned_is_evicted_like_others(make: Any):
    bench = make(memory_bytes=20)
    candidate = sized("candidate", 10)
    bench.pool.set_pinned([candidate.id])
    task = await _loading(bench, candidate, background=True)
    bench.pool.set_pinned([])  # given up while it loads
    bench.gate.set()
    await task
    assert bench.resident() == ["candidate"]
    await bench.use(sized("a", 10), sized("b", 10))
    assert bench.resident() == ["a", "b"]


class Allocation:
    """Stands for gigabytes that a loader had read when the rest did not fit."""


async def test_running_out_of_memory_keeps_nothing_of_what_was_loaded(
    caplog: pytest.LogCaptureFixture,
):
    caplog.set_level(logging.CRITICAL, "serve_app.engine")  # pytest keeps log records' tracebacks
    kept: list[weakref.ref[Allocation]] = []

    def load(model: ResolvedModel) -> LoadedModel:
        half = Allocation()
        kept.append(weakref.ref(half))
        raise MemoryError(f"no room for the rest of {type(half).__name__}")

    pool = ModelPool(load)
    with pytest.raises(ModelTooLargeError, match=r"ran out of memory .* \(no room for the rest"):
        async with pool.lease(resolved()):
            pass
    gc.collect()
    assert kept[0]() is None
    state = pool.states()[resolved().id]
    assert "ran out of memory" in (state.reason or "")
    await pool.close()


async def test_a_load_that_would_end_the_process_is_refused(tmp_path: Any):
    weights = tmp_path / "weights.safetensors"
    weights.write_bytes(bytes(3000))
    loads: list[str] = []

    def load(model: ResolvedModel) -> LoadedModel:
        loads.append(model.name)
        return RecordingLoader()(resolved(model.name))

    pool = ModelPool(load, available_bytes=lambda: 2999)
    from_file = resolved("file", pretrained=str(weights))
    said = resolved("said", performance={"bytes": 3000})
    for model in (from_file, said):
        with pytest.raises(ModelTooLargeError, match=r"takes 3000 bytes or more, .* only 2999"):
            async with pool.lease(model):
                pass
    assert loads == [], "nothing was even tried"
    # What is said goes before what the file takes, half precision takes half of it, and on a GPU
    # it is not this memory that counts.
    smaller = resolved("smaller", pretrained=str(weights), performance={"bytes": 2999})
    half = replace(from_file, name="half", placement=Placement(precision="bf16"))
    gpu = replace(said, name="gpu", placement=Placement(device="cuda"))
    for model in (smaller, half, gpu):
        async with pool.lease(model):
            pass
    assert loads == ["smaller", "half", "gpu"]
    await pool.close()


async def test_what_a_model_took_is_remembered_for_the_next_load():
    available = 10_000
    pool = ModelPool(RecordingLoader(), available_bytes=lambda: available)
    model = sized("a", 5000)
    async with pool.lease(model):
        pass
    await pool.vacate(model.id)
    pool.reopen(model.id, superseded=False)
    available = 4000
    with pytest.raises(ModelTooLargeError, match="takes 5000 bytes or more"):
        async with pool.lease(model):
            pass
    assert pool.load_counts() == {model.id: 2}
    await pool.close()


async def test_a_model_that_can_never_fit_makes_nobody_wait(make: Any):
    bench = make(memory_bytes=20)
    async with bench.pool.lease(sized("a", 15)):
        with pytest.raises(ModelTooLargeError, match="takes 21 bytes"):
            await asyncio.wait_for(bench.use(declared("huge", 21)), 10)
        await asyncio.wait_for(bench.use(sized("a", 15)), 10)


async def test_failures_of_what_cannot_be_asked_for_any_longer_are_not_remembered(make: Any):
    bench = make()
    task = await _loading(bench, BROKEN)
    bench.pool.keep_only([])
    bench.gate.set()
    with pytest.raises(ModelLoadError):
        await task
    assert bench.pool.states() == {}


async def test_who_gives_up_waiting_leaves_nothing_behind(make: Any):
    bench = make()
    old = resolved("old")
    await bench.use(old)
    await bench.pool.vacate(old.id)
    waiting = asyncio.create_task(bench.use(old))
    await asyncio.sleep(0.01)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert bench.pool.leases() == {}
    bench.pool.reopen(old.id, superseded=False)
    await asyncio.sleep(0.01)
    assert bench.loads == ["old"], "nobody wants it any longer"


async def test_who_gives_up_vacating_can_let_the_others_go_on(make: Any):
    bench = make()
    old = resolved("old")
    async with bench.pool.lease(old):
        vacating = asyncio.create_task(bench.pool.vacate(old.id))
        await asyncio.sleep(0.01)
        vacating.cancel()
        await asyncio.gather(vacating, return_exceptions=True)
        bench.pool.reopen(old.id, superseded=False)
        await bench.use(old)
    assert bench.loads == ["old"], "it was there all the time"


async def test_a_model_that_loads_makes_room_once_it_is_there(make: Any):
    bench = make()
    old = resolved("old")
    loading = await _loading(bench, old)
    vacating = asyncio.create_task(bench.pool.vacate(old.id))
    await asyncio.sleep(0.01)
    assert not vacating.done()
    bench.gate.set()
    await asyncio.gather(loading, vacating)
    assert bench.resident() == []
    assert bench.load["old"].unloads == 1


async def test_a_vacancy_outlasts_a_load_that_waited_for_the_same_room(make: Any):
    bench = make(memory_bytes=10)
    old, other = sized("old", 10), declared("other", 10, bytes=10)
    released = asyncio.Event()

    async def hold() -> None:
        async with bench.pool.lease(old):
            await released.wait()

    holding = asyncio.create_task(hold())
    while bench.resident() != ["old"]:
        await asyncio.sleep(0.001)
    loading = asyncio.create_task(bench.use(other))
    await asyncio.sleep(0.01)
    asked = asyncio.create_task(bench.use(old))
    await asyncio.sleep(0.01)
    vacating = asyncio.create_task(bench.pool.vacate(old.id))
    await asyncio.sleep(0.01)
    released.set()
    await asyncio.gather(holding, loading, vacating)
    await asyncio.sleep(0.01)
    assert not asked.done(), "the load has ended, the vacancy has not"
    bench.pool.reopen(old.id, superseded=True)
    with pytest.raises(ModelReplacedError):
        await asked
    assert bench.loads == ["old", "other"]


async def test_close_ends_all_waits(make: Any):
    bench = make()
    old = resolved("old")
    waits = [await _loading(bench, old)]
    waits.append(asyncio.create_task(bench.pool.vacate(old.id)))
    await asyncio.sleep(0.01)
    waits.append(asyncio.create_task(bench.use(old)))
    await asyncio.sleep(0.01)
    await bench.pool.close()
    bench.gate.set()
    async with asyncio.timeout(10):
        ended = await asyncio.gather(*waits, return_exceptions=True)
    assert [type(end) for end in ended] == [NotReadyError, type(None), NotReadyError]
