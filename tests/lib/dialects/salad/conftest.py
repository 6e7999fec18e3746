"""Salad's dialect on a listener, over the real job service and an engine under the test's control."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest
from aiohttp import web

from lib.comfy.models.desk import BroughtModel
from lib.delivery.hooks import plan_url_webhook
from lib.delivery.plan import plan_convert
from lib.delivery.storages import plan_salad_s3, plan_store
from lib.dialects.salad.routes import SaladDialect
from lib.dialects.salad.translate import SaladPayload, SaladPlanner
from lib.errors import ServiceError
from lib.jobs.model import Job, JobEvent, Output, OutputKind, WebhookScheme, WebhookTarget
from lib.jobs.ports import Collected, Execution
from lib.jobs.service import JobService
from lib.lifecycle import Tasks
from lib.serving.access import CALLER, Access, Caller, Need
from lib.serving.application import Site
from lib.serving.openapi import build
from lib.serving.origins import OriginPolicy
from lib.serving.server import Listener
from lib.settings import DeliverySettings, JobsSettings, SaladSettings, ServerSettings
from lib.workflow.endpoints.folder import WorkflowFolder
from lib.workflow.parameters import Options
from tests.fakes.clock import FakeClock, settle
from tests.fakes.engine import FakeDelivery, FakeEngine, FakePreparer
from tests.fakes.jobs import build_jobs

PICTURE = {
    "1": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": 255}},
    "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "ComfyUI"}},
}
REQUEST = {"prompt": PICTURE}
IMAGE = Output(
    node_id="2",
    kind=OutputKind.IMAGE,
    source_key="images",
    filename="x_ComfyUI_00001_.png",
    mime_type="image/png",
    size_bytes=5,
    width=64,
    height=64,
)
MOST_BYTES = 400_000
HOOK = "https://example.com/hook"
HOOK_2 = "https://example.com/hook2"
OFFERED = {("KSampler", "sampler_name"): ("euler", "ddim")}


def options(class_type: str, name: str) -> Sequence[str]:
    """What ComfyUI offers."""
    return OFFERED.get((class_type, name), ())


def make_payload(*, delivery: DeliverySettings | None = None, **settings: Any) -> SaladPayload:
    """The job format with the real planners."""
    own, salad = delivery or DeliverySettings(), SaladSettings(**settings)

    def webhook(url: str, *, field: str, scheme: WebhookScheme, message_name: str | None) -> WebhookTarget | None:
        return plan_url_webhook(url, own, loc=("body", field), scheme=scheme, message_name=message_name)

    planner = SaladPlanner(
        s3=lambda block: plan_salad_s3(block, salad, own),
        store=lambda kind, block: plan_store(kind, block, salad),
        convert=partial(plan_convert, loc=("body", "convert_output")),
        webhook=webhook,
    )
    return SaladPayload(planner=planner, settings=salad, jobs=JobsSettings())


class Scripted(FakeEngine):
    """Every prompt makes ``outputs``, and leaves ``warnings``."""

    def __init__(self, *, automatic: bool) -> None:
        super().__init__(automatic=automatic)
        self.outputs: tuple[Output, ...] = (IMAGE,)
        self.warnings: tuple[str, ...] = ()

    async def collect(self, job: Job, execution: Execution) -> Collected:
        found = await super().collect(job, execution)
        return replace(found, outputs=self.outputs, response={}, warnings=(*self.warnings, *found.warnings))


class Delivering(FakeDelivery):
    """Puts ``data`` (base64) into every file where that was asked for, brings it to the storage otherwise; or fails
    with ``error``."""

    data = "aGVsbG8="
    error: ServiceError | None = None

    async def deliver(self, job: Job, outputs: tuple[Output, ...]) -> tuple[Output, ...]:
        done = await super().deliver(job, outputs)
        if self.error is not None:
            raise self.error
        return tuple(self._with_content(job, item) if item.filename and item.error is None else item for item in done)

    def _with_content(self, job: Job, item: Output) -> Output:
        wanted = job.spec.delivery
        if wanted.inline_base64:
            return replace(item, data_base64=self.data, local_path=f"/out/{item.filename}")
        place = f"s3://{wanted.s3.bucket_name}/{wanted.s3.prefix}" if wanted.s3 else f"https://{wanted.store.kind}/"
        return replace(item, url=f"{place}{item.filename}", local_path=f"/out/{item.filename}")


@dataclass
class FakeModels:
    """Implements ``Models``."""

    error: ServiceError | None = None
    wanted: list[dict[str, Any]] = field(default_factory=list)
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    shown_to: list[str | None] = field(default_factory=list)

    async def listed(self, *, tenant: str) -> dict[str, list[str]]:
        own = [f"{tenant}.safetensors"] if tenant else []
        return {"checkpoints": ["sd.safetensors", *own], "loras": []}

    def shown(self, options: Options, *, tenant: str | None) -> Options:
        self.shown_to.append(tenant)
        return options

    async def types(self) -> Sequence[str]:
        return ("checkpoints", "loras", "custom_nodes")

    async def bring(self, **wanted: Any) -> BroughtModel:
        self.wanted.append(wanted)
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        return BroughtModel(filename=wanted["filename"] or "model.safetensors", size_bytes=12, duration_s=0.5)


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
    delivery: Delivering
    models: FakeModels
    clock: FakeClock
    payload: SaladPayload
    dialect: SaladDialect
    blocked: list[str]
    told: list[tuple[str, dict[str, Any]]]
    """URLs and bodies of webhooks."""

    async def call(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        """Return status and decoded body; keywords are headers."""
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        sent = {} if body is None else {"json": body}
        async with self.client.request(method, path, headers=names, **sent) as answer:
            return answer.status, await answer.json()

    async def post(self, path: str, body: Any, *, status: int = 200, **headers: str) -> Any:
        """POST what must be answered with this status."""
        found, answer = await self.call("POST", path, body, **headers)
        assert found == status, answer
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
    *, automatic: bool = True, in_flight: int = 5, workflows: Path | None = None, **settings: Any
) -> AsyncIterator[World]:
    """A worker whose engine ends each prompt at once if it is ``automatic``; on the way out nothing is left."""
    async with AsyncExitStack() as stack:
        clock, tasks = FakeClock(), await stack.enter_async_context(Tasks())
        engine, preparer, delivery = Scripted(automatic=automatic), FakePreparer(), Delivering()
        engine.left_files = False
        jobs = build_jobs(
            [engine], clock=clock, tasks=tasks, preparer=preparer, durable=False, in_flight=in_flight, delivery=delivery
        )
        models, payload, salad = FakeModels(), make_payload(**settings), SaladSettings(**settings)
        models.gate.set()

        async def document() -> Mapping[str, Any]:
            described = [*dialect.operations(), *await dialect.endpoint_operations()]
            return build(title="t", version="1", description="", operations=described)

        dialect = SaladDialect(
            jobs=jobs.service,
            payload=payload,
            models=models,
            document=document,
            tasks=tasks,
            server=ServerSettings(max_body_bytes=MOST_BYTES, long_poll_max_s=30.0),
            settings=salad,
            folder=None if workflows is None else WorkflowFolder(workflows, check_interval_s=0.0),
            options=options,
        )
        site = Site(max_body_bytes=MOST_BYTES, policy=OriginPolicy(), access=Named())
        site.mount(dialect.routes(), owner=dialect.name, render_error=dialect.render_error, needs=dialect.needs())
        site.mount(_shared(jobs.service, dialect), owner="shared", render_error=dialect.render_error)
        listener = await stack.enter_async_context(Listener(site.app, name="api", host="127.0.0.1", port=0))
        client = await stack.enter_async_context(aiohttp.ClientSession(listener.url))
        world = World(
            client=client,
            service=jobs.service,
            engine=engine,
            preparer=preparer,
            delivery=delivery,
            models=models,
            clock=clock,
            payload=payload,
            dialect=dialect,
            blocked=jobs.blocked,
            told=[],
        )
        jobs.service.listen(partial(_tell, world))
        yield world
        await tasks.cancel()
        assert jobs.service.in_flight_count == 0
        assert jobs.queue.posted_count == 0


def _shared(service: JobService, dialect: SaladDialect) -> list[web.RouteDef]:
    """Paths of all dialects, which ``lib.app`` gives to the one that made the job."""

    async def show(request: web.Request) -> web.StreamResponse:
        return await dialect.show(request, await service.find(request.match_info["job_id"], owner=None))

    async def cancel(request: web.Request) -> web.StreamResponse:
        return await dialect.cancel(request, await service.find(request.match_info["job_id"], owner=None))

    return [web.get("/status/{job_id}", show), web.post("/cancel/{job_id}", cancel)]


def _tell(world: World, job: Job) -> None:
    """Play the announcer, when it is over."""
    for target in job.spec.delivery.webhooks if job.status.terminal else ():
        if JobEvent(str(job.status)) in target.events:
            bodies = world.payload.render_webhook(job, target)
            listed = [bodies] if isinstance(bodies, bytes) else bodies
            world.told += [(target.url, orjson.loads(body)) for body in listed]


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
