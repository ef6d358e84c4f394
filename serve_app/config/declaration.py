"""All that the environment declares, and where it comes from; validates no spec."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from serve_app.config.access import AccessSource, access_source
from serve_app.config.defaults import default_document
from serve_app.config.document import Document, SpecSource
from serve_app.config.faults import Origin
from serve_app.config.routing_source import (
    RoutingDocument,
    RoutingSource,
    routing_source_from_environment,
)
from serve_app.config.settings import ROUTING, STATE_SCHEME, read_environment
from serve_app.config.sources import declared_models, source_from_environment
from serve_app.errors import ConfigError, Fault


@dataclass(frozen=True, slots=True)
class Declaration:
    """What the environment declares.

    Attributes:
        models: The models; the demo where nothing is declared.
        routing: Which of them answers what; None where nothing is declared.
    """

    models: Document
    routing: RoutingDocument | None = None


def read_declaration(environ: Mapping[str, str] | None = None) -> Declaration:
    """Reads everything as it is now.

    Routing that cannot be read is a document with faults, so that they are named together with
    those of the models.

    Args:
        environ: Instead of the process's environment.

    Raises:
        ConfigError: The models cannot be read at all; what reading the routing found is named too.
    """
    routing = declared_routing(environ)
    try:
        return Declaration(declared_models(environ), routing)
    except ConfigError as error:
        more: tuple[Fault, ...] = () if routing is None else routing.faults
        raise ConfigError(tuple(dict.fromkeys((*error.faults, *more)))) from error


def declared_routing(environ: Mapping[str, str] | None = None) -> RoutingDocument | None:
    """What the environment says about routing; None where it says nothing.

    Args:
        environ: Instead of the process's environment.

    Returns:
        What cannot be read is an empty document with the faults that say why.
    """
    try:
        source = routing_source_from_environment(environ)
        return None if source is None else source.read()
    except ConfigError as error:
        return RoutingDocument({}, Origin(ROUTING), error.faults)


@dataclass(frozen=True, slots=True)
class CacheSettings:
    """Where weights from other machines are kept.

    Attributes:
        folder: Absolute; None: each node's own default.
        max_bytes: Most bytes there; None: no bound.
    """

    folder: str | None = None
    max_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Configuration:
    """What the environment says, frozen: with it a process far away does the same as one here.

    Attributes:
        models: Where models come from; a document for what never changes.
        routing: Where routing comes from; None where nothing says anything about it.
        state_url: Where overrides and history are kept; None: nothing outlives the process.
        access: Who may use the service.
        open: Whether somebody said that anybody may, also where others can reach it.
        cache: Where weights from other machines are kept on each node.
        fetch_hosts: Hosts that images are fetched from, empty for any; None: none are fetched.
    """

    models: SpecSource | Document
    routing: RoutingSource | None = None
    state_url: str | None = None
    access: AccessSource = field(default_factory=AccessSource)
    open: bool = False
    cache: CacheSettings = CacheSettings()
    fetch_hosts: tuple[str, ...] | None = None


def configuration_from_environment(environ: Mapping[str, str] | None = None) -> Configuration:
    """What the environment says; paths in it are absolute, as they must be elsewhere.

    Args:
        environ: Instead of the process's environment.

    Raises:
        ConfigError: It contradicts itself; `read_declaration` names more.
    """
    settings = read_environment(environ)
    state_url = settings.state_url
    if state_url is not None:
        state_url = STATE_SCHEME + str(Path(state_url.removeprefix(STATE_SCHEME)).absolute())
    return Configuration(
        source_from_environment(environ) or default_document(),
        routing_source_from_environment(environ),
        state_url,
        access_source(settings),
        settings.open,
        cache_from_environment(environ),
        settings.fetch_hosts if settings.fetch_urls else None,
    )


def cache_from_environment(environ: Mapping[str, str] | None = None) -> CacheSettings:
    """Where weights from other machines are kept; the default is the user's folder of caches.

    Args:
        environ: Instead of the process's environment.
    """
    settings = read_environment(environ)
    if settings.cache_dir is None:
        return CacheSettings(max_bytes=settings.cache_bytes)
    folder = str(Path(settings.cache_dir).expanduser().absolute())
    return CacheSettings(folder, settings.cache_bytes)
