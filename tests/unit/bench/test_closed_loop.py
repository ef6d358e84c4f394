import asyncio

import pytest

from serve_app.bench.closed_loop import closed_loop


async def test_every_request_is_sent_once_and_faults_are_counted():
    sent = []

    async def send(index):
        sent.append(index)
        await asyncio.sleep(0)
        return "odd" if index % 2 else None

    figures = await closed_loop([send] * 3, 20, warm_up_s=0.0, seconds=None)
    assert sorted(sent) == list(range(20))
    assert figures["clients"] == 3
    assert figures["answered"] == 20
    assert (figures["failures"], figures["faults"]) == (10, {"odd": 10})
    assert not figures["exhausted"]


async def test_no_more_requests_are_under_way_than_there_are_clients():
    running, most = 0, 0

    async def send(_):
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.001)
        running -= 1

    await closed_loop([send] * 4, 30, warm_up_s=0.0, seconds=None)
    assert most == 4


async def test_requests_that_run_out_before_the_time_are_told():
    async def send(_):
        await asyncio.sleep(0.001)

    figures = await closed_loop([send], 3, warm_up_s=0.0, seconds=60.0)
    assert figures["exhausted"]
    assert figures["seconds"] < 60.0


async def test_the_time_ends_the_loop_and_answers_together_count_by_their_part():
    async def send(_):
        await asyncio.sleep(0.05)

    figures = await closed_loop([send] * 8, 10_000, warm_up_s=0.02, seconds=0.2)
    assert figures["seconds"] == pytest.approx(0.2)
    # Never more than the clients can have under way, whatever the moment of the end.
    assert 0 < figures["requests_per_s"] <= 8 / 0.05
    assert figures["p50_ms"] >= 50
    assert not figures["exhausted"]


async def test_nothing_answered_gives_no_figures():
    async def send(_):
        return "down"

    figures = await closed_loop([send], 5, warm_up_s=0.0, seconds=None)
    assert figures["requests_per_s"] is None
    assert figures["p50_ms"] is None
    assert figures["failures"] == 5
