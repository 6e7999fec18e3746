"""Telling a caller's webhook that its job is over; in the background, best effort, never holding a job.

The body's form is a dialect's: a function that renders a job is injected. Pending webhooks live in memory only; a
persisted outbox would call ``send`` with the body it stored.
"""

import asyncio
import hashlib
import hmac
import logging
from collections.abc import Callable
from typing import Self
from urllib.parse import urlsplit

import stamina
from aiohttp import ClientConnectorCertificateError, ClientError

from lib.errors import UnsafeInput
from lib.jobs.model import Job, WebhookTarget
from lib.lifecycle import Tasks
from lib.storage.http import GuardedHttp

log = logging.getLogger(__name__)
MAX_PENDING = 1000
"""More than so many undelivered webhooks means that their targets are dead; further ones are dropped and logged."""
PARALLEL = 64

Render = Callable[[Job, WebhookTarget], bytes]
OnAttempt = Callable[[bool], None]


class _Again(Exception):
    """An attempt failed in a way that a later one may not."""


def sign(body: bytes, secret: str) -> str:
    """The API wrapper's ``X-Webhook-Signature``: HMAC-SHA256 over the exact body, keyed with the raw secret."""
    return "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


class Webhooks:
    """Sends webhooks; an async context manager that gives pending ones a short grace when it closes.

    ``on_attempt`` is told of each attempt whether it was delivered (for the metrics).
    """

    def __init__(
        self,
        *,
        http: GuardedHttp,
        tasks: Tasks,
        render: Render,
        attempts: int,
        on_attempt: OnAttempt = lambda delivered: None,
        grace_s: float = 5.0,
        first_wait_s: float = 1.0,
    ) -> None:
        self._http = http
        self._tasks = tasks
        self._render = render
        self._attempts = attempts
        self._on_attempt = on_attempt
        self._grace_s = grace_s
        self._first_wait_s = first_wait_s
        self._pending: set[asyncio.Task[bool]] = set()
        self._seats = asyncio.Semaphore(PARALLEL)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        if not self._pending:
            return
        _, late = await asyncio.wait(self._pending, timeout=self._grace_s)
        for task in late:
            task.cancel()
        if late:
            log.warning("webhooks given up at shutdown", extra={"event": "webhook.dropped", "count": len(late)})
            await asyncio.wait(late)

    @property
    def pending_count(self) -> int:
        return len(self._pending)

    def notify(self, job: Job) -> None:
        """Send the webhook of a finished job, if it has one; returns at once (a ``JobListener``).

        Snapshots of unfinished and of internal jobs are ignored, so it may listen to all changes.
        """
        if job.spec.internal or not job.status.terminal:
            return
        for target in job.spec.delivery.webhooks:
            self._begin(job, target)

    def _begin(self, job: Job, target: WebhookTarget) -> None:
        if len(self._pending) >= MAX_PENDING:
            log.error("webhook dropped: too many are pending", extra={"event": "webhook.dropped", **_where(target)})
            return
        task = self._tasks.spawn(self._notify(job, target), name=f"webhook {job.job_id}")
        self._pending.add(task)
        task.add_done_callback(self._pending.discard)

    async def _notify(self, job: Job, target: WebhookTarget) -> bool:
        async with self._seats:
            return await self.send(target, await asyncio.to_thread(self._render, job, target))

    async def send(self, target: WebhookTarget, body: bytes) -> bool:
        """POST ``body``, with retries; tell whether it was delivered (answered with 2xx). Failures are logged."""
        headers = {"Content-Type": "application/json"}
        if target.secret:
            headers["X-Webhook-Signature"] = sign(body, target.secret)
        try:
            async for attempt in stamina.retry_context(
                on=_Again,
                attempts=self._attempts,
                timeout=None,
                wait_initial=self._first_wait_s,
                wait_max=60.0,
                wait_jitter=self._first_wait_s,
            ):
                with attempt:
                    await self._attempt(target, body, headers)
        except (_Again, _Refused) as error:
            log.warning("webhook failed", extra={"event": "webhook.failed", "cause": str(error), **_where(target)})
            return False
        log.info("webhook delivered", extra={"event": "webhook.delivered", **_where(target)})
        return True

    async def _attempt(self, target: WebhookTarget, body: bytes, headers: dict[str, str]) -> None:
        delivered = False
        try:
            status = await self._http.post(
                target.url, body=body, headers=headers, timeout_s=target.timeout_s, trusted=target.operator
            )
            delivered = _check(status)
        except UnsafeInput as error:
            raise _Refused(error.message) from error
        except ClientConnectorCertificateError as error:
            raise _Refused("the certificate is not valid") from error
        except (ClientError, OSError) as error:  # TimeoutError is an OSError
            raise _Again(type(error).__name__) from error
        finally:
            self._on_attempt(delivered)


class _Refused(Exception):
    """The target will not take this webhook, or must not get it; trying again is useless."""


def _check(status: int) -> bool:
    if 200 <= status < 300:
        return True
    if status >= 500 or status in (408, 429):
        raise _Again(f"status {status}")
    raise _Refused(f"status {status}")


def _where(target: WebhookTarget) -> dict[str, object]:
    """For logs: the host and nothing more, since paths and queries of webhooks hold tokens."""
    try:
        return {"host": urlsplit(target.url).hostname}
    except ValueError:
        return {"host": None}
