"""What a worker says of a job to callers who ask: how far it is, and the result that was too large to be kept here."""

import logging
from http import HTTPStatus

from aiohttp import web

from lib.errors import NotReady, OutputNotFound
from router.dispatch import Dispatcher
from router.ports import RelayJob
from router.relay.jobs.forms import Dialect, Seen, Standing, poll_path, read_answer
from router.relay.jobs.remote import about
from router.relay.passing import LEFT, CallerLeft, Passing
from router.relay.ports import Upstream, WorkerBusy, WorkerLost

log = logging.getLogger(__name__)

ANSWER_S = 1.5
"""RunPod's clients give a status request three seconds."""
MOST_BYTES = 1024 * 1024
RESULT_S = 30.0
AGAIN_S = 5.0
GONE = "The result was too large to be kept here, and its worker has it no more; ask for links to its files instead."
AWAY = "The result is too large to be kept here, and its worker does not answer now; ask again."


class Live:
    """Asks workers. Nothing is kept of it: the record has a job's end."""

    def __init__(self, dispatcher: Dispatcher, *, upstream: Upstream) -> None:
        self._dispatcher = dispatcher
        self._upstream = upstream

    async def look(self, job: RelayJob) -> Seen | None:
        """How far it is, while it is not over."""
        told = await self.ask(job, poll_path(Dialect(job.dialect), job.remote_id, wait_s=0.0))
        seen = read_answer(*told) if told is not None else None
        return seen if seen is not None and seen.standing is Standing.LIVE else None

    async def ask(self, job: RelayJob, path: str, *, answer_s: float = ANSWER_S) -> tuple[int, bytes] | None:
        """GET something of the job's worker."""
        worker = self._dispatcher.worker(job.worker)
        if worker is None or not job.remote_id or job.cancel_wanted or job.state.over:
            return None
        call = about(job, path, answer_s=answer_s)
        try:
            async with self._upstream.call(worker, call) as answer:
                body = await answer.content.read(MOST_BYTES)
                while len(body) < MOST_BYTES and (more := await answer.content.read(MOST_BYTES - len(body))):
                    body += more
                return answer.status, body
        except (WorkerLost, WorkerBusy) as error:
            log.debug("no news of a job", extra={"event": "relay.no_news", "job": job.job_id, "why": error.message})
            return None

    async def pass_on(self, request: web.Request, job: RelayJob) -> web.StreamResponse:
        """The result of a job that is over, as its worker has it. Raises: OutputNotFound, NotReady."""
        worker, passing = self._dispatcher.worker(job.worker), Passing(request)
        if worker is None or not job.remote_id:
            raise OutputNotFound(GONE)
        path = poll_path(Dialect(job.dialect), job.remote_id, wait_s=0.0)
        call = about(job, path, answer_s=RESULT_S)
        try:
            async with self._upstream.call(worker, call) as answer:
                if answer.status == HTTPStatus.NOT_FOUND:
                    raise OutputNotFound(GONE)
                return await passing.pass_on(answer)
        except (WorkerLost, WorkerBusy) as error:
            if passing.begun:
                return await passing.break_off(error.message)
            raise NotReady(AWAY, retry_after_s=AGAIN_S) from error
        except CallerLeft:
            return web.Response(status=LEFT)
