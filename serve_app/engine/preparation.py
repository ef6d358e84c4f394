"""From encoded image files to a model's input, in threads and within a byte budget.

Knows no text, no pair and no executor. Nothing here blocks the event loop, and a bad image is a
fault of that image alone.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from serve_app.config.args import Limits
from serve_app.engine.budget import ByteBudget
from serve_app.errors import ItemError, UnexpectedError
from serve_app.inputs.decode import DecodeLimits, OpenedImage, open_image
from serve_app.inputs.preprocess import ImagePreprocess
from serve_app.models.base import Pixels
from serve_app.types import ItemFault, ItemWarning

logger = logging.getLogger("serve_app.engine")

EncodedImage = bytes | ItemFault
"""An image file, or why there is none."""


@dataclass(frozen=True, slots=True, eq=False)
class PreparedImage:
    """An image as the model takes it, or its fault.

    Attributes:
        result: Pixels or fault.
        warnings: What the caller should know, for example that only the first frame was used.
    """

    result: Pixels | ItemFault
    warnings: tuple[ItemWarning, ...] = ()


class ImagePreparation:
    """Decodes and preprocesses images; all methods belong to one event loop.

    Args:
        limits: Bounds on one image, and on decoded bytes in flight.
        threads: Threads that decode.
    """

    def __init__(self, limits: Limits, threads: int) -> None:
        self.budget = ByteBudget(limits.max_decoded_bytes)
        self._limits = DecodeLimits(limits.max_image_bytes, limits.max_pixels)
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="decode")
        # A request with many images leaves gaps in the threads' queue, which others use.
        self._at_a_time = 2 * threads

    async def keys(self, images: Sequence[EncodedImage]) -> list[Hashable]:
        """A key per image; equal keys mean equal content."""
        if len(images) < 2:
            return [0] * len(images)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, _keys, images)

    async def prepare(
        self, images: Sequence[EncodedImage], preprocess: ImagePreprocess
    ) -> list[PreparedImage]:
        """Decodes images and fits them to a model, in order."""
        turns = asyncio.Semaphore(self._at_a_time)

        async def one(image: EncodedImage) -> PreparedImage:
            if isinstance(image, ItemFault):
                return PreparedImage(image)
            async with turns:
                return await self._prepare(image, preprocess)

        return await asyncio.gather(*map(one, images))

    def close(self) -> None:
        """Lets the threads end."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _prepare(self, data: bytes, preprocess: ImagePreprocess) -> PreparedImage:
        loop = asyncio.get_running_loop()
        begun = await loop.run_in_executor(self._threads, self._begin, data, preprocess)
        if isinstance(begun, PreparedImage):
            return begun
        size = begun.decoded_bytes
        await self.budget.take(size)
        future = self._threads.submit(_finish, begun, preprocess)
        # Not in a `finally` here: who is cancelled leaves the thread decoding.
        future.add_done_callback(lambda _: self.budget.release(size))
        return await asyncio.wrap_future(future)

    def _begin(self, data: bytes, preprocess: ImagePreprocess) -> PreparedImage | OpenedImage:
        """Does it all if the budget allows it now, as a second way through the threads costs."""
        try:
            opened = open_image(data, self._limits)
        except Exception as error:
            return PreparedImage(_fault(error))
        size = opened.decoded_bytes
        if not self.budget.try_take(size):
            return opened
        try:
            return _finish(opened, preprocess)
        finally:
            self.budget.release(size)


def _finish(opened: OpenedImage, preprocess: ImagePreprocess) -> PreparedImage:
    try:
        decoded = opened.decode()
        return PreparedImage(preprocess.apply(decoded.image), decoded.warnings)
    except Exception as error:
        return PreparedImage(_fault(error))


def _fault(error: Exception) -> ItemFault:
    if isinstance(error, ItemError):
        return ItemFault(error.code, error.detail)
    logger.error("an image could not be prepared", exc_info=error)
    return ItemFault(
        UnexpectedError.code,
        f"The image could not be prepared ({type(error).__name__}); the log has more.",
    )


def _keys(images: Sequence[EncodedImage]) -> list[Hashable]:
    return [
        image if isinstance(image, ItemFault) else hashlib.blake2b(image, digest_size=16).digest()
        for image in images
    ]
