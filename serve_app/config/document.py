"""What was declared and where each value came from; validates nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from serve_app.config.faults import Origin
from serve_app.errors import Fault


@dataclass(frozen=True)
class Document:
    """Declared models, as written.

    Attributes:
        models: Name to raw spec (a mapping, if its author did it right), in order of declaration.
        origin: Where the document was read.
        places: Paths whose values came from elsewhere, and what that place is called. A place
            that ends in `__` is the beginning of variable names.
        faults: Found while reading; `DynamicModelRegistry.update` raises them with its own, so
            that all faults are named at once.
    """

    models: Mapping[str, Any]
    origin: Origin
    places: Mapping[tuple[str, ...], str] = field(default_factory=dict)
    faults: tuple[Fault, ...] = ()

    def key(self, path: Sequence[str] = ()) -> str:
        """What the value at `path` is called where its author wrote it.

        For example `SIMILARITY_MODELS.fast.precision`, `models.yaml:fast.precision` or
        `SIMILARITY_MODELS__FAST__PRECISION`.
        """
        for end in range(len(path), 0, -1):
            place = self.places.get(tuple(path[:end]))
            if place is None:
                continue
            rest = path[end:]
            if place.endswith("__"):
                upper = "__".join(part.upper() for part in rest)
                return place + upper if rest else place.removesuffix("__")
            return ".".join((place, *rest))
        return self.origin.key(path)


class SpecSource(Protocol):
    """Where declared models come from."""

    def read(self) -> Document:
        """Reads the document as it is now.

        Raises:
            ConfigError: There is nothing that could be read.
        """
