"""Scores any number of images and texts in requests of bounded size; knows no terminal."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from serve_app.config.args import Limits
from serve_app.errors import ServeAppError
from serve_app.types import ItemFault, OnTruncate, PairResult, ScoreRequest, ScoreResponse

if TYPE_CHECKING:
    from serve_app.models.registry import RegistrySnapshot
    from serve_app.serving.local_service import LocalService

_IMAGES_AT_ONCE = 32
_MOST_DECODERS = 8
UNREADABLE = "image_unreadable"
"""Code of an image file that was there at the start and cannot be read now."""


class Scorer(Protocol):
    """Answers one request; a `Transport` of the client is one."""

    def score(self, request: ScoreRequest) -> ScoreResponse:
        """Scores pairs."""

    def close(self) -> None:
        """Gives back what it holds."""


class LocalScorer:
    """Scores in this process, on an event loop of its own.

    What names no model is scored by the default one: experiments are for a service's requests.

    Args:
        snapshot: The declared models and their routing.
        limits: Bounds on one request.
    """

    def __init__(self, snapshot: RegistrySnapshot, limits: Limits) -> None:
        from serve_app.cli.local import cpu_count
        from serve_app.config.declaration import cache_from_environment
        from serve_app.engine.local import build_local_executor
        from serve_app.serving.local_service import LocalService
        from serve_app.weights.cache import cache_of

        self._default = snapshot.default
        self._runner = asyncio.Runner()
        executor = build_local_executor(snapshot, cache=cache_of(cache_from_environment()))
        self._service: LocalService = LocalService(
            snapshot, executor, limits, min(cpu_count(), _MOST_DECODERS)
        )

    def score(self, request: ScoreRequest) -> ScoreResponse:
        """See `Scorer.score`."""
        request = replace(request, model=request.model or self._default)
        return self._runner.run(self._service.score(request))

    def close(self) -> None:
        """Unloads the models."""
        with self._runner:
            self._runner.run(self._service.close())


@dataclass(frozen=True, slots=True)
class Task:
    """What to score: every image with every text.

    Attributes:
        images: Files.
        texts: Texts.
        model: Name, or None for the default.
        metrics: Metrics to return, or None for the usual ones.
        on_truncate: What to do with a text that is too long.
    """

    images: Sequence[Path]
    texts: Sequence[str]
    model: str | None
    metrics: tuple[str, ...] | None
    on_truncate: OnTruncate


def score_all(
    task: Task, scorer: Scorer, limits: Limits, on_images: Callable[[int], None]
) -> ScoreResponse:
    """Scores everything, row-major by image, as one response.

    The model that answers the first request is named in all further ones: else an experiment, or
    a change of models in between, would mix scores of several in one table.

    Args:
        task: What to score.
        scorer: What answers.
        limits: Bounds on one request.
        on_images: Told how many more images are done.

    Raises:
        ServeAppError: A whole request failed; one bad item is an error of its results.
    """
    blocks = list(_blocks(len(task.texts), limits.max_pairs))
    results: list[PairResult] = []
    first: ScoreResponse | None = None
    timing: dict[str, float] = {}
    widest = max(end - start for start, end in blocks)
    for batch in _batches(task.images, max(1, limits.max_pairs // widest), limits.max_body_bytes):
        contents = [(index, _read(task.images[index])) for index in batch]
        rows: dict[int, list[PairResult]] = {index: [] for index in batch}
        readable = [(index, content) for index, content in contents if isinstance(content, bytes)]
        for start, end in blocks:
            for index, content in contents:
                if isinstance(content, ItemFault):
                    rows[index] += [
                        PairResult(index, text, error=content) for text in range(start, end)
                    ]
            if not readable:
                continue
            response = scorer.score(
                ScoreRequest(
                    tuple(content for _, content in readable),
                    tuple(task.texts[start:end]),
                    model=first.model if first is not None else task.model,
                    metrics=task.metrics,
                    on_truncate=task.on_truncate,
                )
            )
            first = first or response
            for name, value in response.timing_ms.items():
                timing[name] = timing.get(name, 0.0) + value
            for result in response.results:
                index = readable[result.image][0]
                rows[index].append(replace(result, image=index, text=start + result.text))
        results += [result for index in batch for result in rows[index]]
        on_images(len(batch))
    if first is None:
        raise ServeAppError("None of the image files can be read.")
    return replace(first, results=tuple(results), timing_ms=timing)


def _blocks(count: int, size: int) -> Iterator[tuple[int, int]]:
    for start in range(0, count, size):
        yield start, min(start + size, count)


def _batches(images: Sequence[Path], most: int, max_bytes: int) -> Iterator[list[int]]:
    """Indices of images that go together: few enough, and small enough for one body."""
    batch: list[int] = []
    size = 0
    for index, path in enumerate(images):
        bytes_here = _size(path)
        full = len(batch) >= min(most, _IMAGES_AT_ONCE) or size + bytes_here > max_bytes // 2
        if batch and full:
            yield batch
            batch, size = [], 0
        batch.append(index)
        size += bytes_here
    if batch:
        yield batch


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0  # reading it will say why


def _read(path: Path) -> bytes | ItemFault:
    try:
        return path.read_bytes()
    except OSError as error:
        return ItemFault(UNREADABLE, f"The file cannot be read: {error.strerror or error}.")
