"""Workers without engines, one process for all: ``python -m benchmark.routing.stand_ins``.

Each listens on a port of its own and speaks the worker's protocol: it reports, takes requests that a route came with,
runs them one after the other (a job sleeps for its size over the worker's speed), and tells what is over.
"""

import asyncio
import json
import socket
import sys
import time
from dataclasses import asdict, dataclass, field
from typing import Any

import aiohttp
import orjson
import uvloop
from aiohttp import web

from lib.lifecycle import Tasks
from lib.protocol.status import PROTOCOL_VERSION, DeletedRequest, DeleteRequests, RequestOutcome, WorkerStatus

WORK = "/generate/sync"
IDLE_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """``perfs`` of the workers, in their order; they tell what changed every ``interval_s``, each one of the routers,
    in turn."""

    report_urls: tuple[str, ...]
    token: str = field(repr=False)
    perfs: tuple[float, ...]
    interval_s: float

    def to_json(self) -> str:
        """For the command line."""
        return json.dumps(asdict(self))


class StandIn:
    """One worker: a queue of arrival before one engine."""

    def __init__(self, fleet: Fleet, number: int, http: aiohttp.ClientSession, *, port: int) -> None:
        self._fleet = fleet
        self._id = number + 1
        self._perf = fleet.perfs[number]
        self._report_url = fleet.report_urls[number % len(fleet.report_urls)]
        self._url = f"http://127.0.0.1:{port}"
        self._http = http
        self._engine = asyncio.Lock()
        self._working: dict[int, float] = {}
        self._over: list[DeletedRequest] = []
        self._served = 0.0
        self._seen = 0
        self._changed = asyncio.Event()
        self._ended = asyncio.Event()

    async def work(self, request: web.Request) -> web.Response:
        """Do a job. Its route must be for this worker."""
        body = orjson.loads(await request.read())
        auth, size = body["auth_data"], float(body["payload"]["size"])
        if auth["url"] != self._url or not auth["signature"]:
            return web.json_response({"error": "another worker's"}, status=401)
        entered_at, number = time.time(), int(auth["request_idx"])
        self._seen += 1
        self._working[number] = float(auth["cost"])
        self._changed.set()
        async with self._engine:
            started_at = time.time()
            await asyncio.sleep(size / self._perf)
        self._served += self._working.pop(number)
        self._over.append(
            DeletedRequest(
                request_idx=number,
                success=True,
                status=RequestOutcome.SUCCESS,
                entered_queue_at=entered_at,
                work_started_at=started_at,
                work_completed_at=time.time(),
            )
        )
        self._changed.set()
        self._ended.set()
        return web.json_response({"worker": self._id})

    async def report(self) -> None:
        """Report at once, after changes, and now and then; for ever."""
        while True:
            self._changed.clear()
            served, self._served = self._served, 0.0
            status = WorkerStatus(
                id=self._id,
                mtoken=self._fleet.token,
                version=PROTOCOL_VERSION,
                loadtime=1.0,
                cur_load=sum(self._working.values()),
                cur_perf=served,
                max_perf=self._perf,
                num_requests_working=len(self._working),
                num_requests_recieved=self._seen,
                working_request_idxs=tuple(self._working),
                url=self._url,
            )
            await self._post("/worker_status/", orjson.dumps(status.model_dump() | {"slots": 2, "engines": 1}))
            await asyncio.sleep(self._fleet.interval_s)
            try:
                await asyncio.wait_for(self._changed.wait(), IDLE_S)
            except TimeoutError:
                continue

    async def tell(self) -> None:
        """Tell what is over, at once if nothing was told lately; for ever."""
        while True:
            await self._ended.wait()
            self._ended.clear()
            over, self._over = tuple(self._over), []
            body = DeleteRequests(worker_id=self._id, mtoken=self._fleet.token, requests=over)
            await self._post("/delete_requests/", body.to_json())
            await asyncio.sleep(self._fleet.interval_s)

    async def _post(self, path: str, body: bytes) -> None:
        async with self._http.post(self._report_url + path, data=body) as response:
            response.raise_for_status()


async def serve(fleet: Fleet) -> None:
    """Until the process is stopped. Each worker takes a free port."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http, Tasks() as tasks:
        for number in range(len(fleet.perfs)):
            listener = socket.create_server(("127.0.0.1", 0))
            stand_in = StandIn(fleet, number, http, port=listener.getsockname()[1])
            app = web.Application()
            app.router.add_post(WORK, stand_in.work)
            runner = web.AppRunner(app, access_log=None)
            await runner.setup()
            await web.SockSite(runner, listener).start()
            tasks.spawn(stand_in.report(), name=f"report {number}", vital=True)
            tasks.spawn(stand_in.tell(), name=f"tell {number}", vital=True)
        await tasks.failed.wait()


def main() -> None:
    """The fleet is JSON in the first argument."""
    told: dict[str, Any] = json.loads(sys.argv[1])
    uvloop.run(serve(Fleet(**told)))


if __name__ == "__main__":
    main()
