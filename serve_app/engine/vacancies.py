"""Models that make room for others: who asks for one of them waits; knows no loading."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from serve_app.errors import ModelReplacedError


@dataclass(slots=True, eq=False)
class _Vacancy:
    """A model that nobody gets at present.

    Attributes:
        passing: Whether it ends by itself, with a load.
        over: Is set at its end.
        superseded: Whether another model answers instead.
    """

    passing: bool = False
    over: asyncio.Event = field(default_factory=asyncio.Event)
    superseded: bool = False


class Vacancies:
    """By model id; all methods belong to one event loop."""

    def __init__(self) -> None:
        self._open: dict[str, _Vacancy] = {}

    def __contains__(self, model_id: str) -> bool:
        return model_id in self._open

    async def over(self, model_id: str) -> None:
        """Waits until the model may be had again.

        Raises:
            ModelReplacedError: Another one answers instead.
        """
        while (vacancy := self._open.get(model_id)) is not None:
            await vacancy.over.wait()
            if vacancy.superseded:
                raise ModelReplacedError(f"{model_id} was replaced while the request waited.")

    def begin(self, model_id: str) -> None:
        """From now until `end`, whoever asks for the model waits."""
        begun = self._open.get(model_id)
        if begun is None or begun.passing:  # that one may end before this one
            self._open[model_id] = _Vacancy()

    def end(self, model_id: str, *, superseded: bool = False) -> None:
        """Lets those who wait go on, or tells them that another model answers."""
        vacancy = self._open.pop(model_id, None)
        if vacancy is not None:
            vacancy.superseded = superseded
            vacancy.over.set()

    def end_all(self) -> None:
        """Lets everybody go on."""
        for model_id in tuple(self._open):
            self.end(model_id)

    @contextmanager
    def passing(self) -> Iterator[Callable[[str], None]]:
        """Gives what begins vacancies that end with this context."""
        begun: dict[str, _Vacancy] = {}

        def begin(model_id: str) -> None:
            begun[model_id] = self._open[model_id] = _Vacancy(passing=True)

        try:
            yield begin
        finally:
            for model_id, vacancy in begun.items():
                if self._open.get(model_id) is vacancy:
                    del self._open[model_id]
                vacancy.over.set()
