"""The wrapper's dialect on a listener, over the real job service and engines under the test's control."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from lib.delivery.hooks import plan_webhooks
from lib.delivery.plan import plan_convert, plan_put, plan_s3, plan_thumbnail
from lib.dialects.port import Planner
from lib.dialects.wrapper.parts import Uploads
from lib.dialects.wrapper.routes import WrapperDialect
from lib.dialects.wrapper.translate import WrapperPayload
from lib.jobs.model import Job, Workflow
from lib.jobs.ports import Aside, Prepared, Tell, untold
from lib.jobs.service import JobService
from lib.jobs.speed import SpeedGauge
from lib.lifecycle import Tasks
from lib.serving.access import CALLER, Access, Caller, Need
from lib.serving.application import Site
from lib.serving.origins import OriginPolicy
from lib.serving.server import Listener
from lib.serving.sse import EventStreams
from lib.settings import DeliverySettings, JobsSettings, ServerSettings
from lib.workflow.template import load_templates
from tests.fakes.clock import FakeClock
from tests.fakes.engine import FakeDelivery, FakeEngine, FakePreparer
from tests.fakes.jobs import build_jobs

PICTURE = {
    "1": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": 255}},
    "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "hw/w1"}},
}
MOST_BYTES = 400_000
MOST_UPLOAD_BYTES = 100_000
TEMPLATES = load_templates()


def make_payload(delivery: DeliverySettings | None = None, **jobs: Any) -> WrapperPayload:
    """The payload format with the real planners."""
    own = delivery or DeliverySettings()
    planner = Planner(
        s3=partial(plan_s3, settings=own),
        webhooks=partial(plan_webhooks, settings=own),
        put=plan_put,
        convert=plan_convert,
        thumbnail=plan_thumbnail,
    )
    return WrapperPayload(templates=TEMPLATES, planner=planner, settings=JobsSettings(**jobs))


class Remembering(FakePreparer):
    """Remembers the graphs, by request id."""

    def __init__(self) -> None:
        super().__init__()
        self.prepared: dict[str, Workflow] = {}

    async def prepare(
        self, job: Job, workflow: Workflow, *, tell: Tell = untold, aside: Aside = nullcontext
    ) -> Prepared:
        self.prepared[job.spec.request_id] = workflow
        return await super().prepare(job, workflow, tell=tell, aside=aside)


class Named(Access):
    """Believes the header ``X-Tenant``; without it everybody is the operator."""

    async def admit(self, request: web.Request, need: Need) -> None:
        await super().admit(request, need)
        if (tenant := request.headers.get("X-Tenant")) is not None:
            request[CALLER] = Caller(name=tenant, tenant=tenant, owner=tenant)


@dataclass(kw_only=True)
class Saved:
    """Implements ``SaveUpload`` in memory."""

    files: dict[str, bytes] = field(default_factory=dict)

    async def __call__(self, chunks: AsyncIterator[bytes], *, filename: str, owner: str) -> str:
        content = b"".join([chunk async for chunk in chunks])
        name = f"{owner or 'operator'}-{filename}"
        self.files[name] = content
        return name


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """Everything around one listener."""

    client: aiohttp.ClientSession
    url: str
    service: JobService
    engine: FakeEngine
    preparer: Remembering
    delivery: FakeDelivery
    speed: SpeedGauge
    streams: EventStreams
    clock: FakeClock
    saved: Saved
    blocked: list[str]

    async def post(self, body: Any, path: str = "/generate/sync", **headers: str) -> aiohttp.ClientResponse:
        """POST JSON, by default to ``/generate/sync``."""
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.client.post(path, json=body, headers=names)


@pytest.fixture
async def world() -> AsyncIterator[World]:
    """A worker whose engine ends each prompt at once; on the way out nothing is left."""
    async with AsyncExitStack() as stack:
        clock, tasks = FakeClock(), await stack.enter_async_context(Tasks())
        engine, preparer, saved = FakeEngine(automatic=True), Remembering(), Saved()
        jobs = build_jobs(
            [engine], clock=clock, tasks=tasks, preparer=preparer, durable=False, in_flight=3, backlog_bytes=1 << 20
        )
        service = jobs.service
        streams = EventStreams(tasks=tasks, clock=clock, heartbeat_s=10)
        dialect = WrapperDialect(
            jobs=service,
            payload=make_payload(),
            streams=streams,
            clock=clock,
            server=ServerSettings(max_body_bytes=MOST_BYTES),
            uploads=Uploads(save=saved, max_bytes=MOST_UPLOAD_BYTES),
        )
        site = Site(max_body_bytes=MOST_BYTES, policy=OriginPolicy(), access=Named())
        site.mount(dialect.routes(), owner=dialect.name, render_error=dialect.render_error, needs=dialect.needs())
        listener = await stack.enter_async_context(Listener(site.app, name="api", host="127.0.0.1", port=0))
        client = await stack.enter_async_context(aiohttp.ClientSession(listener.url))
        yield World(
            client=client,
            url=listener.url,
            service=service,
            engine=engine,
            preparer=preparer,
            delivery=jobs.delivery,
            speed=jobs.speed,
            streams=streams,
            clock=clock,
            saved=saved,
            blocked=jobs.blocked,
        )
        streams.close()
        await tasks.cancel()
        assert service.in_flight_count == 0
        assert jobs.queue.posted_count == 0
