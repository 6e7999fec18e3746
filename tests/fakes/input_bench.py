"""An ``InputPreparer`` with a real store, a real web host and as many servers as a test wants."""

import random
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import orjson

from lib.comfy.inputs import InputPreparer
from lib.comfy.models.inputs import ModelInputs
from lib.comfy.placing import Placer
from lib.comfy.ports import Folders
from lib.comfy.uploads import UploadStore
from lib.jobs.model import Job, JobSpec, Timings
from lib.jobs.ports import Prepared
from lib.lifecycle import Tasks
from lib.settings import DeliverySettings, StorageSettings
from lib.storage.downloads import Downloads
from lib.storage.guard import AddressGuard
from lib.storage.http import GuardedHttp
from lib.storage.local import ContentStore
from lib.storage.sources import Sources
from tests.fakes.comfy_server import OwnedServer
from tests.fakes.http_hosts import Names, WebHost

JOB = Job(
    job_id="j",
    spec=JobSpec(request_id="r", dialect="wrapper", workflow=b"{}"),
    sequence=1,
    cost=1.0,
    timings=Timings(accepted_at=datetime(2026, 1, 1, tzinfo=UTC)),
)


@dataclass
class Bench:
    """``options``: what the lists of classes offer; ``uploads``: inputs of ``MyLoader`` that are marked for upload."""

    root: Path
    host: WebHost
    stack: AsyncExitStack
    servers: list[OwnedServer] = field(default_factory=list)
    options: dict[tuple[str, str], tuple[str, ...]] = field(default_factory=dict)
    rng: random.Random | None = field(default_factory=lambda: random.Random(1))

    def engine(self, name: str = "a", *, shared: bool = True, base_url: str = "http://127.0.0.1:1") -> Path:
        folder = self.root / name
        folders = Folders(output=folder / "output", input=folder / "input")
        self.servers.append(OwnedServer(base_url, folders=folders if shared else None, name=name))
        return folders.input

    async def prepare(self, graph: dict[str, Any], *, job: Job = JOB, **settings: Any) -> Prepared:
        if job.spec.workflow == JOB.spec.workflow:
            job = job.with_(spec=replace(job.spec, workflow=orjson.dumps(graph)))
        return await (await self.preparer(**settings)).prepare(job, graph)

    async def preparer(self, *, models: ModelInputs | None = None, **settings: Any) -> InputPreparer:
        limits = StorageSettings.model_validate({"input_max_bytes": 1 << 20} | settings)
        guard = AddressGuard(allow=("files.example",), lookup=Names(files_example=[["127.0.0.1"]]))
        guarded = await self.stack.enter_async_context(GuardedHttp(guard))
        tasks = await self.stack.enter_async_context(Tasks())
        http = await self.stack.enter_async_context(aiohttp.ClientSession())
        store = ContentStore(self.root / "cache", quota_bytes=1 << 30)
        self.placer = Placer(self.servers, http=http)
        self.uploads = UploadStore(store.root, settings=limits)
        return InputPreparer(
            placer=self.placer,
            fetcher=Downloads(store=store, http=guarded, settings=limits, tasks=tasks, retry_wait_s=0.0),
            rights=Sources(settings=DeliverySettings(), guard=guard),
            uploaded=self.uploads,
            settings=limits,
            uploads=lambda name: ("clip",) if name == "MyLoader" else (),
            options=lambda class_type, name: self.options.get((class_type, name), ()),
            models=models,
            rng=self.rng,
        )

    def url(self, path: str) -> str:
        return self.host.url(path, host="files.example")


def node(class_type: str, **inputs: Any) -> dict[str, Any]:
    """One node of a graph."""
    return {"class_type": class_type, "inputs": inputs}
