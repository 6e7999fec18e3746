"""Routes of the API wrapper whose jobs are kept, lists and dead letters; and what Salad's requests are answered with
that nobody waits for."""

import asyncio
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlencode

import orjson
from aiohttp import hdrs, web

from lib.errors import Forbidden, InvalidRequest, JobNotFound
from lib.serving.links import base_url_of
from lib.serving.payloads import JSON_TYPE, json_response, require_json
from router.access import bearer_of
from router.dispatch import USUAL_COST, Figures
from router.endpoints import Scope
from router.model import Condition
from router.ports import JobState, RelayJob
from router.relay.jobs import salad_view, wrapper_view
from router.relay.jobs.accepting import Accepted
from router.relay.jobs.forms import Dialect
from router.relay.jobs.naming import owner_of
from router.relay.jobs.rendering import STATUS_BASE, number
from router.relay.jobs.tools import Tools
from router.relay.ports import Visitor, Work
from router.relay.visiting import PREFIXES

REPLAYED, APPLIED = "Idempotency-Replayed", "Preference-Applied"
RESPONSE_HEADER = "X-Include-ComfyUI-Response"
TRUE = ("1", "true", "yes", "on")
MOST_WAIT_S = 60.0
PAGE, MOST_PER_PAGE = 50, 200
NOT_STORED = {"Cache-Control": "no-store"}
_JOB = "{job_id}"
_STATES = {
    "queued": (JobState.WAITING, JobState.LEASED),
    "running": (JobState.LEASED,),
    "completed": (JobState.DONE,),
    "failed": (JobState.DONE, JobState.DEAD),
    "cancelled": (JobState.CANCELLED, JobState.DONE, JobState.DEAD, JobState.LEASED),
}
"""In which states of the store a job of this status may be."""


class WrapperJobs:
    """Handlers; ``keep`` implements ``Keeping``."""

    def __init__(self, tools: Tools, *, public_url: str | None) -> None:
        self._tools, self._shelf = tools, tools.shelf
        self._public_url = public_url

    def routes(self) -> Sequence[web.RouteDef]:
        return [
            route
            for prefix in PREFIXES
            for route in (
                web.post(f"{prefix}/generate", self._generate),
                web.get(f"{prefix}/result/{_JOB}", self._result, allow_head=False),
                web.post(f"{prefix}/cancel/{_JOB}", self._cancel),
                web.get(f"{prefix}/queue-info", self._queue_info),
                web.get(f"{prefix}/jobs", self._list),
                web.get(f"{prefix}/relay/dead", self._dead),
                web.post(f"{prefix}/relay/dead/{_JOB}/revive", self._revive),
            )
        ]

    async def keep(
        self, request: web.Request, *, visitor: Visitor, dialect: str, body: bytes, work: Work, wait_s: float = 0.0
    ) -> web.StreamResponse:
        """Take a request as a job that is kept; answer with its end, where that comes in time."""
        with self._tools.intake.counted(body):
            return await self._keep(request, visitor=visitor, dialect=dialect, body=body, work=work, wait_s=wait_s)

    async def _keep(
        self, request: web.Request, *, visitor: Visitor, dialect: str, body: bytes, work: Work, wait_s: float = 0.0
    ) -> web.StreamResponse:
        request[STATUS_BASE] = self._base(request, visitor)
        path = "/generate" if dialect == Dialect.WRAPPER else _own_path(request)
        accepted = await self._tools.accepting.accept(
            request, visitor=visitor, dialect=Dialect(dialect), path=path, body=body, work=work
        )
        job = await self._shelf.wait(accepted.job, wait_s)
        if wait_s and job.state.over:
            return await self._answer(request, job)
        if job.dialect == Dialect.SALAD:
            return json_response(salad_view.accepted(job.body), status=202, headers=NOT_STORED)
        headers = {APPLIED: "respond-async"} if "Prefer" in request.headers else {}
        return self._accepted(request, accepted, work=work, visitor=visitor, headers=headers)

    # -- submit -------------------------------------------------------------------------------------------------------

    async def _generate(self, request: web.Request) -> web.StreamResponse:
        visitor = self._shelf.visitor(request)
        require_json(request)
        async with self._tools.intake.read(request, visitor=visitor, dialect=Dialect.WRAPPER) as (body, work):
            return await self._keep(request, visitor=visitor, dialect=Dialect.WRAPPER, body=body, work=work)

    def _accepted(
        self, request: web.Request, accepted: Accepted, *, work: Work, visitor: Visitor, headers: dict[str, str]
    ) -> web.Response:
        job = accepted.job
        links = wrapper_view.links(job, request[STATUS_BASE])
        body = wrapper_view.result(job) | links
        if accepted.replayed:
            headers = {**headers, REPLAYED: "true"}
        elif (expected_s := self._tools.accepting.expected_s(visitor, work, behind=accepted.behind)) is not None:
            body["expected_wait_s"] = round(expected_s, 3)
        return json_response(body, status=202, headers={**headers, str(hdrs.LOCATION): links["status_url"]})

    # -- ask and act --------------------------------------------------------------------------------------------------

    async def _result(self, request: web.Request) -> web.StreamResponse:
        wait_s = number(request.query, "wait", most=MOST_WAIT_S, otherwise=0.0)
        return await self._answer(request, await self._shelf.wait(await self._shelf.find(request), wait_s))

    async def _cancel(self, request: web.Request) -> web.StreamResponse:
        job, named = await self._shelf.find(request), request.match_info["job_id"]
        if not job.state.over and not job.cancel_wanted:
            job = await self._shelf.cancel(job)
            if job.cancel_wanted:
                message = f"Successfully cancelled request {named}"
                return json_response({"message": message, "status": wrapper_view.state_of(job)})
        state = wrapper_view.state_of(job)
        return json_response({"message": f"Request {named} is already {state}", "status": state})

    async def _answer(self, request: web.Request, job: RelayJob) -> web.StreamResponse:
        """The worker's words, where there are any; out of its own mouth, where they are too many to be kept."""
        if job.state is JobState.DONE and not job.cancel_wanted:
            if job.result is None:
                return await self._tools.live.pass_on(request, job)
            body = await self._without_response(request, job.result)
            status = 200 if job.dialect == Dialect.RUNPOD else job.result_status
            return web.Response(body=body, status=status, headers=NOT_STORED, content_type=JSON_TYPE, charset="utf-8")
        if not job.state.over and (seen := await self._tools.live.look(job)) is not None:
            return web.Response(body=seen.body, headers=NOT_STORED, content_type=JSON_TYPE, charset="utf-8")
        if job.dialect != Dialect.SALAD:
            return json_response(wrapper_view.result(job), status=wrapper_view.http_status(job), headers=NOT_STORED)
        if not job.state.over and not job.cancel_wanted:
            return json_response(salad_view.live(job), headers=NOT_STORED)
        status, told = salad_view.trouble(job)
        return json_response(told, status=status, headers=NOT_STORED)

    async def _without_response(self, request: web.Request, body: bytes) -> bytes:
        """``comfyui_response`` is left out where the caller says so."""
        wanted = request.headers.get(RESPONSE_HEADER)
        if wanted is None or wanted.strip().lower() in TRUE:
            return body
        return await asyncio.to_thread(_stripped, body)

    async def _queue_info(self, request: web.Request) -> web.StreamResponse:
        """Of the caller's endpoint: what waits here, and what runs on its workers."""
        visitor = self._shelf.visitor(request)
        waiting, running = await self._tools.counts.live(visitor.endpoint)
        figures = self._tools.accepting.figures(visitor.endpoint)
        likely_s = None if figures.wait is None else figures.wait.likely_s + _behind_s(figures, waiting)
        now = self._shelf.now()
        body = {
            "preprocess_queue_size": 0,
            "generation_queue_size": waiting,
            "postprocess_queue_size": 0,
            "running_count": running,
            "waiting_count": waiting,
            "expected_wait_s": None if likely_s is None else round(likely_s, 3),
            "expected_start_at": None if likely_s is None else wrapper_view.iso(now + likely_s),
            "expected_s": _usual_s(figures),
        }
        return json_response(body, headers=NOT_STORED)

    # -- lists --------------------------------------------------------------------------------------------------------

    async def _list(self, request: web.Request) -> web.StreamResponse:
        bearer, query = bearer_of(request), request.query
        owner = self._owner(request)
        limit = int(number(query, "limit", least=1, most=MOST_PER_PAGE, otherwise=PAGE))
        names = [name.strip() for name in query.get("status", "").split(",") if name.strip()]
        if unknown := [name for name in names if name not in _STATES]:
            raise InvalidRequest(f"status must be of {', '.join(_STATES)}, not {unknown[0][:40]!r}")
        states = {state for name in names for state in _STATES[name]} or set(JobState)
        found = await self._shelf.listed(
            bearer,
            tenant=owner,
            states=states,
            fits=lambda job: _fits(wrapper_view.row(job, with_tenant=False), query, names),
            before=query.get("before", ""),
            most=limit + 1,
        )
        rows = [wrapper_view.row(job, with_tenant=bearer.scope is not Scope.TENANT) for job in found[:limit]]
        body: dict[str, Any] = {"jobs": rows}
        if len(found) > limit:
            body["next"] = f"{request.path}?{urlencode({**query, 'before': found[limit - 1].job_id})}"
        return json_response(body, headers=NOT_STORED)

    async def _dead(self, request: web.Request) -> web.StreamResponse:
        bearer = bearer_of(request)
        limit = int(number(request.query, "limit", least=1, most=MOST_PER_PAGE, otherwise=PAGE))
        found = await self._shelf.dead(bearer, tenant=self._owner(request), most=limit)
        with_tenant = bearer.scope is not Scope.TENANT
        letters = [
            wrapper_view.row(job, with_tenant=with_tenant) | {"what_happened": wrapper_view.attempts(job)}
            for job in found
        ]
        return json_response({"dead": letters}, headers=NOT_STORED)

    async def _revive(self, request: web.Request) -> web.StreamResponse:
        job = await self._shelf.find(request)
        if job.state is not JobState.DEAD or not await self._shelf.again(job):
            raise JobNotFound("There is no dead letter of this name.")
        return json_response({"job_id": job.job_id, "status": "queued"})

    def _owner(self, request: web.Request) -> str | None:
        """Whose jobs a list is of: a tenant's own; for others whom ``?tenant=`` names, or everybody's within reach.
        Raises: Forbidden."""
        bearer, named = bearer_of(request), request.query.get("tenant")
        if bearer.scope is Scope.TENANT:
            if named not in (None, bearer.tenant):
                raise Forbidden("`tenant` is for keys of the endpoint.")
            return owner_of(self._shelf.visitor(request))
        return None if named is None else f"{self._shelf.visitor(request).endpoint}/{named}"

    def _base(self, request: web.Request, visitor: Visitor) -> str:
        """What links begin with; they name the endpoint where the caller's key does not."""
        base = base_url_of(request, self._public_url)
        bound = bearer_of(request).endpoint and "endpoint" not in request.match_info
        return base if bound else f"{base}/e/{visitor.endpoint}"


def _behind_s(figures: Figures, waiting: int) -> float:
    """How long the jobs take that wait in the store, over those that wait for a worker already."""
    stored = max(waiting - figures.waiting_count, 0)
    return stored * _usual_size(figures) / figures.capacity if figures.capacity > 0 else 0.0


def _usual_s(figures: Figures) -> float | None:
    """How long a job like those in hand runs on a usual worker."""
    workers = figures.workers.get(Condition.READY, 0)
    return round(_usual_size(figures) * workers / figures.capacity, 3) if workers and figures.capacity > 0 else None


def _usual_size(figures: Figures) -> float:
    count = figures.waiting_count + figures.given_count
    return (figures.waiting_work + figures.given_work) / count if count else USUAL_COST


def _fits(shown: dict[str, Any], query: Any, names: Sequence[str]) -> bool:
    wanted = (("dialect", "dialect"), ("request_id", "request_id"), ("endpoint", "endpoint"))
    return (not names or shown["status"] in names) and all(
        query.get(name) in (None, "", shown[field]) for name, field in wanted
    )


def _stripped(body: bytes) -> bytes:
    try:
        told = orjson.loads(body)
    except orjson.JSONDecodeError:
        return body
    if not isinstance(told, dict) or not told.get("comfyui_response"):
        return body
    return orjson.dumps(told | {"comfyui_response": {}})


def _own_path(request: web.Request) -> str:
    raw = request.rel_url.raw_path
    return "/" + raw.split("/", 3)[3] if "endpoint" in request.match_info else raw
