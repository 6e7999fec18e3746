"""Tells those whom a job names of its end, where no worker does: of dead letters, of what was cancelled before a worker
had it, and of RunPod's jobs always, since a worker would tell its own name of them.

At least once: what is due is in the record, and any router takes it up when the one that has it is gone. Nothing is
held in memory for a try that is far off: it is found again when it is due.
"""

import asyncio
import hashlib
import hmac
import logging
from dataclasses import replace
from datetime import UTC, datetime
from http import HTTPStatus

import aiohttp
import orjson
from standardwebhooks import Webhook

from lib.clock import Clock
from lib.errors import UnsafeInput
from lib.lifecycle import Tasks
from lib.serving.payloads import dumps
from lib.storage.http import GuardedHttp
from router.ports import JobStore, LeaseLost, RelayJob, StoreDown
from router.relay.jobs import requests, salad_view, wrapper_view
from router.relay.jobs.forms import Dialect
from router.relay.jobs.requests import Hook
from router.relay.jobs.runpod_view import whole

log = logging.getLogger(__name__)

TIMEOUT_S = 30.0
LATE_S = 60.0
"""What is overdue for so long, nobody has in hand any more; what is due later than this, nobody until then."""
AT_ONCE = 100
"""So many that nobody has in hand are taken up in one look."""
SHORT = (1.0, 2.0, 4.0)
RUNPOD = (10.0, 10.0)
STANDARD = (5.0, 300.0, 1800.0, 7200.0, 18_000.0, 36_000.0, 50_400.0, 72_000.0, 86_400.0)


class Notices:
    """Sends each notice in a task of its own."""

    def __init__(
        self, jobs: JobStore, *, http: GuardedHttp, tasks: Tasks, clock: Clock, salad_secret: str = ""
    ) -> None:
        self._jobs = jobs
        self._salad_secret = salad_secret
        self._http = http
        self._tasks = tasks
        self._clock = clock
        self._sending: set[str] = set()

    def __len__(self) -> int:
        """How many are in hand."""
        return len(self._sending)

    def add(self, job: RelayJob) -> None:
        """A job is over; tell of it, if it is ours to tell. Its record is read anew: ``job`` may be without content."""
        if job.notice_at and job.job_id not in self._sending:
            self._sending.add(job.job_id)
            self._tasks.spawn(self._tell(job.job_id), name=f"notice {job.job_id}")

    async def look(self) -> None:
        """Take up what a router left that is gone."""
        limit = self._now() - LATE_S
        for job in await self._jobs.due(before=limit, limit=AT_ONCE + len(self._sending)):
            self.add(job)

    async def _tell(self, job_id: str) -> None:
        try:
            job = await self._jobs.get(job_id)
            while job is not None and 0 < job.notice_at < self._now() + LATE_S:
                await self._clock.sleep(max(job.notice_at - self._now(), 0.0))
                tries, waits = job.notices + 1, await self._tried(job)
                due = self._now() + waits[tries - 1] if tries <= len(waits) else 0.0
                job = replace(job, notices=tries, notice_at=due)
                await self._jobs.save(job)
        except (LeaseLost, StoreDown) as error:  # begun anew; or the next look takes it up
            log.debug("a notice is left", extra={"event": "relay.notice_left", "why": error.message})
        finally:
            self._sending.discard(job_id)

    async def _tried(self, job: RelayJob) -> tuple[float, ...]:
        """Try all; return how long to wait after each try, where another one is worth it, which goes to all: they know
        it by its id."""
        try:
            bodies = await asyncio.to_thread(_bodies, job)
            left = [hook for hook, body in bodies if not await self._posted(job, hook, body)]
        except Exception:  # the edge of a notice: a fault of ours is a try that failed, or would be met for ever
            log.exception("a notice met a fault of the router", extra={"event": "relay.fault", "job": job.job_id})
            return _waits(job, [])
        return _waits(job, left) if left else ()

    async def _posted(self, job: RelayJob, hook: Hook, body: bytes) -> bool:
        """Whether it is done: delivered, or of no use to try again."""
        facts = {"event": "relay.notice", "job": job.job_id, "try": job.notices + 1}
        hook = replace(hook, secret=self._salad_secret) if hook.with_ours else hook
        try:
            headers = {"Content-Type": "application/json"} | _signature(job, hook, body, at=self._clock.now())
            status = await self._http.post(hook.url, body=body, headers=headers, timeout_s=TIMEOUT_S)
        except (UnsafeInput, ValueError) as error:
            log.warning("a webhook is refused", extra=facts | {"why": str(error)[:200]})
            return True
        except (aiohttp.ClientError, OSError) as error:
            log.info("a webhook was not delivered", extra=facts | {"why": type(error).__name__})
            return False
        log.info("a webhook was told", extra=facts | {"status": status})
        if job.dialect == Dialect.RUNPOD:
            return status == HTTPStatus.OK
        return HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES or status == HTTPStatus.GONE

    def _now(self) -> float:
        return self._clock.now().timestamp()


def _bodies(job: RelayJob) -> list[tuple[Hook, bytes]]:
    """Whom to tell what."""
    state = wrapper_view.state_of(job)
    wanted = [hook for hook in requests.hooks(job) if not hook.outcomes or state in hook.outcomes]
    return [(hook, _body(job, hook)) for hook in wanted]


def _body(job: RelayJob, hook: Hook) -> bytes:
    match job.dialect:
        case Dialect.RUNPOD:
            told = orjson.loads(whole(job, now=job.finished_at))
            return dumps(told | {"webhook": hook.url})
        case Dialect.SALAD:
            return dumps(salad_view.webhook(job))
    return dumps(wrapper_view.webhook(job, hook.extra))


def _signature(job: RelayJob, hook: Hook, body: bytes, *, at: datetime) -> dict[str, str]:
    """Raises: ValueError for a secret that the scheme can't use."""
    if hook.standard:
        message_id = f"msg_{job.job_id}_{job.run}"
        headers = {"webhook-id": message_id, "webhook-timestamp": str(int(at.timestamp()))}
        keys = [Webhook(key) for key in hook.secret.split()]
        if keys:
            signed = [key.sign(message_id, at.astimezone(UTC), body.decode()) for key in keys]
            headers["webhook-signature"] = " ".join(signed)
        return headers
    if not hook.secret:
        return {}
    return {"X-Webhook-Signature": "sha256=" + hmac.new(hook.secret.encode(), body, hashlib.sha256).hexdigest()}


def _waits(job: RelayJob, hooks: list[Hook]) -> tuple[float, ...]:
    """Seconds after each failed try, by the most patient scheme among those that are left."""
    if job.dialect == Dialect.RUNPOD:
        return RUNPOD
    if any(hook.standard for hook in hooks):
        return STANDARD
    return SHORT
