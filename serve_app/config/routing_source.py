"""Where routing comes from: a variable or a file; validates no spec."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from serve_app.config.faults import Origin
from serve_app.config.settings import ROUTING, ROUTING_FILE, read_environment
from serve_app.config.text import parse_mapping, read_text
from serve_app.errors import ConfigError, Fault

__all__ = [
    "EnvironmentRoutingSource",
    "FileRoutingSource",
    "RoutingDocument",
    "RoutingSource",
    "routing_source_from_environment",
]


@dataclass(frozen=True)
class RoutingDocument:
    """Routing, as written.

    Attributes:
        raw: The mapping with `default`, `aliases` and `experiments`, if its author did it right.
        origin: Where it was read.
        faults: Found while reading; who validates the document raises them with its own.
    """

    raw: Mapping[str, Any]
    origin: Origin
    faults: tuple[Fault, ...] = ()

    def key(self, path: Sequence[str] = ()) -> str:
        """What the value at `path` is called where its author wrote it."""
        return self.origin.key(path)


class RoutingSource(Protocol):
    """Where routing comes from."""

    def read(self) -> RoutingDocument:
        """Reads the document as it is now.

        Raises:
            ConfigError: There is nothing that could be read; routing that was in force stays.
        """


class EnvironmentRoutingSource:
    """Routing in the text of a variable; never changes once built.

    Args:
        text: The value of `SIMILARITY_ROUTING`.
    """

    def __init__(self, text: str) -> None:
        self._text = text

    def read(self) -> RoutingDocument:
        """Reads the document.

        Raises:
            ConfigError: It is empty, no YAML or JSON, or no mapping.
        """
        return _parsed(self._text, Origin(ROUTING))


class FileRoutingSource:
    """Routing in a file, for example of a mounted ConfigMap; reads it anew each time.

    Args:
        path: The file.
    """

    def __init__(self, path: str | Path) -> None:
        # Not resolved: a mounted ConfigMap is exchanged by a link. The reader may be elsewhere.
        self.path = Path(path).absolute()

    def read(self) -> RoutingDocument:
        """Reads the file as it is now.

        Raises:
            ConfigError: It is absent, empty, unreadable or no mapping: a lost file is an error,
                and not the wish to end every experiment.
        """
        origin = Origin(self.path.name or ROUTING_FILE, ":")
        return _parsed(read_text(self.path, origin.key()), origin)


def routing_source_from_environment(
    environ: Mapping[str, str] | None = None,
) -> RoutingSource | None:
    """The source that the environment asks for.

    Unknown variables are not named here, but where the models are read.

    Args:
        environ: Instead of the process's environment.

    Returns:
        The source, or None where nothing is set.

    Raises:
        ConfigError: Both variables are set, or the path is empty.
    """
    settings = read_environment(environ)
    if settings.routing is not None and settings.routing_file is not None:
        raise ConfigError(tuple(fault for fault in settings.faults if fault.key == ROUTING_FILE))
    if settings.routing is not None:
        return EnvironmentRoutingSource(settings.routing)
    if settings.routing_file is None:
        return None
    if not settings.routing_file.strip():
        message = "is empty; give the path of a file, or unset it"
        raise ConfigError((Fault(ROUTING_FILE, message),))
    return FileRoutingSource(settings.routing_file)


def _parsed(text: str, origin: Origin) -> RoutingDocument:
    parsed = parse_mapping(text, origin)
    faults = tuple(Fault(origin.key(path), message) for path, message in parsed.messages)
    return RoutingDocument(parsed.value, origin, faults)
