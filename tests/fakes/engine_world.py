"""A ComfyEngine over a ComfyUI, fake or real, with what a test needs to drive and watch it."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import orjson

from lib.clock import Clock
from lib.comfy.care import PAUSE_S, Meter
from lib.comfy.client import ComfyClient
from lib.comfy.engine import ComfyEngine
from lib.comfy.ports import CareAction, Folders
from lib.comfy.recall import mark
from lib.comfy.rewrite import plan
from lib.comfy.tap import Tap
from lib.jobs.model import DeliverySpec, Job, JobSpec, Preview, Progress, Timings
from lib.jobs.ports import Collected, Execution, Prepared
from lib.lifecycle import Tasks
from lib.settings import EngineSettings
from tests.fakes.comfy_server import OwnedServer

SETTINGS = EngineSettings(
    history_poll_s=0.2, stall_timeout_s=0.6, interrupt_timeout_s=2.0, request_timeout_s=10.0, failure_threshold=3
)


OWNER = "the worker of the tests"


@dataclass(slots=True)
class Recorder:
    """An observer; ``saw`` is the order of calls."""

    saw: list[str] = field(default_factory=list)
    progress: list[Progress] = field(default_factory=list)
    previews: list[Preview] = field(default_factory=list)
    prompt_id: str = ""
    began: asyncio.Event = field(default_factory=asyncio.Event)
    ticked: asyncio.Event = field(default_factory=asyncio.Event)

    def posted(self, prompt_id: str) -> None:
        self.prompt_id = prompt_id
        self.saw.append("posted")

    def started(self) -> None:
        self.saw.append("started")
        self.began.set()

    def previewed(self, preview: Preview) -> None:
        self.previews.append(preview)

    def progressed(self, progress: Progress) -> None:
        self.progress.append(progress)
        if progress.value is not None:
            self.ticked.set()


def job_of(request_id: str | None = None, *, include_temp: bool = False, run: int = 1, **spec: Any) -> Job:
    """An accepted job; its workflow bytes are not looked at by an engine."""
    delivery = DeliverySpec(include_temp=include_temp)
    name = request_id or f"job-{uuid.uuid4().hex[:12]}"
    return Job(
        job_id=str(uuid.uuid4()),
        spec=JobSpec(request_id=name, dialect="test", workflow=b"{}", delivery=delivery, **spec),
        sequence=0,
        cost=100.0,
        run=run,
        timings=Timings(accepted_at=datetime.now(UTC)),
    )


@dataclass(slots=True, kw_only=True)
class World:
    """``comfyui`` is the fake or the real process' handle."""

    engine: ComfyEngine
    server: OwnedServer
    client: ComfyClient
    tasks: Tasks
    comfyui: Any
    root: Path
    fetched: Path
    running: "asyncio.Task[None]"
    cared: list[CareAction]
    """What was done for ComfyUI's health so far."""

    @property
    def output(self) -> Path:
        return self.root / "output"

    def begin(
        self,
        graph: dict[str, Any],
        *,
        job: Job | None = None,
        observer: Recorder | None = None,
        withdraw: asyncio.Event | None = None,
        timeout_s: float | None = None,
        prompt_id: str | None = None,
        attach: bool = False,
    ) -> "asyncio.Task[Execution]":
        """Execute in a task."""
        work = self.engine.execute(
            job or job_of(),
            Prepared(graph=graph, caller_graph=graph),
            observer=observer or Recorder(),
            withdraw=withdraw or asyncio.Event(),
            timeout_s=timeout_s,
            prompt_id=prompt_id or str(uuid.uuid4()),
            attach=attach,
        )
        return asyncio.create_task(work, name="test.execute")

    async def execute(self, graph: dict[str, Any], **options: Any) -> Execution:
        return await self.begin(graph, **options)

    async def run(self, graph: dict[str, Any], *, job: Job | None = None, **options: Any) -> Collected:
        """Execute and collect, and take that for recorded."""
        job = job or job_of()
        execution = await self.execute(graph, job=job, **options)
        collected = await self.engine.collect(job, execution)
        self.engine.forget(execution.prompt_id)
        return collected

    async def leave_behind(self, graph: dict[str, Any], *, job: Job, prompt_id: str | None = None) -> str:
        """Post a prompt as an earlier life of the worker did that was killed then."""
        prompt_id = prompt_id or job.job_id
        now = datetime.now(UTC)
        planned = plan(graph, self.engine.catalog, folder=job.spec.request_id, nonce=prompt_id, now=now)
        body = {"prompt": planned.graph, "prompt_id": prompt_id, "client_id": str(uuid.uuid4())}
        reply = await self.client.post_prompt(orjson.dumps(body | {"extra_data": mark(planned, owner=OWNER)}))
        assert reply.status == 200
        return prompt_id

    async def queued(self) -> int:
        return await self.client.remaining()


@asynccontextmanager
async def engine_world(
    *,
    comfyui: Any,
    root: Path,
    fetched: Path,
    settings: EngineSettings = SETTINGS,
    shared: bool = True,
    restarter: Callable[[], Coroutine[Any, Any, None]] | None = None,
    ready: bool = True,
    supervised: bool = False,
    clock: Clock | None = None,
    meter: Meter | None = None,
    care_pause_s: float = PAUSE_S,
    tap: Tap | None = None,
) -> AsyncIterator[World]:
    """Start an engine; with ``shared`` it sees ComfyUI's folders, with ``meter`` its process is ours."""
    folders = Folders(output=root / "output", input=root / "input", temp=root / "temp") if shared else None
    server = OwnedServer(comfyui.base_url, folders=folders, restarter=restarter, supervised=supervised)
    async with aiohttp.ClientSession() as http, Tasks() as tasks:
        server.pid = 1 if meter is not None else None
        engine = ComfyEngine(
            name="one",
            server=server,
            http=http,
            settings=settings,
            tasks=tasks,
            fetch_folder=fetched,
            owner=OWNER,
            clock=clock,
            meter=meter,
            care_pause_s=care_pause_s,
            tap=tap,
        )
        cared: list[CareAction] = []
        engine.on_care(cared.append)
        running = tasks.spawn(engine.run(), name="test.engine")
        if ready:
            async with asyncio.timeout(120):
                await engine.wait_ready()
        yield World(
            engine=engine,
            server=server,
            client=ComfyClient(comfyui.base_url, http, timeout_s=10),
            tasks=tasks,
            comfyui=comfyui,
            root=root,
            fetched=fetched,
            running=running,
            cared=cared,
        )


async def until(check: Callable[[], Awaitable[bool]], *, timeout_s: float = 60.0) -> None:
    """Wait for something that no event tells."""
    async with asyncio.timeout(timeout_s):
        while not await check():
            await asyncio.sleep(0.02)
