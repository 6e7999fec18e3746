"""RunPod's side of a queue endpoint, for workers inside: hands out jobs, stops them, takes what they post.

It speaks what RunPod's SDK speaks (1.12.0): job-take and job-take-batch, job-stop, job-done for results and progress,
stream, ping. Requests that wait are held, as on the platform; everything is recorded.
"""

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Self

from aiohttp import web

WORKER_ID = "pod-1"
ENDPOINT_ID = "ep-1"
KEY = "platform-key"
HOLD_S = 20.0


@dataclass(frozen=True)
class Posted:
    """One POST to job-done: ``body`` as JSON, ``number`` in the order of arrival over all jobs."""

    job_id: str
    body: dict[str, Any]
    number: int

    @property
    def progress(self) -> bool:
        return self.body.get("status") == "IN_PROGRESS"


@dataclass
class RunPodPlatform:
    """One endpoint with one worker. ``refuse_over`` bytes a result is answered 400, as RunPod answers large ones; a
    question for jobs is held for ``hold_s``."""

    refuse_over: int = 1 << 30
    hold_s: float = HOLD_S
    jobs: asyncio.Queue[dict[str, Any]] = field(default_factory=asyncio.Queue)
    stops: asyncio.Queue[str] = field(default_factory=asyncio.Queue)
    posted: list[Posted] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    pings: list[dict[str, str]] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)
    keys: set[str] = field(default_factory=set)
    """``Authorization`` of all calls."""
    taking: int = 0
    """Requests for jobs that are held now."""

    def __post_init__(self) -> None:
        self._changed = asyncio.Condition()
        self._runner: web.AppRunner | None = None
        self.url = ""

    # -- life ---------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=1 << 30, middlewares=[self._record])
        app.add_routes(
            [
                web.get("/v2/{endpoint}/job-take/{worker}", self._take),
                web.get("/v2/{endpoint}/job-take-batch/{worker}", self._take_batch),
                web.get("/v2/{endpoint}/job-stop/{worker}", self._stop),
                web.post("/v2/{endpoint}/job-done/{worker}/{job_id}", self._done),
                web.post("/v2/{endpoint}/job-stream/{worker}/{job_id}", self._stream),
                web.get("/v2/{endpoint}/ping/{worker}", self._ping),
            ]
        )
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *exc: object) -> None:
        assert self._runner is not None
        await self._runner.cleanup()

    @property
    def environment(self) -> dict[str, str]:
        """What RunPod gives a worker's container, its checks of the machine aside (there is no GPU here)."""
        base, query = f"{self.url}/v2/{ENDPOINT_ID}", "?gpu=NVIDIA+L4"
        return {
            "RUNPOD_WEBHOOK_GET_JOB": f"{base}/job-take/$ID{query}",
            "RUNPOD_WEBHOOK_POST_OUTPUT": f"{base}/job-done/$RUNPOD_POD_ID/$ID{query}",
            "RUNPOD_WEBHOOK_POST_STREAM": f"{base}/job-stream/$RUNPOD_POD_ID/$ID{query}",
            "RUNPOD_WEBHOOK_PING": f"{base}/ping/$RUNPOD_POD_ID",
            "RUNPOD_PING_INTERVAL": "1000",
            "RUNPOD_AI_API_KEY": KEY,
            "RUNPOD_POD_ID": WORKER_ID,
            "RUNPOD_ENDPOINT_ID": ENDPOINT_ID,
            "RUNPOD_SKIP_AUTO_SYSTEM_CHECKS": "true",
            "RUNPOD_SKIP_GPU_CHECK": "true",
        }

    # -- what a test does ---------------------------------------------------------------------------------------

    async def until(self, condition: Callable[[Self], Any], *, timeout_s: float = 60.0) -> None:
        """Wait until the condition holds."""
        async with asyncio.timeout(timeout_s), self._changed:
            await self._changed.wait_for(lambda: condition(self))

    async def result(self, job_id: str, *, timeout_s: float = 60.0) -> dict[str, Any]:
        """Wait for a job's result, and return it as it was posted."""
        await self.until(lambda platform: platform.results(job_id), timeout_s=timeout_s)
        (result,) = self.results(job_id)
        return result

    def results(self, job_id: str) -> list[dict[str, Any]]:
        return [post.body for post in self.posted if post.job_id == job_id and not post.progress]

    def progress(self, job_id: str) -> list[dict[str, Any]]:
        return [post.body["output"] for post in self.posted if post.job_id == job_id and post.progress]

    # -- what a worker calls ------------------------------------------------------------------------------------

    @web.middleware
    async def _record(self, request: web.Request, handler: Any) -> web.StreamResponse:
        self.calls.append(request.path_qs)
        self.keys.add(request.headers.get("Authorization", ""))
        try:
            return await handler(request)
        finally:
            async with self._changed:
                self._changed.notify_all()

    async def _take(self, request: web.Request) -> web.Response:
        job = await self._next()
        return web.Response(status=204) if job is None else web.json_response(job)

    async def _take_batch(self, request: web.Request) -> web.Response:
        job, most = await self._next(), int(request.query["batch_size"])
        if job is None:
            return web.Response(status=204)
        more = [self.jobs.get_nowait() for _ in range(min(most - 1, self.jobs.qsize()))]
        return web.json_response([job, *more])

    async def _next(self) -> dict[str, Any] | None:
        self.taking += 1
        async with self._changed:
            self._changed.notify_all()
        try:
            return await asyncio.wait_for(self.jobs.get(), self.hold_s)
        except TimeoutError:
            return None
        finally:
            self.taking -= 1

    async def _stop(self, request: web.Request) -> web.Response:
        try:
            job_id = await asyncio.wait_for(self.stops.get(), HOLD_S)
        except TimeoutError:
            return web.Response(status=204)
        return web.json_response({"jobsToStop": [job_id]})

    async def _done(self, request: web.Request) -> web.Response:
        content, job_id = await request.read(), request.match_info["job_id"]
        if len(content) > self.refuse_over:
            self.refused.append(job_id)
            return web.json_response({"error": "payload too large"}, status=400)
        self.posted.append(Posted(job_id=job_id, body=json.loads(content), number=len(self.posted)))
        return web.json_response({})

    async def _stream(self, request: web.Request) -> web.Response:
        raise web.HTTPBadRequest(text="no handler of ours is a generator")

    async def _ping(self, request: web.Request) -> web.Response:
        self.pings.append(dict(request.query))
        return web.json_response({})
