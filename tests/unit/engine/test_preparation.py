from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import numpy as np
import pytest

from serve_app.config.args import Limits
from serve_app.engine.preparation import ImagePreparation
from serve_app.inputs.preprocess import ImagePreprocess
from serve_app.types import ItemFault
from tests.unit.engine.conftest import png

FIT = ImagePreprocess((4, 4))


@pytest.fixture
async def preparation() -> AsyncIterator[ImagePreparation]:
    made = ImagePreparation(Limits(max_decoded_bytes=2**20), threads=2)
    yield made
    made.close()


async def test_images_come_back_in_order_each_with_its_own_fault(preparation: ImagePreparation):
    fault = ItemFault("image_empty", "no bytes")
    images = [png("red"), b"junk", fault, png("blue")]
    red, junk, same, blue = await preparation.prepare(images, FIT)
    np.testing.assert_array_equal(red.result, np.full((4, 4, 3), (255, 0, 0), np.uint8))
    np.testing.assert_array_equal(blue.result, np.full((4, 4, 3), (0, 0, 255), np.uint8))
    assert isinstance(junk.result, ItemFault)
    assert same.result == fault
    assert await preparation.prepare([], FIT) == []


async def test_equal_images_have_equal_keys(preparation: ImagePreparation):
    red, blue = png("red"), png("blue")
    fault = ItemFault("image_empty", "no bytes")
    keys = await preparation.keys([red, blue, bytes(bytearray(red)), fault, fault])
    assert keys[0] == keys[2] != keys[1]
    assert keys[3] == keys[4]
    assert len(await preparation.keys([red])) == 1
    assert await preparation.keys([]) == []


async def test_who_is_cancelled_while_the_budget_is_spent_leaves_nothing_behind(
    preparation: ImagePreparation,
):
    assert preparation.budget.try_take(2**20)
    tasks = [
        asyncio.create_task(preparation.prepare([png("red", (99, 99))], FIT)) for _ in range(3)
    ]
    await asyncio.sleep(0.05)
    assert not any(task.done() for task in tasks)
    tasks[0].cancel()
    preparation.budget.release(2**20)
    done = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(done[0], asyncio.CancelledError)
    assert all(isinstance(each[0].result, np.ndarray) for each in done[1:])
    assert preparation.budget.used == 0


async def test_an_unforeseen_error_is_a_fault_of_that_image(preparation: ImagePreparation):
    class Broken:
        def apply(self, image: object) -> object:
            raise MemoryError

    (prepared,) = await preparation.prepare([png("red")], Broken())
    assert isinstance(prepared.result, ItemFault)
    assert prepared.result.code == "internal_error"
    assert preparation.budget.used == 0
