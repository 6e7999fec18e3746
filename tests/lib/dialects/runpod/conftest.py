"""RunPod's dialect on a listener, over the real job service and an engine under the test's control."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from lib.delivery.buckets import S3_CONFIG, effective
from lib.delivery.hooks import plan_url_webhook
from lib.delivery.plan import plan_s3
from lib.dialects.runpod.counts import RunPodCounts, WorkerState
from lib.dialects.runpod.routes import RunPodDialect
from lib.dialects.runpod.translate import RunPodPayload
from lib.jobs.model import Job, Output, OutputKind, Progress
from lib.jobs.ports import Collected, Execution
from lib.jobs.service import JobService
from lib.lifecycle import Tasks
from lib.serving.access import CALLER, Access, Caller, Need
from lib.serving.application import Site
from lib.serving.origins import OriginPolicy
from lib.serving.server import Listener
from lib.settings import DeliverySettings, JobsSettings, RunPodSettings, ServerSettings
from tests.fakes.clock import FakeClock, settle
from tests.fakes.engine import FakeDelivery, FakeEngine, FakePreparer
from tests.fakes.jobs import build_jobs

PICTURE = {
    "1": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": 255}},
    "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "picture"}},
}
REQUEST = {"input": {"workflow": PICTURE}}
IMAGE = Output(node_id="2", kind=OutputKind.IMAGE, source_key="images", filename="a.png", mime_type="image/png")
MOST_BYTES = 400_000
WORKER_ID = "abc123def456gh"
V2 = "/v2/my-endpoint"


def make_payload(
    *, clock: FakeClock | None = None, delivery: DeliverySettings | None = None, **settings: Any
) -> RunPodPayload:
    """The job format with the real planners."""
    clock, own = clock or FakeClock(), delivery or DeliverySettings()
    runpod = RunPodSettings(**settings)
    return RunPodPayload(
        plan_s3=lambda block: plan_s3(block, effective(own, runpod, now=clock.now()), fields=S3_CONFIG),
        plan_webhook=partial(plan_url_webhook, settings=own),
        settings=runpod,
        jobs=JobsSettings(),
        worker_id=WORKER_ID,
        clock=clock,
    )


class Scripted(FakeEngine):
    """Every prompt makes ``outputs``, and leaves ``warnings``."""

    def __init__(self, *, automatic: bool) -> None:
        super().__init__(automatic=automatic)
        self.outputs: tuple[Output, ...] = (IMAGE,)
        self.warnings: tuple[str, ...] = ()

    async def collect(self, job: Job, execution: Execution) -> Collected:
        found = await super().collect(job, execution)
        return replace(found, outputs=self.outputs, response={}, warnings=(*self.warnings, *found.warnings))

    def tell(self, *, percent: float, **facts: Any) -> None:
        """Report progress of the prompt that runs."""
        running = next(entry for entry in self.posted if entry.running)
        running.observer.progressed(Progress(percent=percent, **facts))


class Inlining(FakeDelivery):
    """Puts ``data`` (base64) into every file where that was asked for, gives every file a URL otherwise."""

    data = "aGVsbG8="

    async def deliver(self, job: Job, outputs: tuple[Output, ...]) -> tuple[Output, ...]:
        done = await super().deliver(job, outputs)
        return tuple(self._with_content(job, item) if self._has_file(item) else item for item in done)

    def _has_file(self, item: Output) -> bool:
        return bool(item.filename) and item.error is None

    def _with_content(self, job: Job, item: Output) -> Output:
        if job.spec.delivery.inline_base64:
            return replace(item, data_base64=self.data, local_path=f"/out/{item.filename}")
        return replace(item, url=f"https://bucket.example.com/{item.filename}?signature=x")


class Named(Access):
    """Believes the header ``X-Tenant``; without it everybody is the operator."""

    async def admit(self, request: web.Request, need: Need) -> None:
        await super().admit(request, need)
        if (tenant := request.headers.get("X-Tenant")) is not None:
            request[CALLER] = Caller(name=tenant, tenant=tenant, owner=tenant)


@dataclass(kw_only=True)
class World:
    """Everything around one listener."""

    client: aiohttp.ClientSession
    service: JobService
    engine: Scripted
    preparer: FakePreparer
    delivery: Inlining
    clock: FakeClock
    payload: RunPodPayload
    counts: RunPodCounts
    blocked: list[str]
    told: list[tuple[str, Any]]
    state: WorkerState = WorkerState.READY

    async def call(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        """Return status and decoded body; keywords are headers."""
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        sent = {} if body is None else {"json": body}
        async with self.client.request(method, path, headers=names, **sent) as answer:
            return answer.status, await answer.json()

    async def get(self, path: str, **headers: str) -> Any:
        """GET what must be 200."""
        status, body = await self.call("GET", path, **headers)
        assert status == 200, body
        return body

    async def post(self, path: str, body: Any = None, **headers: str) -> Any:
        """POST what must be 200."""
        status, answer = await self.call("POST", path, body, **headers)
        assert status == 200, answer
        return answer

    async def running(self, count: int = 1) -> None:
        """Wait until so many prompts are with the engine and one of them runs."""
        while len(self.engine.posted) < count or not any(entry.running for entry in self.engine.posted):
            await settle()
        await settle(50)

    async def idle(self) -> None:
        """Wait until no job is left."""
        while self.service.in_flight_count:
            await settle()


@asynccontextmanager
async def open_world(
    *, automatic: bool = True, in_flight: int = 5, durable: bool = False, **settings: Any
) -> AsyncIterator[World]:
    """A worker whose engine ends each prompt at once if it is ``automatic``; on the way out nothing is left."""
    async with AsyncExitStack() as stack:
        clock, tasks = FakeClock(), await stack.enter_async_context(Tasks())
        engine, preparer, delivery = Scripted(automatic=automatic), FakePreparer(), Inlining()
        jobs = build_jobs(
            [engine],
            clock=clock,
            tasks=tasks,
            preparer=preparer,
            durable=durable,
            in_flight=in_flight,
            delivery=delivery,
        )
        service = jobs.service
        own = {"stream_wait_s": 0.05, "stream_interval_s": 0.0, **settings}
        payload = make_payload(clock=clock, **own)
        counts = RunPodCounts(service, state=lambda: world.state)
        dialect = RunPodDialect(
            jobs=service,
            payload=payload,
            counts=counts,
            clock=clock,
            server=ServerSettings(max_body_bytes=MOST_BYTES),
            settings=RunPodSettings(**own),
        )
        site = Site(max_body_bytes=MOST_BYTES, policy=OriginPolicy(), access=Named())
        site.mount(dialect.routes(), owner=dialect.name, render_error=dialect.render_error, needs=dialect.needs())
        listener = await stack.enter_async_context(Listener(site.app, name="api", host="127.0.0.1", port=0))
        client = await stack.enter_async_context(aiohttp.ClientSession(listener.url))
        world = World(
            client=client,
            service=service,
            engine=engine,
            preparer=preparer,
            delivery=delivery,
            clock=clock,
            payload=payload,
            counts=counts,
            blocked=jobs.blocked,
            told=jobs.announcer.told,
        )
        yield world
        await tasks.cancel()
        assert service.in_flight_count == 0
        assert jobs.queue.posted_count == 0


@pytest.fixture
async def world() -> AsyncIterator[World]:
    """A worker that ends each prompt at once."""
    async with open_world() as opened:
        yield opened


@pytest.fixture
async def slow() -> AsyncIterator[World]:
    """A worker whose prompts end when the test says so."""
    async with open_world(automatic=False) as opened:
        yield opened


async def gone(call: "asyncio.Future[Any]") -> None:
    """Hang up."""
    call.cancel()
    await asyncio.wait({call})
