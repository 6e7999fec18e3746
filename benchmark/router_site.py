"""Starts a real router for a measurement, with one endpoint, keys of its own, and a Redis server where it is asked."""

import asyncio
import json
import os
import secrets
import shutil
import sys
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmark import servers
from benchmark.servers import Server, ServerFailed, free_port

REDIS = "redis-server"
REDIS_START_S = 60.0
ENDPOINT = "bench"


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterSite:
    """A running router with what workers and clients need."""

    server: Server
    port: int
    api_key: str = field(repr=False)
    token: str = field(repr=False)

    @property
    def url(self) -> str:
        return self.server.base_url

    @property
    def report_url(self) -> str:
        """``REPORT_ADDR`` of workers."""
        return f"{self.url}/e/{ENDPOINT}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Secrets:
    """What routers that share a store share besides, and what clients and workers need."""

    api_key: str = field(default_factory=lambda: secrets.token_urlsafe(24), repr=False)
    token: str = field(default_factory=lambda: secrets.token_urlsafe(24), repr=False)
    state_key: str = field(default_factory=lambda: secrets.token_hex(32), repr=False)


@dataclass(frozen=True, slots=True)
class Cores:
    """What runs where: what is measured has the first core alone, all else the others; one core is shared."""

    measured: frozenset[int]
    others: frozenset[int]

    @property
    def apart(self) -> bool:
        return not self.measured & self.others


def cores() -> Cores:
    """The cores that this process may use, divided."""
    mine = sorted(os.sched_getaffinity(0))
    return Cores(frozenset(mine[:1]), frozenset(mine[1:] or mine))


@contextmanager
def pinned(to: frozenset[int]) -> Iterator[None]:
    """What is started inside stays on these cores."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, to)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@asynccontextmanager
async def router(
    folder: Path,
    *,
    redis: bool = False,
    cores: frozenset[int] | None = None,
    others: frozenset[int] | None = None,
    endpoint: Mapping[str, Any] | None = None,
) -> AsyncIterator[RouterSite]:
    """Start it, on ``cores``, with its Redis on ``others``, and stop it. Raises: ServerFailed."""
    mine = frozenset(os.sched_getaffinity(0))
    async with AsyncExitStack() as stack:
        with pinned(others or mine):
            store = await stack.enter_async_context(_redis()) if redis else None
        with pinned(cores or mine):
            site = await stack.enter_async_context(_router(folder, Secrets(), store=store, endpoint=endpoint))
        yield site


@asynccontextmanager
async def routers(
    folder: Path, count: int, *, endpoint: Mapping[str, Any] | None = None
) -> AsyncIterator[Sequence[RouterSite]]:
    """So many, which share a Redis server if there are several. Raises: ServerFailed."""
    async with AsyncExitStack() as stack:
        store, shared = await stack.enter_async_context(_redis()) if count > 1 else None, Secrets()
        yield [
            await stack.enter_async_context(
                _router(folder, shared, store=store, endpoint=endpoint, name=f"router-{number}")
            )
            for number in range(count)
        ]


@asynccontextmanager
async def _router(
    folder: Path, shared: Secrets, *, store: str | None, endpoint: Mapping[str, Any] | None, name: str = "router"
) -> AsyncIterator[RouterSite]:
    port = free_port()
    settings = {"name": ENDPOINT, "api_key": shared.api_key, **(endpoint or {})}
    environ = {
        **servers.environment(),
        "ROUTER_PORT": str(port),
        "ROUTER_STATE_DIR": str(folder / name),
        "ROUTER_STATE_KEY": shared.state_key,
        "ROUTER_SIGNING_KEY": str(folder / "signing_key.pem"),
        "ROUTER_ENDPOINTS": json.dumps({"endpoints": [settings]}),
        "ROUTER_WORKER_TOKENS": shared.token,
        **({"ROUTER_STORE": store} if store else {}),
    }
    starting = servers.process(
        [sys.executable, "-m", "router"],
        environ=environ,
        folder=folder,
        name=name,
        url=f"http://127.0.0.1:{port}",
        probe="/ready",
    )
    async with starting as server:
        yield RouterSite(server=server, port=port, api_key=shared.api_key, token=shared.token)


@asynccontextmanager
async def _redis() -> AsyncIterator[str]:
    """A Redis server of its own, without a disk; its URL. Raises: ServerFailed where none is installed."""
    program = shutil.which(REDIS)
    if program is None:
        raise ServerFailed(f"{REDIS} is not installed (Debian: apt-get install {REDIS})")
    port = free_port()
    command = [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    child = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.DEVNULL)
    try:
        await _answers(port)
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        child.terminate()
        await child.wait()


async def _answers(port: int) -> None:
    async with asyncio.timeout(REDIS_START_S):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.05)  # the other side offers nothing to wait on
            else:
                writer.close()
                return
