"""Sessions: a client bound to this worker for a while. The only state that Vast's API makes us keep.

Each request of a session, at its start and at its end, gives it at least one more ``lifetime`` from then on; it does
not add up without bound as PyWorker's does, and it does not end under a request that is running, nor under a job that
outlives its request. When it ends (by its client, or by time) its jobs are cancelled and its ``on_close_route`` is
called once: a URL, or one of the few routes of ours on the plain listener, where nobody has the operator's rights.
Another path of ours is not called: it would be with rights that the session's client does not have.
"""

import asyncio
import contextlib
import logging
import re
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import aiohttp

from lib.clock import Clock
from lib.dialects.vast.schema import SessionTerms
from lib.errors import JobAlreadyFinished, JobNotFound, NotReady, Overloaded, ServiceError
from lib.jobs.model import Job
from lib.jobs.ports import LoadLedger
from lib.jobs.service import JobService
from lib.lifecycle import Tasks
from lib.serving.payloads import JSON_TYPE, dumps

log = logging.getLogger(__name__)

ON_CLOSE_TIMEOUT_S = 10.0
CLOSED = "The session was closed"
OWN_ROUTE = re.compile(r"/session/end|/cancel/[A-Za-z0-9._-]{1,128}")
"""What of ours is called when a session ends: routes that take a capability."""


class Post(Protocol):
    """How ``on_close_route`` is called (``lib.storage.http.GuardedHttp.post``); the status comes back."""

    async def __call__(
        self, url: str, *, body: bytes, headers: Mapping[str, str], timeout_s: float, trusted: bool = False
    ) -> int: ...


@dataclass(slots=True, kw_only=True, eq=False)
class Session:
    """An open (or just closed) session. ``deadline`` is on the monotonic clock, ``created_at`` epoch seconds."""

    session_id: str
    auth_data: dict[str, Any]
    terms: SessionTerms
    created_at: float
    deadline: float
    closed: bool = False
    running_count: int = 0
    job_ids: set[str] = field(default_factory=set)
    idle: asyncio.Event = field(default_factory=asyncio.Event)
    watch: asyncio.Task[None] | None = None


class Sessions:
    """The table of open sessions. ``plain_base`` tells the plain listener's base URL, for relative close routes;
    ``readiness`` why no work is taken now, ``None`` when it is."""

    def __init__(
        self,
        *,
        most: int,
        jobs: JobService,
        ledger: LoadLedger,
        post: Post,
        plain_base: Callable[[], str],
        readiness: Callable[[], str | None],
        clock: Clock,
        tasks: Tasks,
    ) -> None:
        self._most = most
        self._readiness = readiness
        self._jobs = jobs
        self._ledger = ledger
        self._post = post
        self._plain_base = plain_base
        self._clock = clock
        self._tasks = tasks
        self._open: dict[str, Session] = {}
        self._held: dict[str, Session] = {}
        jobs.listen(self._heard)

    def open(self, auth_data: dict[str, Any], terms: SessionTerms, *, cost: float, tag: int | None) -> Session:
        """Open a session whose ``cost`` is load until it ends. Raises: NotReady, Overloaded."""
        if (reason := self._readiness()) is not None:
            raise NotReady(f"The worker opens no sessions now: {reason}.", retry_after_s=5)
        if self._most and len(self._open) >= self._most:
            raise Overloaded(
                f"All {self._most} sessions of this worker are in use.",
                details={"limit": self._most},
                retry_after_s=self._next_expiry_s(),
            )
        session = Session(
            session_id=secrets.token_urlsafe(16),
            auth_data=auth_data,
            terms=terms,
            created_at=self._clock.now().timestamp(),
            deadline=self._clock.monotonic() + terms.lifetime_s,
        )
        session.idle.set()
        self._open[session.session_id] = session
        self._ledger.session_opened(session.session_id, cost=cost, tag=tag)
        session.watch = self._tasks.spawn(self._expire(session), name="session")
        log.info("session opened", extra={"event": "session.opened", "lifetime_s": terms.lifetime_s})
        return session

    def find(self, session_id: object) -> Session | None:
        """Return the open session of this id."""
        return self._open.get(session_id) if isinstance(session_id, str) else None

    def expires_at(self, session: Session) -> float:
        """When it ends if nothing more happens, epoch seconds."""
        return self._clock.now().timestamp() + session.deadline - self._clock.monotonic()

    @contextmanager
    def running(self, session: Session) -> Iterator[None]:
        """A request of this session is being served."""
        self._begin(session)
        try:
            yield
        finally:
            self._end(session)

    async def join(self, session: Session, job: Job, *, hold: bool = False) -> None:
        """The job belongs to the session: ends with it, is covered by its cost. Cancels it if the session ended.

        ``hold``: the session does not end by time before the job does, though no request waits for it."""
        self._ledger.session_joined(session.session_id, job.job_id)
        if job.status.terminal:
            return
        session.job_ids.add(job.job_id)
        if session.closed:
            await self._cancel(job.job_id)
        elif hold and job.job_id not in self._held:
            self._held[job.job_id] = session
            self._begin(session)
            self._heard(await self._jobs.get(job.job_id))  # it may have ended before it was held

    def close(self, session_id: str) -> bool:
        """End a session; its jobs and its close route are seen to in the background. False when there was none."""
        session = self._open.pop(session_id, None)
        if session is None:
            return False
        self._shut(session)
        self._tasks.spawn(self._wind_up(session), name="session-close")
        return True

    async def close_all(self) -> None:
        """End every session and wait until they are wound up; for the end of the worker."""
        sessions = list(self._open.values())
        self._open.clear()
        for session in sessions:
            self._shut(session)
        await asyncio.gather(*(self._wind_up(session) for session in sessions))

    def _shut(self, session: Session) -> None:
        session.closed = True
        if session.watch is not None and session.watch is not asyncio.current_task():
            session.watch.cancel()
        self._ledger.session_closed(session.session_id)
        log.info("session closed", extra={"event": "session.closed", "jobs": len(session.job_ids)})

    def _heard(self, job: Job) -> None:
        if job.status.terminal and (session := self._held.pop(job.job_id, None)) is not None:
            session.job_ids.discard(job.job_id)
            self._end(session)

    def _begin(self, session: Session) -> None:
        session.running_count += 1
        session.idle.clear()
        self._extend(session)

    def _end(self, session: Session) -> None:
        session.running_count -= 1
        self._extend(session)
        if session.running_count == 0:
            session.idle.set()

    def _extend(self, session: Session) -> None:
        session.deadline = max(session.deadline, self._clock.monotonic() + session.terms.lifetime_s)

    def _next_expiry_s(self) -> float:
        first = min(session.deadline for session in self._open.values())
        return min(max(first - self._clock.monotonic(), 1.0), 60.0)

    async def _expire(self, session: Session) -> None:
        while not session.closed:
            left_s = session.deadline - self._clock.monotonic()
            if left_s > 0:
                await self._clock.sleep(left_s)
            elif session.running_count:
                await session.idle.wait()
            else:
                self.close(session.session_id)

    async def _wind_up(self, session: Session) -> None:
        await asyncio.gather(*(self._cancel(job_id) for job_id in session.job_ids))
        if session.terms.on_close_route is not None:
            await self._call_back(session, session.terms.on_close_route)

    async def _cancel(self, job_id: str) -> None:
        with contextlib.suppress(JobAlreadyFinished, JobNotFound):
            await self._jobs.cancel(job_id, reason=CLOSED)

    async def _call_back(self, session: Session, route: str) -> None:
        relative = route.startswith("/")
        if relative and OWN_ROUTE.fullmatch(route) is None:
            log.warning("close route is not called", extra={"event": "session.on_close_refused"})
            return
        url = self._plain_base() + route if relative else route
        payload = session.terms.on_close_payload
        body = payload if isinstance(payload, dict) else {} if payload is None else {"payload": payload}
        body = {"session_id": session.session_id, **body}
        try:
            status = await self._post(
                url,
                body=dumps(body),
                headers={"Content-Type": JSON_TYPE},
                timeout_s=ON_CLOSE_TIMEOUT_S,
                trusted=relative,
            )
        except (ServiceError, aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            reason = f"{type(error).__name__}: {error}"
        else:
            reason = "" if status < 400 else f"HTTP {status}"
        if reason:
            log.warning("close route failed", extra={"event": "session.on_close_failed", "reason": reason})
