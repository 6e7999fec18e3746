"""What breaks on request in a thread of its own, for tests that block; and what a worker tells of itself."""

import asyncio
import json
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from pathlib import Path
from typing import Any, Generic, Self, TypeVar

from aiohttp import web
from prometheus_client.parser import text_string_to_metric_families

from tests.fakes.comfyui import FakeComfyUI
from tests.integration.harness import WorkerProcess

T = TypeVar("T")
R = TypeVar("R")
PORTION_BYTES = 1 << 16


class Aside(Generic[T]):
    """A server on an event loop of its own; plain attributes of it may be set from here, the rest goes by ``do`` and
    ``call``."""

    def __init__(self, server: T, loop: asyncio.AbstractEventLoop) -> None:
        self.server = server
        self._loop = loop

    def do(self, work: Coroutine[Any, Any, R]) -> R:
        """Run ``work`` over there; return what it does."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(60)

    def call(self, act: Callable[[], object]) -> None:
        """Have ``act`` called over there: what wakes somebody up must be."""
        self._loop.call_soon_threadsafe(act)


@contextmanager
def aside(server: AbstractAsyncContextManager[T]) -> Iterator[Aside[T]]:
    """Run a server in a thread until the end of the block."""
    loop, started, entered = asyncio.new_event_loop(), threading.Event(), []
    ending = asyncio.Event()

    async def serve() -> None:
        async with server as running:
            entered.append(running)
            started.set()
            await ending.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()), daemon=True)
    thread.start()
    assert started.wait(60)
    try:
        yield Aside(entered[0], loop)
    finally:
        loop.call_soon_threadsafe(ending.set)
        thread.join(60)
        loop.close()


class ServicedFake(FakeComfyUI):
    """A fake ComfyUI with a supervisor: ``restart_cmd`` ends it and starts it anew."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.deaths_while_collected = 0
        """So often it ends for good when a history entry is asked for."""
        self.restarts = 0
        self.restart_cmd = ""
        self._supervisor: web.AppRunner | None = None
        self._dying: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        app = web.Application()
        app.router.add_post("/restart", self._restart)
        self._supervisor = web.AppRunner(app, access_log=None)
        await self._supervisor.setup()
        await web.TCPSite(self._supervisor, "127.0.0.1", 0).start()
        self.restart_cmd = f"curl -sf -X POST http://127.0.0.1:{self._supervisor.addresses[0][1]}/restart"
        return self

    async def __aexit__(self, *exc: object) -> None:
        await super().__aexit__(*exc)
        if self._supervisor is not None:
            await self._supervisor.cleanup()

    async def _restart(self, _: web.Request) -> web.Response:
        self.restarts += 1
        await self.kill()
        await self.start()
        return web.Response()

    async def start(self) -> None:
        self.wrong.silent = False
        await super().start()

    async def _get_history(self, request: web.Request) -> web.Response:
        if self.deaths_while_collected and "id" in request.match_info:
            self.deaths_while_collected -= 1
            self.wrong.silent = True  # nothing more is answered by what is about to end
            self._dying = asyncio.create_task(self.kill())
            await self._closing.wait()
            assert request.transport is not None
            request.transport.abort()
        return await super()._get_history(request)


class Line:
    """A line to a server on loopback, byte for byte; once ``cut_after`` bytes went up, it and every further
    connection break off. ``None``: it holds."""

    def __init__(self, port: int) -> None:
        self._target = port
        self.cut_after: int | None = None
        self.port = 0
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._carry, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._server is not None:
            self._server.close()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there_reader, there_writer = await asyncio.open_connection("127.0.0.1", self._target)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._flow(there_reader, writer, counted=False))
                group.create_task(self._flow(reader, there_writer, counted=True))
        except* (ConnectionError, OSError):
            pass
        finally:
            for end in (writer, there_writer):
                end.transport.abort()

    async def _flow(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, counted: bool) -> None:
        while portion := await source.read(PORTION_BYTES):
            if counted and self.cut_after is not None:
                self.cut_after -= len(portion)
                if self.cut_after < 0:
                    raise ConnectionAbortedError
            sink.write(portion)
            await sink.drain()
        raise ConnectionResetError


def metric(process: WorkerProcess, name: str, **labels: str) -> float:
    """The value of one series of ``/metrics``; 0 where there is none."""
    text = process.get("/metrics").text
    samples = (sample for family in text_string_to_metric_families(text) for sample in family.samples)
    return sum(sample.value for sample in samples if sample.name == name and labels.items() <= sample.labels.items())


def cared(process: WorkerProcess) -> dict[str, float]:
    """How often each thing was done for ComfyUI's health, without what was never done."""
    text, name = process.get("/metrics").text, "pyworker_engine_care_total"
    samples = (sample for family in text_string_to_metric_families(text) for sample in family.samples)
    return {sample.labels["action"]: sample.value for sample in samples if sample.name == name and sample.value}


def logged(process: WorkerProcess, event: str) -> list[dict[str, Any]]:
    """The facts of each log line of an event, oldest first; of a worker with ``LOG_FORMAT=json``."""
    lines = (json.loads(line) for line in process.log.read_text().splitlines() if line.startswith("{"))
    return [facts for facts in lines if facts.get("event") == event]


def care_told(process: WorkerProcess) -> list[tuple[str, str]]:
    """Action and cause of each log line about ComfyUI's health."""
    return [(facts["action"], facts["cause"]) for facts in logged(process, "engine.care")]
