"""What is declared now, read and checked as a whole; knows no override and no rollout."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from serve_app.config.document import Document, SpecSource
from serve_app.config.faults import Origin
from serve_app.config.routing_source import RoutingDocument, RoutingSource
from serve_app.config.settings import ROUTING
from serve_app.control.records import digest_of
from serve_app.errors import ConfigError, Fault
from serve_app.models.registry import DynamicModelRegistry
from serve_app.models.snapshot import ResolvedModel
from serve_app.routing.build import build_routing


@dataclass(frozen=True)
class Declared:
    """A declared configuration without faults.

    Attributes:
        models: By name, in order of declaration.
        default: The model that answers where the routing names no default.
        routing: As written.
        digest: Another one with everything that may change an answer, or where it is computed.
        notices: What is worth knowing and no fault.
    """

    models: Mapping[str, ResolvedModel]
    default: str
    routing: RoutingDocument
    digest: str
    notices: tuple[Fault, ...] = field(default=(), compare=False)


class DeclaredConfiguration:
    """Reads what is declared.

    Args:
        registry: Checks it.
        models: Where models come from; a document for what never changes.
        routing: Where routing comes from; None where nothing says anything about it.
    """

    def __init__(
        self,
        registry: DynamicModelRegistry,
        models: SpecSource | Document,
        routing: RoutingSource | RoutingDocument | None = None,
    ) -> None:
        self._registry = registry
        self._models = models
        self._routing = routing

    def read(self) -> Declared:
        """Reads everything as it is now. Blocks: weights that changed are hashed anew.

        Raises:
            ConfigError: Every fault of models and routing.
        """
        routing = self._read_routing()
        try:
            models = self._models if isinstance(self._models, Document) else self._models.read()
        except ConfigError as error:
            raise ConfigError(tuple(dict.fromkeys((*error.faults, *routing.faults)))) from error
        found = self._registry.update(models, routing)
        table = build_routing(routing, tuple(found.models), found.default)
        return Declared(
            found.models, found.default, routing, digest_of(found.models, table), found.notices
        )

    def _read_routing(self) -> RoutingDocument:
        """The routing; what cannot be read is a document with the faults that say why."""
        if self._routing is None:
            return RoutingDocument({}, Origin(ROUTING))
        if isinstance(self._routing, RoutingDocument):
            return self._routing
        try:
            return self._routing.read()
        except ConfigError as error:
            return RoutingDocument({}, Origin(ROUTING), error.faults)
