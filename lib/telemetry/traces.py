"""Traces of finished jobs over OTLP/HTTP. Optional: without an endpoint nothing is imported and nothing costs.

Spans are made from what is known when a job is over, with the times of then; a thread of the exporter's sends them.
"""

import asyncio
import contextlib
import logging
from collections import OrderedDict
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING

from lib.settings import TelemetrySettings

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import SpanContext

log = logging.getLogger(__name__)

REMEMBERED = 1000
"""So many jobs' traces can still be added to (their webhooks are sent after their end)."""
EXPORT_TIMEOUT_S = 5.0

Fact = str | int | float


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A stretch of time, aware UTC. ``error`` is a stable name of what went wrong in it, never a message."""

    name: str
    begun_at: datetime
    ended_at: datetime
    facts: Mapping[str, Fact] = field(default_factory=dict)
    error: str = ""


class Traces:
    """Makes spans of steps. Calls are quick and never raise for a collector that is away."""

    def __init__(self, provider: "TracerProvider") -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("comfyui-pyworker")
        self._roots: OrderedDict[str, SpanContext] = OrderedDict()

    def add_job(self, job_id: str, whole: Step, parts: Sequence[Step], *, traceparent: str | None = None) -> None:
        """Record a finished job and its parts; ``traceparent`` is the W3C header that came with its request."""
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        carrier = {"traceparent": traceparent} if traceparent else {}
        root = self._span(whole, TraceContextTextMapPropagator().extract(carrier), server=True)
        self._roots[job_id] = root
        if len(self._roots) > REMEMBERED:
            self._roots.popitem(last=False)
        for part in parts:
            self.add_part(job_id, part)

    def add_part(self, job_id: str, part: Step) -> None:
        """Record something that belongs to a job recorded before; nothing happens when that is too long ago."""
        from opentelemetry.context import Context
        from opentelemetry.trace import NonRecordingSpan, set_span_in_context

        root = self._roots.get(job_id)
        if root is not None:
            self._span(part, set_span_in_context(NonRecordingSpan(root), Context()), server=False)

    def close(self) -> None:
        """Send what waits. Blocks, for seconds when the collector is away."""
        self._provider.shutdown()

    def _span(self, step: Step, parent: "Context", *, server: bool) -> "SpanContext":
        from opentelemetry.trace import SpanKind, Status, StatusCode

        span = self._tracer.start_span(
            step.name,
            context=parent,
            kind=SpanKind.SERVER if server else SpanKind.CLIENT,
            attributes=dict(step.facts),
            start_time=_ns(step.begun_at),
        )
        if step.error:
            span.set_attribute("error.type", step.error)
            span.set_status(Status(StatusCode.ERROR))
        span.end(_ns(step.ended_at))
        return span.get_span_context()


@contextlib.asynccontextmanager
async def open_traces(settings: TelemetrySettings, *, version: str = "") -> AsyncIterator[Traces | None]:
    """Yield the traces; ``None``: no endpoint is set, or the packages are missing, which is said."""
    traces = None
    if settings.otlp_endpoint:
        traces = await asyncio.to_thread(_open, settings.otlp_endpoint, settings.service_name, version)
    try:
        yield traces
    finally:
        if traces is not None:
            await asyncio.to_thread(traces.close)


def _open(endpoint: str, service_name: str, version: str) -> Traces | None:
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.trace.propagation import tracecontext  # noqa: F401 - loaded here, not on the event loop
    except ImportError as error:
        log.error(
            "no traces: OTEL_EXPORTER_OTLP_ENDPOINT is set, and its packages are missing; "
            "pip install -r requirements-traces.txt, or unset it",
            extra={"event": "traces.missing", "package": error.name},
        )
        return None
    resource = Resource.create({"service.name": service_name, "service.version": version})
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    exporter = OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces", timeout=EXPORT_TIMEOUT_S)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    log.info("traces are sent", extra={"event": "traces.on", "endpoint": endpoint, "service": service_name})
    return Traces(provider)


def _ns(at: datetime) -> int:
    return int(at.timestamp() * 1_000_000) * 1000
