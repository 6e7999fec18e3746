"""A collector: takes traces over OTLP/HTTP and keeps their spans."""

import asyncio
import gzip
from typing import Self

from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span


class Collector:
    """An async context manager; ``spans`` by name, ``service`` as the resource says."""

    def __init__(self) -> None:
        self.spans: dict[str, Span] = {}
        self.service = ""
        self.arrived = asyncio.Event()
        self.endpoint = ""

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_post("/v1/traces", self._take)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.endpoint = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._runner.cleanup()

    async def _take(self, request: web.Request) -> web.Response:
        body = await request.read()
        told = ExportTraceServiceRequest()
        told.ParseFromString(gzip.decompress(body) if body[:2] == b"\x1f\x8b" else body)
        for resource_spans in told.resource_spans:
            facts = {item.key: item.value.string_value for item in resource_spans.resource.attributes}
            self.service = facts["service.name"]
            for scope in resource_spans.scope_spans:
                self.spans |= {span.name: span for span in scope.spans}
        self.arrived.set()
        return web.Response(content_type="application/x-protobuf")
