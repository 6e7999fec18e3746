"""The wrapper's dialect on a listener, over the real job service and engines under the test's control."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import aiohttp
import pytest

from lib.delivery.plan import plan_s3, plan_webhook
from lib.dialects.wrapper.routes import WrapperDialect
from lib.dialects.wrapper.translate import WrapperPayload
from lib.jobs.pipeline import Pipeline, PipelineLimits
from lib.jobs.queue import SlotQueue
from lib.jobs.service import JobService, ServiceLimits
from lib.jobs.speed import SpeedGauge
from lib.jobs.store import MemoryJobStore
from lib.lifecycle import Tasks
from lib.serving.application import Site
from lib.serving.origins import OriginPolicy
from lib.serving.server import Listener
from lib.settings import DeliverySettings, JobsSettings
from lib.workflow.template import load_templates
from tests.fakes.clock import FakeClock
from tests.fakes.engine import ConstantCost, FakeDelivery, FakeEngine, FakeLedger, FakePreparer

PICTURE = {
    "1": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": 255}},
    "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "hw/w1"}},
}
MOST_BYTES = 400_000
TEMPLATES = load_templates()


def make_payload(delivery: DeliverySettings | None = None, **jobs: Any) -> WrapperPayload:
    """The payload format with the real planners."""
    own = delivery or DeliverySettings()
    return WrapperPayload(
        templates=TEMPLATES,
        plan_s3=partial(plan_s3, settings=own),
        plan_webhook=partial(plan_webhook, settings=own),
        settings=JobsSettings(**jobs),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """Everything around one listener."""

    client: aiohttp.ClientSession
    service: JobService
    engine: FakeEngine
    preparer: FakePreparer
    blocked: list[str]

    async def post(self, body: Any, **headers: str) -> aiohttp.ClientResponse:
        """POST JSON to ``/generate/sync``."""
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.client.post("/generate/sync", json=body, headers=names)


@pytest.fixture
async def world() -> AsyncIterator[World]:
    """A worker whose engine ends each prompt at once; on the way out nothing is left."""
    async with AsyncExitStack() as stack:
        clock, tasks = FakeClock(), await stack.enter_async_context(Tasks())
        engine, preparer, delivery, speed = FakeEngine(automatic=True), FakePreparer(), FakeDelivery(), SpeedGauge()
        queue, blocked = SlotQueue([engine], clock=clock), list[str]()
        limits = PipelineLimits(prepare_workers=2, deliver_workers=2)
        service = JobService(
            pipeline=Pipeline(
                queue=queue, preparer=preparer, delivery=delivery, speed=speed, clock=clock, limits=limits
            ),
            queue=queue,
            store=MemoryJobStore(clock=clock, ttl_s=60, max_results=50),
            delivery=delivery,
            cost_model=ConstantCost(),
            ledger=FakeLedger(),
            speed=speed,
            clock=clock,
            tasks=tasks,
            limits=ServiceLimits(in_flight=3, backlog_bytes=1 << 20),
            readiness=lambda: blocked[0] if blocked else None,
        )
        dialect = WrapperDialect(jobs=service, payload=make_payload(), max_body_bytes=MOST_BYTES)
        site = Site(max_body_bytes=MOST_BYTES, policy=OriginPolicy())
        site.mount(dialect.routes(), owner=dialect.name, render_error=dialect.render_error)
        listener = await stack.enter_async_context(Listener(site.app, name="api", host="127.0.0.1", port=0))
        client = await stack.enter_async_context(aiohttp.ClientSession(listener.url))
        yield World(client=client, service=service, engine=engine, preparer=preparer, blocked=blocked)
        await tasks.cancel()
        assert service.in_flight_count == 0
        assert queue.posted_count == 0
