"""All that the environment declares, models and routing, faults included; validates no spec."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from serve_app.config.document import Document
from serve_app.config.faults import Origin
from serve_app.config.routing_source import RoutingDocument, routing_source_from_environment
from serve_app.config.settings import ROUTING
from serve_app.config.sources import declared_models
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
