"""Where declared models come from: the environment or a file; validates no spec.

Faults that leave something to go on with travel in the `Document`, the others are raised; either
way everything that was found is named at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from serve_app.config.defaults import DEMO_NAMES, default_document
from serve_app.config.document import Document, SpecSource
from serve_app.config.faults import Origin
from serve_app.config.overrides import apply_overrides, split_override
from serve_app.config.settings import (
    MODELS,
    MODELS_FILE,
    OVERRIDE_PREFIX,
    read_environment,
)
from serve_app.config.shorthand import shorthand_document
from serve_app.config.text import parse_mapping, read_text
from serve_app.errors import ConfigError, Fault

__all__ = [
    "Document",
    "EnvironmentSource",
    "FileSource",
    "SpecSource",
    "declared_models",
    "source_from_environment",
]


class EnvironmentSource:
    """Models declared by variables; never changes once built.

    Reads `SIMILARITY_MODELS` or `SIMILARITY_MODEL`, then the overrides. With overrides alone, the
    models they name are declared; if a demo model is among them, the demo models are the ground
    they stand on.

    Args:
        environ: Instead of the process's environment; other programs' variables are passed over.
    """

    def __init__(self, environ: Mapping[str, str] | None = None) -> None:
        self._settings = read_environment(environ)

    def read(self) -> Document:
        """Reads the document.

        Raises:
            ConfigError: `SIMILARITY_MODELS` or `SIMILARITY_MODEL` cannot be read at all.
        """
        settings = self._settings

        def base() -> Document:
            if settings.models is not None:
                return _parsed(settings.models, Origin(MODELS))
            if settings.model is not None:
                return shorthand_document(settings.model)
            return _ground(settings.overrides)

        return _read(
            base, {} if settings.model is not None else settings.overrides, settings.faults
        )


class FileSource:
    """Models declared in a file, for example of a mounted ConfigMap; reads it anew each time.

    Args:
        path: The file.
        overrides: `SIMILARITY_MODELS__…` variables, by full name.
        faults: Found before, to be named with those of the file.
    """

    def __init__(
        self,
        path: str | Path,
        overrides: Mapping[str, str] | None = None,
        faults: tuple[Fault, ...] = (),
    ) -> None:
        # Not resolved: a mounted ConfigMap is exchanged by a link. The reader may be elsewhere.
        self.path = Path(path).absolute()
        self._overrides = dict(overrides or {})
        self._faults = faults

    def read(self) -> Document:
        """Reads the file as it is now.

        Raises:
            ConfigError: It is absent, empty, unreadable or no mapping; models that were declared
                before stay as they are, because this is an error and not an empty document.
        """
        origin = Origin(self.path.name or MODELS_FILE, ":")

        def base() -> Document:
            return _parsed(read_text(self.path, origin.key()), origin)

        return _read(base, self._overrides, self._faults)


def source_from_environment(environ: Mapping[str, str] | None = None) -> SpecSource | None:
    """The source that the environment asks for.

    Args:
        environ: Instead of the process's environment.

    Returns:
        The source, or None where nothing is set: then `default_document` declares the models.

    Raises:
        ConfigError: Variables that exclude each other are set, or an unknown one is and there is
            no document whose faults could be named with it.
    """
    settings = read_environment(environ)
    if settings.conflicting or (settings.faults and not settings.declares):
        raise ConfigError(settings.faults)
    if not settings.declares:
        return None
    if settings.models_file is None:
        return EnvironmentSource(environ)
    if not settings.models_file.strip():
        empty = Fault(MODELS_FILE, "is empty; give the path of a file, or unset it")
        raise ConfigError((*settings.faults, empty))
    return FileSource(settings.models_file, settings.overrides, settings.faults)


def declared_models(environ: Mapping[str, str] | None = None) -> Document:
    """What the environment declares now, or the demo models where it says nothing.

    Args:
        environ: Instead of the process's environment.

    Raises:
        ConfigError: As `source_from_environment`, or there is nothing that could be read.
    """
    source = source_from_environment(environ)
    return default_document() if source is None else source.read()


def _read(
    base: Callable[[], Document], overrides: Mapping[str, str], faults: tuple[Fault, ...]
) -> Document:
    try:
        document = base()
    except ConfigError as error:
        # There is nothing to apply overrides to, but those that say nothing can be named.
        ruins = apply_overrides(Document({}, Origin(OVERRIDE_PREFIX)), overrides)
        raise ConfigError((*faults, *error.faults, *ruins.faults)) from error
    return apply_overrides(replace(document, faults=(*faults, *document.faults)), overrides)


def _parsed(text: str, origin: Origin) -> Document:
    parsed = parse_mapping(text, origin)
    faults = tuple(Fault(origin.key(path), message) for path, message in parsed.messages)
    return Document(parsed.value, origin, faults=faults)


def _ground(overrides: Mapping[str, str]) -> Document:
    demo = default_document()
    named = {
        reading[0] for variable in overrides for reading in split_override(variable, demo.models)
    }
    return demo if named & set(DEMO_NAMES) else Document({}, Origin(MODELS))
