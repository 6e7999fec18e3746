"""What a worker is asked about a job that it does: to take it, to tell of it, to stop it. What its answers mean, and
what follows of them, is not decided here.
"""

import asyncio
import logging
from http import HTTPStatus

from lib.errors import ServiceError
from router.ports import RelayJob
from router.registry import Worker
from router.relay.jobs import requests
from router.relay.jobs.forms import KEY_HEADER, POLL_S, Dialect, cancel_path, poll_path, submit_path
from router.relay.jobs.naming import tenant_of
from router.relay.ports import Call, Upstream, WorkerBusy, WorkerLost

log = logging.getLogger(__name__)

SUBMIT_S = 30.0
CANCEL_S = 5.0
LATE_S = 15.0
"""A long poll may answer so much later than it was asked to."""
SYNC_PATH = "/generate/sync"
ECHO_BYTES = 1024 * 1024
"""An answer to a submission may be larger by so much than what was submitted, and repeat that."""
JSON = {"Content-Type": "application/json"}


class TooLarge(ServiceError):
    """The worker's answer, which has this ``status``, is larger than what is kept."""

    def __init__(self, message: str, *, status: int) -> None:
        super().__init__(message)
        self.status = status


class Remote:
    """Status and body of what workers answer; ``max_result_bytes`` are read of a result. All raise: WorkerLost,
    WorkerBusy, TooLarge."""

    def __init__(self, upstream: Upstream, *, max_result_bytes: int) -> None:
        self._upstream = upstream
        self._max_result_bytes = max_result_bytes

    async def submit(self, worker: Worker, job: RelayJob) -> tuple[int, bytes]:
        """Give it a job, which is to be with its body; asked twice it has it once, by the key and the number."""
        call = Call(
            method="POST",
            path=submit_path(Dialect(job.dialect), job.path),
            tenant=tenant_of(job),
            request_idx=job.number,
            headers={**JSON, **job.headers, KEY_HEADER: f"relay-{job.job_id}-{job.run}-{job.attempts[-1].number}"},
            body=await _for_worker(job),
            answer_s=SUBMIT_S,
        )
        return await self._called(worker, call, most_bytes=len(job.body) + ECHO_BYTES)

    async def do(self, worker: Worker, job: RelayJob) -> tuple[int, bytes]:
        """Have it done while the connection lasts, which is all that a stock worker can."""
        headers = {**JSON, **job.headers}
        call = Call(
            method="POST",
            path=SYNC_PATH,
            tenant=tenant_of(job),
            request_idx=job.number,
            headers=headers,
            body=job.body,
        )
        return await self._called(worker, call, most_bytes=self._max_result_bytes)

    async def poll(self, worker: Worker, job: RelayJob, *, wait_s: float) -> tuple[int, bytes]:
        """Hear of it at its end, or after so many seconds."""
        path = poll_path(Dialect(job.dialect), job.remote_id, wait_s=wait_s)
        call = about(job, path, answer_s=POLL_S + LATE_S)
        return await self._called(worker, call, most_bytes=self._max_result_bytes)

    async def stop(self, worker: Worker | None, job: RelayJob) -> bool:
        """Have it stopped. False: no worker heard of that. Raises nothing."""
        if worker is None or not job.remote_id:
            return False
        path = cancel_path(Dialect(job.dialect), job.remote_id)
        call = about(job, path, method="POST", answer_s=CANCEL_S)
        try:
            status, _ = await self._called(worker, call, most_bytes=ECHO_BYTES)
        except (WorkerLost, WorkerBusy, TooLarge) as error:
            facts = {"event": "relay.uncancelled", "job": job.job_id, "worker": job.worker, "why": error.message}
            log.warning("a worker could not be told to stop a job", extra=facts)
            return False
        return status < HTTPStatus.BAD_REQUEST

    async def _called(self, worker: Worker, call: Call, *, most_bytes: int) -> tuple[int, bytes]:
        chunks, size = [], 0
        async with self._upstream.call(worker, call) as answer:
            async for chunk in answer.content.iter_any():
                size += len(chunk)
                if size > most_bytes:
                    raise TooLarge(
                        f"The result is larger than {most_bytes} bytes; ask for links to its files instead.",
                        status=answer.status,
                    )
                chunks.append(chunk)
            return answer.status, b"".join(chunks)


def about(job: RelayJob, path: str, *, method: str = "GET", answer_s: float) -> Call:
    """A request, without a body, about a job that a worker has."""
    return Call(method=method, path=path, tenant=tenant_of(job), headers=job.headers, answer_s=answer_s)


async def _for_worker(job: RelayJob) -> bytes:
    if len(job.body) < requests.BIG_BODY_BYTES:
        return requests.for_worker(job)
    return await asyncio.to_thread(requests.for_worker, job)
