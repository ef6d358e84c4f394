"""The way of a request, on one page; works on any executor and knows no transport.

resolve the model → check what is asked → find repetitions → decode and fit images → score what is
healthy → put the answers in order. `planning` and `answers` have the pure
parts, `preparation` the images.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

from serve_app.config.args import Limits
from serve_app.engine.answers import embeddings_of, ranked, results_of
from serve_app.engine.infos import ModelInfos
from serve_app.engine.planning import (
    Distinct,
    check_count,
    check_rankable,
    distinct,
    metrics_of,
    pairs_of,
    plan_embeddings,
    plan_scores,
)
from serve_app.engine.preparation import EncodedImage, ImagePreparation, PreparedImage
from serve_app.engine.work import Executor
from serve_app.errors import DeadlineExceededError, InvalidRequestError, UnsupportedOperationError
from serve_app.inputs.preprocess import ImagePreprocess
from serve_app.inputs.source import check_text
from serve_app.models.base import ModelInfo
from serve_app.models.registry import RegistrySnapshot
from serve_app.types import (
    EmbedRequest,
    EmbedResponse,
    ItemFault,
    ScoreRequest,
    ScoreResponse,
)


class ScoringPipeline:
    """Answers requests; all methods belong to one event loop.

    Args:
        snapshot: The declared models.
        executor: Runs the models.
        limits: Bounds on what one caller may ask.
        decode_threads: Threads that decode images.
    """

    def __init__(
        self,
        snapshot: RegistrySnapshot,
        executor: Executor,
        limits: Limits,
        decode_threads: int = 2,
    ) -> None:
        self._snapshot = snapshot
        self._executor = executor
        self._limits = limits
        self._infos = ModelInfos(executor.describe)
        self._images = ImagePreparation(limits, decode_threads)

    def update(self, snapshot: RegistrySnapshot) -> None:
        """Swaps the declared models; requests in progress keep the model they began with."""
        self._snapshot = snapshot
        self._infos.keep_only(model.id for model in snapshot.models.values())

    def known_info(self, model_id: str) -> ModelInfo | None:
        """What is known of a model, if a request has needed it before."""
        return self._infos.known(model_id)

    async def info(self, model_id: str) -> ModelInfo:
        """What there is to know of a model; loads it if need be."""
        return await self._infos.get(model_id)

    def close(self) -> None:
        """Lets the decoding threads end; the executor is not closed."""
        self._images.close()

    async def score(self, request: ScoreRequest) -> ScoreResponse:
        """Scores pairs. One bad item is an error of that item; even all of them give an answer.

        Raises:
            RequestError: The request as a whole cannot be answered: `InvalidRequestError`,
                `TooManyPairsError`, `UnknownModelError`, `UnknownMetricError`.
            ModelError: The model could not be loaded.
            OverloadedError: Too much is waiting.
            DeadlineExceededError: It took longer than `limits.request_timeout_s`.
        """
        async with self._deadline():
            timer = _Timer()
            model_id = self._snapshot.resolve(request.model).id
            pairs = pairs_of(request, self._limits)
            info = await self._infos.get(model_id)
            metrics = metrics_of(info, request.metrics)

            timer.decoding()
            texts = self._distinct_texts({text: request.texts[text] for _, text in pairs})
            images = await self._distinct_images(
                {image: request.images[image] for image, _ in pairs}, info.preprocess
            )
            timer.decoded()
            plan = plan_scores(model_id, metrics, pairs, images, texts)
            outcome = await self._executor.score(plan.work) if plan.work else None
            if outcome is not None:
                timer.model(outcome.queue_ms, outcome.model_ms)
            results = results_of(
                pairs,
                plan,
                outcome=outcome,
                images=images,
                capabilities=info.capabilities,
                on_truncate=request.on_truncate,
            )
            return ScoreResponse(
                request.request_id or uuid.uuid4().hex, model_id, results, timer.timing_ms()
            )

    async def rank(self, request: ScoreRequest) -> ScoreResponse:
        """Scores one text with several images, or one image with several texts; best first.

        Raises:
            InvalidRequestError: There is neither exactly one text nor exactly one image.
            ServeAppError: As `score`.
        """
        check_rankable(request)
        response = await self.score(request)
        return replace(response, results=ranked(response.results))

    async def embed(self, request: EmbedRequest) -> EmbedResponse:
        """Embeds texts and images.

        Raises:
            UnsupportedOperationError: The model has no embeddings.
            ServeAppError: As `score`.
        """
        async with self._deadline():
            timer = _Timer()
            model_id = self._snapshot.resolve(request.model).id
            if not request.inputs:
                raise InvalidRequestError("At least one input is needed.")
            check_count(len(request.inputs), "embeddings", self._limits)
            info = await self._infos.get(model_id)
            dimension = info.capabilities.embedding_dim
            if not info.capabilities.embeds or dimension is None:
                raise UnsupportedOperationError(
                    f"{model_id} scores pairs and has no embeddings; choose a dual encoder."
                )

            timer.decoding()
            inputs = dict(enumerate(request.inputs))
            texts = self._distinct_texts({i: it for i, it in inputs.items() if isinstance(it, str)})
            images = await self._distinct_images(
                {i: it for i, it in inputs.items() if not isinstance(it, str)}, info.preprocess
            )
            timer.decoded()
            plan = plan_embeddings(model_id, len(inputs), images, texts)
            outcome = await self._executor.embed(plan.work) if plan.work else None
            if outcome is not None:
                timer.model(outcome.queue_ms, outcome.model_ms)
            results = embeddings_of(
                plan, outcome, info.capabilities.context_length, request.on_truncate
            )
            return EmbedResponse(
                request.request_id or uuid.uuid4().hex,
                model_id,
                dimension,
                results,
                timer.timing_ms(),
            )

    def _distinct_texts(self, texts: dict[int, str]) -> Distinct[str | ItemFault]:
        found = distinct(texts, list(texts.values()))
        most = self._limits.max_text_characters
        return Distinct([check_text(text, most) or text for text in found.items], found.rows)

    async def _distinct_images(
        self, images: dict[int, EncodedImage], preprocess: ImagePreprocess
    ) -> Distinct[PreparedImage]:
        keys = await self._images.keys(list(images.values()))
        found = distinct(images, keys)
        return Distinct(await self._images.prepare(found.items, preprocess), found.rows)

    @asynccontextmanager
    async def _deadline(self) -> AsyncIterator[None]:
        timeout = asyncio.timeout(self._limits.request_timeout_s)
        try:
            async with timeout:
                yield
        except TimeoutError:
            if not timeout.expired():
                raise
            raise DeadlineExceededError(
                f"The answer took longer than {self._limits.request_timeout_s:g} s "
                "(`limits.request_timeout_s`)."
            ) from None


class _Timer:
    """The `timing_ms` of a response."""

    def __init__(self) -> None:
        self._started = self._decoding = time.perf_counter()
        self._parts = {"decode": 0.0, "queue": 0.0, "model": 0.0}

    def decoding(self) -> None:
        self._decoding = time.perf_counter()

    def decoded(self) -> None:
        self._parts["decode"] = 1000 * (time.perf_counter() - self._decoding)

    def model(self, queue_ms: float, model_ms: float) -> None:
        self._parts |= {"queue": queue_ms, "model": model_ms}

    def timing_ms(self) -> dict[str, float]:
        return {**self._parts, "total": 1000 * (time.perf_counter() - self._started)}
