from __future__ import annotations

import asyncio

from serve_app.engine.budget import ByteBudget


async def take(budget: ByteBudget, size: int) -> asyncio.Task[None]:
    task = asyncio.create_task(budget.take(size))
    for _ in range(3):
        await asyncio.sleep(0)
    return task


async def test_first_come_first_served_and_nobody_overtakes():
    budget = ByteBudget(10)
    await budget.take(8)
    large, small = await take(budget, 5), await take(budget, 1)
    assert not large.done()
    assert not small.done()  # it would fit, but would keep the large one waiting for ever
    assert not budget.try_take(1)
    budget.release(8)
    await asyncio.gather(large, small)
    assert budget.used == 6
    assert budget.try_take(4)
    assert not budget.try_take(1)


async def test_what_is_larger_than_the_budget_runs_alone():
    budget = ByteBudget(10)
    await budget.take(1)
    huge = await take(budget, 50)
    assert not huge.done()
    budget.release(1)
    await huge
    other = await take(budget, 1)
    assert not other.done()
    budget.release(50)
    await other
    assert budget.used == 1


async def test_who_is_cancelled_leaves_the_queue():
    budget = ByteBudget(10)
    await budget.take(10)
    first, second = await take(budget, 10), await take(budget, 3)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    budget.release(10)
    await second
    assert budget.used == 3


async def test_granted_and_cancelled_in_the_same_moment_takes_nothing():
    budget = ByteBudget(10)
    await budget.take(10)
    waiter = await take(budget, 10)
    budget.release(10)  # granted, but the waiter has not run yet
    waiter.cancel()
    await asyncio.gather(waiter, return_exceptions=True)
    assert budget.used == 0


async def test_bytes_may_be_given_back_from_any_thread():
    budget = ByteBudget(10)
    assert budget.try_take(10)
    waiter = await take(budget, 5)
    await asyncio.to_thread(budget.release, 10)
    await asyncio.wait_for(waiter, 5)
    assert budget.used == 5
