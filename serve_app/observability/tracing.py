"""Spans of a request, where Ray Serve traces it; costs next to nothing where it does not.

Ray Serve begins a span in each process that a request comes to, and passes the trace on from the
client's `traceparent`. What is inside of them is told here.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from serve_app.errors import MissingExtraError

_SCOPE = "serve_app"


@contextmanager
def span(name: str, **attributes: str | float) -> Iterator[None]:
    """A part of the request that is traced now, for the length of the block; an error is noted."""
    tracer = _tracer()
    if tracer is None or not _recorded():
        yield
        return
    with tracer.start_as_current_span(name, attributes=attributes):
        yield


def note(**attributes: str | float) -> None:
    """Adds to the part of the request that is traced now."""
    if _tracer() is not None and _recorded():
        from opentelemetry import trace

        trace.get_current_span().set_attributes(attributes)


def otlp() -> list[Any]:
    """What sends spans to an OpenTelemetry collector; for `exporter_import_path` of Ray Serve.

    Where to is said by OpenTelemetry's own variables, for example `OTEL_EXPORTER_OTLP_ENDPOINT`.

    Raises:
        MissingExtraError: The exporter is not installed.
    """
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    except ImportError as error:
        raise MissingExtraError(
            "Traces need a package that is not installed: pip install 'serve-app[otel]'."
        ) from error
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    return [BatchSpanProcessor(OTLPSpanExporter())]


@cache
def _tracer() -> Any:
    try:
        from opentelemetry import trace
    except ImportError:
        return None
    return trace.get_tracer(_SCOPE)


def _recorded() -> bool:
    from opentelemetry import trace

    return bool(trace.get_current_span().is_recording())
