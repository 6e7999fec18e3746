"""The callers of a measurement on real processes: open loop, so that nobody waits for anybody else."""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any

import aiohttp
import orjson

from benchmark.router_site import ENDPOINT, RouterSite
from benchmark.routing.stand_ins import WORK
from benchmark.routing.traces import Job
from benchmark.servers import ServerFailed

START_S = 120.0
TOLD_EVERY = 250


def session() -> aiohttp.ClientSession:
    """One for all of them, without limits."""
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=None))


async def all_here(http: aiohttp.ClientSession, site: RouterSite, workers: int) -> None:
    """Wait until the router knows everybody. Raises: ServerFailed."""
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        async with http.get(f"{site.url}/health") as response:
            told = await response.json()
        if told["endpoints"][ENDPOINT]["ready_workers"] == workers:
            return
        await asyncio.sleep(0.1)  # the other side offers nothing to wait on
    raise ServerFailed("the router does not hear all workers")


class Clients:
    """As many clients as there are jobs: each asks its router for a worker at its moment, polls, and calls the worker.

    ``told`` hears now and then how many have arrived.
    """

    def __init__(
        self,
        sites: Sequence[RouterSite],
        http: aiohttp.ClientSession,
        *,
        speed: float,
        told: Callable[[int], None],
    ) -> None:
        self._sites = sites
        self._http = http
        self._speed = speed
        self._told = told

    async def run(self, jobs: Sequence[Job]) -> list[float]:
        """Responses in the scenario's seconds."""
        begun = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            tasks = []
            for number, job in enumerate(jobs, 1):
                due = begun + job.arrived_at / self._speed
                await asyncio.sleep(max(due - time.perf_counter(), 0.0))
                tasks.append(group.create_task(self._one(job, due)))
                if number % TOLD_EVERY == 0:
                    self._told(number)
        return [task.result() for task in tasks]

    async def _one(self, job: Job, due: float) -> float:
        site, asked = self._sites[job.router], {"endpoint": ENDPOINT, "cost": job.size, "replay_timeout": 60.0}
        route = await self._route(site, asked)
        while "url" not in route:
            route = await self._route(site, asked | {"request_idx": route["request_idx"]})
        body = orjson.dumps({"auth_data": route, "payload": {"size": job.size}})
        async with self._http.post(route["url"] + WORK, data=body) as response:
            response.raise_for_status()
            await response.read()
        return (time.perf_counter() - due) * self._speed

    async def _route(self, site: RouterSite, body: dict[str, Any]) -> dict[str, Any]:
        headers = {"Authorization": f"Bearer {site.api_key}"}
        async with self._http.post(f"{site.url}/route/", data=orjson.dumps(body), headers=headers) as response:
            response.raise_for_status()
            answer: dict[str, Any] = orjson.loads(await response.read())
            return answer
