"""Our own routes on an API listener with keys and on a public one, over the real job service and files on disk."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from lib.delivery.uploads import named_files, output_names
from lib.dialects.native.in_flight import follow
from lib.dialects.native.inputs import Inputs
from lib.dialects.native.outputs import OutputFiles
from lib.dialects.native.routes import NativeDialect
from lib.jobs.ids import new_job_id
from lib.jobs.model import Job, JobSpec, OutboxItem, Output, OutputKind
from lib.serving.access import Access
from lib.serving.application import Site
from lib.serving.keyring import ApiKey, KeyRing, digest
from lib.serving.limits import KeyLimits
from lib.serving.origins import OriginPolicy
from lib.serving.server import Listener
from lib.serving.signing import Signer
from tests.fakes.engine import FakeEngine
from tests.fakes.jobs import JobWorld, build_jobs

ALICE, BOB, OPS = {"X-API-Key": "alice's key"}, {"X-API-Key": "bob's key"}, {"X-API-Key": "the admin's"}
KEYS = (
    ApiKey(name="alice", tenant="alice", sha256=digest("alice's key")),
    ApiKey(name="bob", tenant="bob", sha256=digest("bob's key"), max_in_flight=2),
    ApiKey(name="ops", tenant="ops", sha256=digest("the admin's"), admin=True),
)


@dataclass(kw_only=True)
class Saved:
    """Implements ``SaveUpload`` in memory."""

    files: list[tuple[str, str, bytes]] = field(default_factory=list)

    async def __call__(self, chunks: AsyncIterator[bytes], *, filename: str, owner: str) -> str:
        self.files.append((owner, filename, b"".join([chunk async for chunk in chunks])))
        return f"upload://{len(self.files)}.png"


@dataclass(kw_only=True)
class World:
    """The listeners and everything behind them."""

    jobs: JobWorld
    api: aiohttp.ClientSession
    public: aiohttp.ClientSession
    signer: Signer
    saved: Saved
    limits: KeyLimits
    folder: Path
    woken: list[int]

    @property
    def engine(self) -> FakeEngine:
        return self.jobs.engine

    async def job(self, request_id: str = "r", *, owner: str = "alice", ends: bool = True, **changes: Any) -> Job:
        """A job of this owner's, by default a finished one."""
        spec = JobSpec(request_id=request_id, dialect="wrapper", workflow=b"{}", body_hash=request_id, owner=owner)
        job = await self.jobs.service.submit(replace(spec, **changes))
        return await asyncio.wait_for(self.jobs.service.wait(job.job_id), 60) if ends else job

    async def with_files(self, *names: str, kinds: Mapping[str, str] | None = None, **options: Any) -> Job:
        """A finished job with files of these names, whose content is the name."""
        outputs = []
        for number, name in enumerate(names):
            path = self.folder / f"{number}-{name}"
            path.write_text(name)
            kind = (kinds or {}).get(name, "image/png")
            outputs.append(self.output(name, path, mime_type=kind))
        return await self.stored(await self.job(**options), *outputs)

    async def stored(self, job: Job, *outputs: Output, outbox: tuple[OutboxItem, ...] = ()) -> Job:
        """Another job like this finished one, with these outputs and messages."""
        made = replace(job, job_id=new_job_id(), outputs=outputs)
        await self.jobs.store.finish(made, tuple(replace(item, job_id=made.job_id) for item in outbox))
        return made

    def output(self, name: str, path: Path, **changes: Any) -> Output:
        return replace(
            Output(
                node_id="9",
                kind=OutputKind.IMAGE,
                source_key="images",
                filename=name,
                local_path=str(path),
                size_bytes=len(name),
            ),
            **changes,
        )

    async def get(
        self,
        path: str,
        *,
        headers: Mapping[str, str] | None = None,
        public: bool = False,
        method: str = "GET",
        **more: Any,
    ) -> tuple[int, Any, Mapping[str, str]]:
        """Status, body (JSON decoded) and headers."""
        client = self.public if public else self.api
        async with client.request(method, path, headers=headers, **more) as answer:
            is_json = answer.content_type == "application/json" and method != "HEAD"
            return answer.status, await answer.json() if is_json else await answer.read(), answer.headers


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    """An engine that ends each prompt at once; on the way out nothing is left."""
    async with AsyncExitStack() as stack:
        jobs = build_jobs([FakeEngine(automatic=True)])
        await stack.enter_async_context(jobs.tasks)
        signer, saved, woken, folder = Signer(b"s" * 32), Saved(), list[int](), tmp_path / "output"
        folder.mkdir()
        files = OutputFiles(
            jobs=jobs.service, signer=signer, files_of=named_files, roots=lambda: [folder], clock=jobs.clock
        )
        native = NativeDialect(
            jobs=jobs.service,
            names=output_names,
            files=files,
            uploads=Inputs(save=saved),
            outbox=jobs.store,
            wake=lambda: woken.append(1),
            clock=jobs.clock,
        )
        limits = KeyLimits(requests_per_minute=None, max_in_flight=None, clock=jobs.clock)
        jobs.service.listen(follow(limits))
        ring = KeyRing(fixed=KEYS, path=None, clock=jobs.clock)
        access = Access(keys=ring, required=True, signer=signer, limits=limits)
        api = Site(max_body_bytes=1 << 20, policy=OriginPolicy(), access=access)
        api.mount(native.routes(), owner=native.name, render_error=native.render_error, needs=native.needs())
        public = Site(max_body_bytes=1 << 20)
        public.mount(files.public_routes(), owner=native.name)
        clients = []
        for site in (api, public):
            listener = await stack.enter_async_context(Listener(site.app, name="test", host="127.0.0.1", port=0))
            clients.append(await stack.enter_async_context(aiohttp.ClientSession(listener.url)))
        yield World(
            jobs=jobs,
            api=clients[0],
            public=clients[1],
            signer=signer,
            saved=saved,
            limits=limits,
            folder=folder,
            woken=woken,
        )
        await jobs.tasks.cancel()
