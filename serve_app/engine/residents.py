"""What one replica is to hold: loads it, tries candidates, and says how each model is.

Knows no control plane: whoever does says what is wanted, and is told when something has changed.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from serve_app.engine.pool import ModelPool
from serve_app.errors import ModelError, NotReadyError
from serve_app.models.snapshot import ResolvedModel

_RETRY_S = 1.0
"""How often a resident model that failed is asked for; the pool remembers when to try in truth."""


@dataclass(frozen=True, slots=True)
class HeldModel:
    """How a model is in this replica.

    Attributes:
        state: Whether it loads, is loaded, or could not be loaded.
        attempt: The attempt of the candidate; 0 for what was loaded otherwise.
        reason: Why it could not be loaded.
        note: What else is worth knowing.
        leases: Requests that use it now.
    """

    state: Literal["loading", "ready", "failed"]
    attempt: int = 0
    reason: str | None = None
    note: str | None = None
    leases: int = 0


class Residents:
    """Makes a pool hold what is wanted; all methods belong to one event loop.

    Args:
        pool: Loads and holds; whoever updates the snapshot pins there what is wanted here.
        on_change: Is told when a load has ended, well or not.
        announce: Tells what is about to be tried, and returns when that was heard: should it be
            the end of this process, somebody must know why.
    """

    def __init__(
        self,
        pool: ModelPool,
        on_change: Callable[[], None],
        announce: Callable[[], Awaitable[None]],
    ) -> None:
        self._pool = pool
        self._on_change = on_change
        self._announce = announce
        self._keeping: dict[str, asyncio.Task[None]] = {}
        self._trying: dict[str, asyncio.Task[None]] = {}
        self._attempts: dict[str, int] = {}
        self._vacated: dict[str, str] = {}  # by candidate, what made room for it
        self._giving_back: set[asyncio.Task[None]] = set()

    def want(
        self, resident: Iterable[ResolvedModel], candidates: Mapping[ResolvedModel, int]
    ) -> None:
        """Takes over what is to be held; what is no longer wanted is let go of.

        Args:
            resident: Models to hold; one that fails is tried again and again.
            candidates: Models to try, with the number of the attempt: each is tried once.
        """
        wanted = {model.id: model for model in resident}
        attempts = {model.id: attempt for model, attempt in candidates.items()}
        # What was unloaded since may be tried again under the number that it had.
        here = self._pool.states()
        self._attempts = {
            key: number
            for key, number in self._attempts.items()
            if key in here or key in self._trying
        }
        self._end(self._keeping, wanted)
        for model in wanted.values():
            if model.id not in self._keeping and not self._holds(model.id):
                self._keeping[model.id] = _begin(self._keep(model))
        same = [key for key in attempts if self._attempts.get(key) == attempts[key]]
        self._end(self._trying, same)
        for candidate, room in tuple(self._vacated.items()):
            if candidate in attempts:
                continue
            if room in wanted:  # the candidate failed elsewhere, or was taken back
                task = _begin(self._give_back(candidate, self._vacated.pop(candidate)))
                self._giving_back.add(task)
                task.add_done_callback(self._giving_back.discard)
            else:
                self._reopen(candidate, superseded=True)
        for model, attempt in candidates.items():
            if self._attempts.get(model.id) != attempt:
                self._attempts[model.id] = attempt
                old = next((m.id for m in wanted.values() if m.name == model.name), None)
                replaced = old if model.spec.rollout == "recreate" and old != model.id else None
                self._trying[model.id] = _begin(self._try(model, replaced))

    async def load(self, models: Iterable[ResolvedModel], needed: str | None) -> None:
        """Loads models one after the other, for a replica that is not ready yet.

        Args:
            models: What to load; the failure of one is remembered and costs the others nothing.
            needed: The id without which there is no point in being ready.

        Raises:
            ModelError: The needed one could not be loaded.
        """
        for model in models:
            try:
                async with self._pool.lease(model):
                    pass
            except ModelError:
                if model.id == needed:
                    raise

    def states(self, known: Iterable[str]) -> dict[str, HeldModel]:
        """How models are, by id: those of `known` that are here, load, or could not be loaded."""
        states, leases, notes = self._pool.states(), self._pool.leases(), self._pool.notes()
        found = {}
        for model_id in known:
            state = states.get(model_id)
            if model_id in self._trying and (state is None or state.state == "failed"):
                found[model_id] = HeldModel("loading", self._attempts[model_id])
            elif state is not None:
                found[model_id] = HeldModel(
                    "ready" if state.state == "resident" else state.state,
                    self._attempts.get(model_id, 0),
                    state.reason,
                    notes.get(model_id),
                    leases.get(model_id, 0),
                )
        return found

    def close(self) -> None:
        """Gives up."""
        self._end(self._keeping, ())
        self._end(self._trying, ())

    def _holds(self, model_id: str) -> bool:
        state = self._pool.states().get(model_id)
        return state is not None and state.state == "resident"

    async def _keep(self, model: ResolvedModel) -> None:
        while True:
            try:
                async with self._pool.lease(model, background=True):
                    break
            except NotReadyError:
                return
            except ModelError:
                self._on_change()
                await asyncio.sleep(_RETRY_S)
        self._keeping.pop(model.id, None)
        self._on_change()

    async def _try(self, model: ResolvedModel, replaced: str | None) -> None:
        """Loads a candidate; where the two do not fit, `replaced` makes room for it first."""
        await self._announce()
        self._pool.retry(model.id)
        try:
            if replaced is not None:
                self._vacated[model.id] = replaced
                await self._pool.vacate(replaced)
            async with self._pool.lease(model, background=True):
                pass  # until it answers, those who ask for what made room go on waiting
        except BaseException as error:
            self._reopen(model.id, superseded=False)
            if not isinstance(error, (ModelError, NotReadyError)):
                raise
            # The pool remembers why.
        self._trying.pop(model.id, None)
        self._on_change()

    async def _give_back(self, candidate: str, replaced: str) -> None:
        """Unloads a candidate for what made room for it: the two do not fit."""
        try:
            await self._pool.vacate(candidate)
        finally:
            self._pool.reopen(candidate, superseded=False)
            self._pool.reopen(replaced, superseded=False)

    def _reopen(self, candidate: str, *, superseded: bool) -> None:
        replaced = self._vacated.pop(candidate, None)
        if replaced is not None:
            self._pool.reopen(replaced, superseded=superseded)

    def _end(self, tasks: dict[str, asyncio.Task[None]], kept: Iterable[str]) -> None:
        for key in set(tasks).difference(kept):
            tasks.pop(key).cancel()


def _begin(work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    # In a context of its own: it belongs to no request.
    return asyncio.get_running_loop().create_task(work, context=contextvars.Context())
