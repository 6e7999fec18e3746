"""Paths that several dialects have for one thing: a job's state, its result, its end.

They are registered once. The job that the path names is looked up, and the dialect that made it answers; of a job that
nobody knows the dialect speaks whose path it is (the first one that has it), or the primary one if it has it too.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence

from aiohttp import web
from aiohttp.typedefs import Handler

from lib.app.shared_docs import once
from lib.dialects.port import JobDialect
from lib.errors import ServiceError
from lib.jobs.model import Job
from lib.jobs.service import JobService
from lib.serving.access import caller_of
from lib.serving.openapi import Operation

Act = Callable[[JobDialect, web.Request, Job], Awaitable[web.StreamResponse]]
JOB = "{job_id}"
_SPEAKER = web.RequestKey("speaker", JobDialect)


async def _show(dialect: JobDialect, request: web.Request, job: Job) -> web.StreamResponse:
    return await dialect.show(request, job)


async def _cancel(dialect: JobDialect, request: web.Request, job: Job) -> web.StreamResponse:
    return await dialect.cancel(request, job)


ACTS: Mapping[str, Act] = {"/result/{job_id}": _show, "/status/{job_id}": _show, "/cancel/{job_id}": _cancel}
"""What is done on each shared path, by the path without its pattern."""


class SharedPaths:
    """``dialects`` by the name that jobs carry (a dialect may stand for several); ``primary`` is one of the names, or
    none of them."""

    def __init__(self, *, jobs: JobService, dialects: Mapping[str, JobDialect], primary: str) -> None:
        self._jobs = jobs
        self._dialects = dialects
        self._primary = dialects.get(primary)
        self._homes: dict[tuple[str, str], list[JobDialect]] = {}
        self._speakers: dict[Handler, JobDialect] = {}
        for dialect in dict.fromkeys(dialects.values()):
            for route in dialect.routes():
                if _canonical(route.path) in ACTS:
                    self._homes.setdefault((route.method, _canonical(route.path)), []).append(dialect)

    def routes(self) -> Sequence[web.RouteDef]:
        """Return each shared method and path once, for one listener or prefix."""
        return [
            web.route(method, path, self._answer_on(path, self._speaker(homes)))
            for (method, path), homes in self._homes.items()
        ]

    def operations(self, described: Mapping[str, Sequence[Operation]]) -> Sequence[Operation]:
        """Return the dialects' operations (by name), each shared method and path once; see ``shared_docs``."""
        return once(described, acts=ACTS, mounted=self._homes)

    def render_error(self, error: ServiceError, request: web.Request) -> web.Response:
        """Answer as the dialect does that speaks here; of a caller who was turned away nobody looked a job up."""
        speaker = request.get(_SPEAKER) or self._speakers[request.match_info.handler]
        return speaker.render_error(error, request)

    def _speaker(self, homes: Sequence[JobDialect]) -> JobDialect:
        return self._primary if self._primary in homes and self._primary is not None else homes[0]

    def _answer_on(self, path: str, speaker: JobDialect) -> Handler:
        act = ACTS[path]

        async def answer(request: web.Request) -> web.StreamResponse:
            request[_SPEAKER] = speaker
            job = await self._jobs.find(request.match_info["job_id"], owner=caller_of(request).owner)
            request[_SPEAKER] = self._dialects.get(job.spec.dialect, speaker)
            return await act(request[_SPEAKER], request, job)

        self._speakers[answer] = speaker
        return answer


def own_routes(dialect: JobDialect) -> list[web.RouteDef]:
    """Return the routes that a dialect shares with nobody."""
    return [route for route in dialect.routes() if _canonical(route.path) not in ACTS]


def _canonical(path: str) -> str:
    """``/status/{job_id:[^/]+}`` is ``/status/{job_id}``."""
    head, brace, rest = path.partition("{job_id:")
    return head + JOB if brace and rest.endswith("}") else path
