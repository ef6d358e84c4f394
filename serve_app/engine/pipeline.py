"""The way of a request, on one page; works on any executor and knows no transport.

route to a model → check what is asked → find repetitions → decode and fit images → score what is
healthy → put the answers in order. `routes` says which model answers, `planning` and `answers`
have the pure parts, `preparation` the images.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TypeVar

from serve_app.config.args import Limits
from serve_app.engine.answered import (
    Answered,
    Listener,
    Outcome,
    outcome_of_error,
    outcome_of_response,
)
from serve_app.engine.answers import embeddings_of, ranked, results_of
from serve_app.engine.fetching import Fetch, UrlImages, encoded
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
from serve_app.engine.routes import Routed, route_request
from serve_app.engine.turn import Timer, Turn
from serve_app.engine.work import Executor
from serve_app.errors import (
    DeadlineExceededError,
    InvalidRequestError,
    ModelReplacedError,
    UnsupportedOperationError,
)
from serve_app.inputs.preprocess import ImagePreprocess
from serve_app.inputs.source import check_text
from serve_app.models.base import ModelInfo
from serve_app.models.snapshot import ResolvedModel, Snapshot
from serve_app.observability.tracing import note, span
from serve_app.routing.table import Route
from serve_app.types import (
    EmbedRequest,
    EmbedResponse,
    ItemFault,
    ScoreRequest,
    ScoreResponse,
)

Request = TypeVar("Request", ScoreRequest, EmbedRequest)
Response = TypeVar("Response", ScoreResponse, EmbedResponse)


class ScoringPipeline:
    """Answers requests; all methods belong to one event loop.

    Args:
        snapshot: The declared models and their routing.
        executor: Runs the models.
        limits: Bounds on what one caller may ask.
        decode_threads: Threads that decode images.
        fetch: Fetches an image by its URL; None: URLs are faults.
        on_answered: Is told of every request that reached a model and was not given up by its
            caller; quick, and never raises.
    """

    def __init__(
        self,
        snapshot: Snapshot,
        executor: Executor,
        limits: Limits,
        decode_threads: int = 2,
        on_answered: Listener | None = None,
        *,
        fetch: Fetch | None = None,
    ) -> None:
        self.in_flight = 0
        self._urls = UrlImages(fetch, limits)
        self._on_answered = on_answered
        self._snapshot = snapshot
        self._updated = asyncio.Event()
        self._executor = executor
        self._limits = limits
        self._infos = ModelInfos(executor.describe)
        self._images = ImagePreparation(limits, decode_threads)

    def update(self, snapshot: Snapshot) -> None:
        """Swaps models and routing; requests in progress keep what they began with."""
        self._snapshot = snapshot
        self._updated.set()
        self._infos.keep_only(model.id for model in snapshot.addressable())

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
        return await self._answer(request, self._score)

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
        return await self._answer(request, self._embed)

    async def shadow(
        self, answered: Answered, model: ResolvedModel
    ) -> ScoreResponse | EmbedResponse:
        """Scores a request once more, on another model; gives way to all other work.

        Metrics are not asked for: another model may have others.

        Raises:
            OverloadedError: There is other work.
            ServeAppError: As `score`.
        """
        request = answered.request
        route = replace(answered.routed, route=Route(model.name), model=model)
        async with self._deadline():
            if isinstance(request, EmbedRequest):
                return await self._embed(request, Turn(route, shadow=True))
            return await self._score(replace(request, metrics=()), Turn(route, shadow=True))

    async def _score(self, request: ScoreRequest, turn: Turn) -> ScoreResponse:
        model_id, timer = turn.routed.model.id, turn.timer
        pairs = pairs_of(request, self._limits)
        info = await self._infos.get(model_id)
        metrics = metrics_of(info, request.metrics)

        timer.decoding()
        texts = self._distinct_texts({text: request.texts[text] for _, text in pairs})
        images = await self._distinct_images(
            {image: encoded(request.images[image]) for image, _ in pairs}, info.preprocess
        )
        timer.decoded()
        plan = plan_scores(model_id, metrics, pairs, images, texts)
        outcome = None
        if plan.work is not None:
            with span("model"):
                outcome = await self._executor.score(replace(plan.work, shadow=turn.shadow))
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
            request.request_id or "", model_id, results, timer.timing_ms(), turn.routed.experiment
        )

    async def _embed(self, request: EmbedRequest, turn: Turn) -> EmbedResponse:
        model_id, timer = turn.routed.model.id, turn.timer
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
            {i: encoded(it) for i, it in inputs.items() if not isinstance(it, str)}, info.preprocess
        )
        timer.decoded()
        plan = plan_embeddings(model_id, len(inputs), images, texts)
        outcome = None
        if plan.work is not None:
            with span("model"):
                outcome = await self._executor.embed(replace(plan.work, shadow=turn.shadow))
            timer.model(outcome.queue_ms, outcome.model_ms)
        results = embeddings_of(
            plan, outcome, info.capabilities.context_length, request.on_truncate
        )
        return EmbedResponse(
            request.request_id or "",
            model_id,
            dimension,
            results,
            timer.timing_ms(),
            turn.routed.experiment,
        )

    async def _answer(
        self, request: Request, answer: Callable[[Request, Turn], Awaitable[Response]]
    ) -> Response:
        """Routes a request, answers it within the deadline, and tells how it ended."""
        timer = Timer()
        snapshot = self._snapshot  # one and the same to the end, if what it names is there
        request_id = request.request_id or uuid.uuid4().hex
        request = replace(request, request_id=request_id)
        routed: Routed | None = None
        outcome: Outcome | None = None
        response: Response | None = None
        self.in_flight += 1
        try:
            async with self._deadline():
                # Before it is routed: experiments can be sticky by an image.
                request = await self._urls.fetched(request)
                while True:
                    routed = await route_request(snapshot, request, request_id)
                    note(**_told(routed))
                    try:
                        response = await answer(request, Turn(routed, timer))
                        break
                    except ModelReplacedError:
                        # The replica knows of the successor already, this process will at once.
                        snapshot = await self._later_than(snapshot)
                outcome = outcome_of_response(response)
                return response
        except Exception as error:
            outcome = outcome_of_error(error)
            raise
        finally:
            self.in_flight -= 1
            # Without an outcome, its caller has given it up.
            if routed is not None and outcome is not None and self._on_answered is not None:
                self._on_answered(Answered(request, routed, timer.seconds, outcome, response))

    async def _later_than(self, snapshot: Snapshot) -> Snapshot:
        while self._snapshot is snapshot:
            self._updated.clear()
            await self._updated.wait()
        return self._snapshot

    def _distinct_texts(self, texts: dict[int, str]) -> Distinct[str | ItemFault]:
        found = distinct(texts, list(texts.values()))
        most = self._limits.max_text_characters
        return Distinct([check_text(text, most) or text for text in found.items], found.rows)

    async def _distinct_images(
        self, images: dict[int, EncodedImage], preprocess: ImagePreprocess
    ) -> Distinct[PreparedImage]:
        keys = await self._images.keys(list(images.values()))
        found = distinct(images, keys)
        with span("decode", images=len(found.items)):
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


def _told(routed: Routed) -> dict[str, str]:
    """What a trace is told of where a request goes."""
    told = {"similarity.model": routed.model.id}
    if routed.experiment is not None:
        told |= {
            "similarity.experiment": routed.experiment.name,
            "similarity.arm": routed.experiment.arm,
        }
    return told
