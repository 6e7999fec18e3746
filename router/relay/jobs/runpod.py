"""RunPod's API as the router serves it: ``{endpoint}`` is one of ours. Success is 200 and nothing else."""

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import orjson
from aiohttp import web

from lib.errors import InvalidRequest, JobNotFound
from lib.lifecycle import Tasks
from lib.protocol.runpod import Shown
from lib.serving.payloads import JSON_TYPE, check_json, json_response
from router.access import bearer_of
from router.ports import JobState, RelayJob
from router.relay.jobs.forms import Dialect
from router.relay.jobs.naming import owner_of
from router.relay.jobs.rendering import OWN_ID, OWN_STATE, number
from router.relay.jobs.runpod_view import brief, renamed, shown, whole
from router.relay.jobs.tools import Tools
from router.relay.ports import Visitor
from router.relay.visiting import PREFIXES

PATH = "/v2/{endpoint_id}"
_JOB = "{job_id}"
LEAST_WAIT_MS, MOST_WAIT_MS, USUAL_WAIT_MS, STREAM_WAIT_MS = 1_000, 300_000, 90_000, 5_000
MOST_TTL_MS = 604_800_000
MOST_LISTED = 100
MOST_TOLD = 10_000
"""Jobs whose end was told by ``/stream``; one that fell out of this is told once more."""
NOT_STORED = {"Cache-Control": "no-store"}
LATE_S = 2.0


class RunPodJobs:
    """Handlers."""

    def __init__(self, tools: Tools, *, tasks: Tasks) -> None:
        self._tools, self._shelf = tools, tools.shelf
        self._tasks = tasks
        self._told: OrderedDict[str, None] = OrderedDict()

    def routes(self) -> Sequence[web.RouteDef]:
        return [
            route
            for base in (prefix + PATH for prefix in PREFIXES)
            for route in (
                web.post(f"{base}/run", self._run),
                web.post(f"{base}/runsync", self._runsync),
                web.get(f"{base}/status/{_JOB}", self._status, allow_head=False),
                web.post(f"{base}/status/{_JOB}", self._status),
                web.get(f"{base}/status-sync/{_JOB}", self._status_sync, allow_head=False),
                web.post(f"{base}/status-sync/{_JOB}", self._status_sync),
                web.get(f"{base}/stream/{_JOB}", self._stream, allow_head=False),
                web.post(f"{base}/stream/{_JOB}", self._stream),
                web.post(f"{base}/cancel/{_JOB}", self._cancel),
                web.post(f"{base}/retry/{_JOB}", self._retry),
                web.post(f"{base}/purge-queue", self._purge),
                web.get(f"{base}/health", self._health),
                web.get(f"{base}/requests", self._requests),
            )
        ]

    # -- submit -------------------------------------------------------------------------------------------------------

    async def _run(self, request: web.Request) -> web.Response:
        job = await self._accept(request, awaited=False)
        return json_response({"id": job.request_id, "status": Shown.IN_QUEUE})

    async def _runsync(self, request: web.Request) -> web.Response:
        wait_s = _wait_s(request, USUAL_WAIT_MS)
        job = await self._accept(request, awaited=True)
        kept = job.hooked
        try:
            job = await self._shelf.wait(job, wait_s)
        except asyncio.CancelledError:  # the caller is gone, and nobody else is told
            if not kept:
                self._tasks.spawn(self._shelf.cancel(job), name=f"cancel {job.job_id}")
            raise
        if shown(job).final:
            return self._answer(whole(job, now=self._shelf.now()))
        return json_response({"id": job.request_id, "status": shown(job)})

    async def _accept(self, request: web.Request, *, awaited: bool) -> RelayJob:
        visitor = self._visitor(request)
        check_json(request)
        async with self._tools.intake.read(request, visitor=visitor, dialect=Dialect.RUNPOD) as (body, work):
            accepted = await self._tools.accepting.accept(
                request, visitor=visitor, dialect=Dialect.RUNPOD, path="/run", body=body, work=work, awaited=awaited
            )
        request[OWN_ID], request[OWN_STATE] = accepted.job.request_id, shown(accepted.job)
        return replace(accepted.job, body=b"")

    async def _retry(self, request: web.Request) -> web.Response:
        job = await self._find(request)
        if shown(job) not in (Shown.FAILED, Shown.TIMED_OUT) or not await self._shelf.again(job):
            raise InvalidRequest(f"Only a job that is FAILED or TIMED_OUT can be tried again; this one is {shown(job)}")
        self._told.pop(job.job_id, None)
        self._tools.counts.retried(job.endpoint)
        return json_response({"id": job.request_id, "status": Shown.IN_QUEUE})

    # -- ask ----------------------------------------------------------------------------------------------------------

    async def _status(self, request: web.Request) -> web.Response:
        job = await self._find(request)
        if "ttl" in request.query:
            ttl_s = number(request.query, "ttl", most=MOST_TTL_MS, otherwise=0.0) / 1000
            await self._shelf.forget_at(job, self._shelf.now() + ttl_s)
        if not shown(job).final and (seen := await self._tools.live.look(job)) is not None:
            return json_response(renamed(job, orjson.loads(seen.body)), headers=NOT_STORED)
        return self._answer(whole(job, now=self._shelf.now()))

    async def _status_sync(self, request: web.Request) -> web.Response:
        job = await self._shelf.wait(await self._find(request), _wait_s(request, USUAL_WAIT_MS))
        return self._answer(whole(job, now=self._shelf.now()))

    async def _stream(self, request: web.Request) -> web.Response:
        """What the worker says while it runs, the end from the record; each piece once."""
        wait_s = _wait_s(request, STREAM_WAIT_MS)
        job = await self._find(request)
        if not shown(job).final and not job.remote_id:
            job = await self._shelf.wait(job, wait_s, or_begun=True)
        if not shown(job).final and job.remote_id:
            path = f"/v2/relay/stream/{job.remote_id}?wait={int(wait_s * 1000)}"
            told = await self._tools.live.ask(job, path, answer_s=wait_s + LATE_S)
            if told is not None and (answer := _news(job, *told)) is not None:
                return json_response(answer, headers=NOT_STORED)
            job = await self._shelf.wait(job, LATE_S)
        return self._ending(job)

    def _ending(self, job: RelayJob) -> web.Response:
        state = shown(job)
        body: dict[str, Any] = {"id": job.request_id, "status": state, "stream": []}
        if not state.final:
            return json_response(body, headers=NOT_STORED)
        first = self._first(job.job_id)
        if state is Shown.CANCELLED and not first:  # RunPod's Python client never stops asking but for an error
            raise JobNotFound("The job was cancelled, and its stream is over.")
        if state is Shown.COMPLETED and first:
            body["stream"] = [{"output": orjson.loads(job.result or b"{}").get("output")}]
        if state in (Shown.FAILED, Shown.TIMED_OUT):
            body["error"] = orjson.loads(whole(job, now=self._shelf.now())).get("error", "")
        return json_response(body, headers=NOT_STORED)

    def _first(self, job_id: str) -> bool:
        if job_id in self._told:
            return False
        self._told[job_id] = None
        if len(self._told) > MOST_TOLD:
            self._told.popitem(last=False)
        return True

    async def _requests(self, request: web.Request) -> web.Response:
        own = await self._own(request, tuple(JobState), MOST_LISTED)
        rows = [brief(job, now=self._shelf.now()) for job in own]
        return json_response({"requests": rows}, headers=NOT_STORED)

    async def _health(self, request: web.Request) -> web.Response:
        endpoint = self._visitor(request).endpoint
        return json_response(await self._tools.counts.health(endpoint), headers=NOT_STORED)

    # -- act ----------------------------------------------------------------------------------------------------------

    async def _cancel(self, request: web.Request) -> web.Response:
        job = await self._find(request)
        if not shown(job).final:
            job = await self._shelf.cancel(job)
        return json_response(brief(job, now=self._shelf.now()))

    async def _purge(self, request: web.Request) -> web.Response:
        """Cancel what the caller has in the queue."""
        removed = 0
        for job in await self._own(request, (JobState.WAITING, JobState.LEASED), MOST_TOLD):
            if shown(job) is Shown.IN_QUEUE:
                removed += (await self._shelf.cancel(job)).cancel_wanted
        return json_response({"removed": removed, "status": "completed"})

    # -- find and answer ----------------------------------------------------------------------------------------------

    async def _own(self, request: web.Request, states: Sequence[JobState], most: int) -> Sequence[RelayJob]:
        owner = owner_of(self._visitor(request))
        return await self._shelf.listed(bearer_of(request), tenant=owner, states=states, fits=_is_runpods, most=most)

    def _visitor(self, request: web.Request) -> Visitor:
        return self._shelf.visitor(request, endpoint=_endpoint(request))

    async def _find(self, request: web.Request) -> RelayJob:
        job = await self._shelf.find(request, endpoint=_endpoint(request), dialect=Dialect.RUNPOD)
        request[OWN_ID], request[OWN_STATE] = job.request_id, shown(job)
        return job

    def _answer(self, body: bytes) -> web.Response:
        return web.Response(body=body, headers=NOT_STORED, content_type=JSON_TYPE, charset="utf-8")


def _endpoint(request: web.Request) -> str:
    """``/e/<name>`` says which endpoint, where it is there; RunPod's own id may be anything then."""
    return "" if "endpoint" in request.match_info else request.match_info["endpoint_id"]


def _is_runpods(job: RelayJob) -> bool:
    return job.dialect == Dialect.RUNPOD


def _wait_s(request: web.Request, usual_ms: int) -> float:
    asked = number(request.query, "wait", least=LEAST_WAIT_MS, most=MOST_WAIT_MS, otherwise=usual_ms)
    return asked / 1000


def _news(job: RelayJob, status: int, body: bytes) -> dict[str, Any] | None:
    """A worker's piece of the stream; its end is told from the record."""
    try:
        told = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    state = told.get("status") if isinstance(told, dict) else None
    if status != 200 or state not in tuple(Shown) or Shown(state).final:
        return None
    return {"id": job.request_id, "status": state, "stream": told.get("stream") or []}
