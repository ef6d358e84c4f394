"""A trace that a client begins reaches a collector, with the parts of ingress and replica."""

from __future__ import annotations

import gzip
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from serve_app.config.ray_environment import free_ports
from serve_app.observability.tracing import span
from tests.integration.launched import started
from tests.integration.support import TRUE, drawing

TRACE, CALLER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@contextmanager
def collector() -> Iterator[tuple[str, list[Span]]]:
    """What an OpenTelemetry collector is to those who send: its address, and what it was sent."""
    spans: list[Span] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            sent = ExportTraceServiceRequest.FromString(body)
            for resource in sent.resource_spans:
                for scope in resource.scope_spans:
                    spans.extend(scope.spans)
            answer = ExportTraceServiceResponse().SerializeToString()
            self.send_response(200)
            self.send_header("content-type", "application/x-protobuf")
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, format: str, *arguments: object) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", spans
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def attributes(item: Span) -> dict[str, Any]:
    found = {}
    for attribute in item.attributes:
        kind = attribute.value.WhichOneof("value")
        found[attribute.key] = getattr(attribute.value, kind or "string_value")
    return found


def test_a_clients_trace_goes_through_ingress_and_replica() -> None:
    port = free_ports(1)[0]
    url = f"http://127.0.0.1:{port}"
    with (
        collector() as (address, spans),
        started(
            "serve-app",
            "serve",
            f"--port={port}",
            OTEL_EXPORTER_OTLP_ENDPOINT=address,
            OTEL_BSP_SCHEDULE_DELAY="200",
            RAY_SERVE_TRACING_EXPORTER_IMPORT_PATH="serve_app.observability.tracing:otlp",
            # Of those that no client asks to be traced, none.
            RAY_SERVE_TRACING_SAMPLING_RATIO="0",
        ) as service,
    ):
        service.wait_for("Ready")
        files = [("image", ("drawing.png", drawing(), "image/png"))]
        for headers in ({"traceparent": f"00-{TRACE}-{CALLER}-01"}, {}):
            answer = httpx.post(
                f"{url}/v1/score", data={"text": TRUE}, files=files, headers=headers, timeout=60
            )
            assert answer.status_code == 200
        model = answer.json()["model"]
        wanted = {"POST /v1/score", "decode", "model", "batch"}
        deadline = time.monotonic() + 30
        while not wanted <= {item.name for item in spans}:
            assert time.monotonic() < deadline, [item.name for item in spans]
            time.sleep(0.1)

    assert {item.trace_id.hex() for item in spans} == {TRACE}
    by_id = {item.span_id.hex(): item for item in spans}

    def way(item: Span) -> list[str]:
        """From the client to this part."""
        parent = by_id.get(item.parent_span_id.hex())
        return [*([] if parent is None else way(parent)), item.name]

    batch = next(item for item in spans if item.name == "batch")
    at_ingress, *inside, at_batch = way(batch)
    assert at_ingress == "POST /v1/score"
    assert at_batch == "batch"
    assert any("pool-default" in name for name in inside)
    assert "model" in inside
    first = by_id[next(key for key, item in by_id.items() if item.name == at_ingress)]
    assert first.parent_span_id.hex() == CALLER
    assert attributes(batch)["similarity.model"] == model
    assert attributes(batch)["model_ms"] > 0
    told = [attributes(item) for item in spans if "similarity.model" in attributes(item)]
    assert len(told) >= 2, "the ingress tells it too"


def test_where_nothing_is_traced_a_span_is_nothing() -> None:
    with span("decode", images=1):
        pass
