"""An engine over a real ComfyUI that we launch ourselves: flags, previews, care. One process, one restart."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio

from lib.clock import SystemClock
from lib.comfy.child import Claim
from lib.comfy.engine import ComfyEngine
from lib.comfy.install import Install, plan
from lib.comfy.ports import CareAction
from lib.comfy.process import LaunchedServer
from lib.comfy.restarts import RestartPolicy, free_port
from lib.jobs.ports import Collected, Prepared
from lib.lifecycle import Tasks
from lib.settings import EngineSettings
from tests.comfyui_fixture import install_record
from tests.fakes import workflows as w
from tests.fakes.engine_world import Recorder, job_of, until

pytestmark = pytest.mark.comfyui


@dataclass
class Launched:
    """The engine, its process, and what was done for that."""

    engine: ComfyEngine
    server: LaunchedServer
    cared: list[CareAction]

    async def run(self, graph: w.Graph, observer: Recorder) -> Collected:
        job = job_of()
        execution = await self.engine.execute(
            job,
            Prepared(graph=graph, caller_graph=graph),
            observer=observer,
            withdraw=asyncio.Event(),
            timeout_s=60,
            prompt_id=job.job_id,
        )
        return await self.engine.collect(job, execution)


@pytest_asyncio.fixture
async def launched(tmp_path: Path) -> AsyncIterator[Launched]:
    record = install_record()
    environment = {str(name): str(value) for name, value in dict(record["env"] or {}).items()}  # type: ignore[call-overload]
    install = Install(python=Path(str(record["python"])), root=Path(str(record["root"])), env=environment, device="cpu")
    more = tmp_path / "more"
    (more / "sub").mkdir(parents=True)
    (more / "sub" / "of-mine.safetensors").touch()
    (tmp_path / "more.yaml").write_text(f"mine:\n    checkpoints: {more}\n")
    settings = EngineSettings(
        workspace=tmp_path,
        input_path=tmp_path / "input",
        preview_method="latent2rgb",
        recycle_after_jobs=2,
        log_level="DEBUG",
        extra_model_paths=(str(tmp_path / "more.yaml"),),
    )
    claim = await asyncio.to_thread(Claim.take, tmp_path / "run" / "comfyui-1.lock")
    assert claim is not None
    async with aiohttp.ClientSession() as http, Tasks() as tasks:
        server = LaunchedServer(
            await asyncio.to_thread(plan, settings, install, number=1),
            port=free_port(0),
            claim=claim,
            http=http,
            policy=RestartPolicy(),
            clock=SystemClock(),
        )
        engine = ComfyEngine(
            name="one",
            server=server,
            http=http,
            settings=settings,
            tasks=tasks,
            fetch_folder=tmp_path / "fetched",
            owner="test",
            care_pause_s=0.1,
        )
        cared: list[CareAction] = []
        engine.on_care(cared.append)
        tasks.spawn(server.run(), name="test.supervise")
        tasks.spawn(engine.run(), name="test.engine")
        async with asyncio.timeout(240):
            await engine.wait_ready()
        yield Launched(engine, server, cared)


async def test_settings_reach_the_process_and_a_planned_restart_costs_no_job(launched: Launched) -> None:
    """``COMFYUI_PREVIEW_METHOD``, ``COMFYUI_EXTRA_MODEL_PATHS``, ``COMFY_LOG_LEVEL``; ``COMFYUI_RECYCLE_AFTER_JOBS``
    gives a new one, as no failure."""
    assert "sub/of-mine.safetensors" in launched.engine.catalog.options("CheckpointLoaderSimple", "ckpt_name")
    assert launched.server.command[launched.server.command.index("--verbose") + 1] == "DEBUG"
    observer = Recorder()
    collected = await launched.run(w.diffusion(steps=4), observer)
    assert [output.node_id for output in collected.outputs] == ["9"]
    assert len(observer.previews) == 4
    assert {(preview.node_id, preview.mime_type) for preview in observer.previews} == {("3", "image/jpeg")}
    assert all(preview.data.startswith(b"\xff\xd8\xff") for preview in observer.previews)
    assert [(p.node_type, p.value, p.maximum) for p in observer.progress if p.value is not None] == [
        ("KSampler", float(step), 4.0) for step in range(1, 5)
    ]
    first = launched.server.pid
    await launched.run(w.picture(), Recorder())

    async def recycled() -> bool:
        return launched.cared == [CareAction.RECYCLED]

    await until(recycled)
    async with asyncio.timeout(240):
        await launched.engine.wait_ready()
    assert launched.server.pid not in (None, first)
    assert (await launched.run(w.picture(), Recorder())).outputs[0].error is None
