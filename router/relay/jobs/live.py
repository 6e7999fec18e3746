"""What a worker says of a job that it does now, for callers who ask how far it is."""

import logging

from router.dispatch import Dispatcher
from router.ports import RelayJob
from router.relay.jobs.forms import Dialect, Seen, Standing, poll_path, read_answer
from router.relay.jobs.naming import tenant_of
from router.relay.ports import Call, Upstream, WorkerBusy, WorkerLost

log = logging.getLogger(__name__)

ANSWER_S = 1.5
"""RunPod's clients give a status request three seconds."""
MOST_BYTES = 1024 * 1024


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
        call = Call(method="GET", path=path, tenant=tenant_of(job), headers=job.headers, answer_s=answer_s)
        try:
            async with self._upstream.call(worker, call) as answer:
                body = await answer.content.read(MOST_BYTES)
                while len(body) < MOST_BYTES and (more := await answer.content.read(MOST_BYTES - len(body))):
                    body += more
                return answer.status, body
        except (WorkerLost, WorkerBusy) as error:
            log.debug("no news of a job", extra={"event": "relay.no_news", "job": job.job_id, "why": error.message})
            return None
