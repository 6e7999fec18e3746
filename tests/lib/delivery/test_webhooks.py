"""Webhooks against real hosts on loopback: signed, retried, guarded, never in a job's way."""

import hashlib
import hmac
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest

from lib.delivery.webhooks import Webhooks
from lib.jobs.model import Job, JobStatus, WebhookTarget
from lib.lifecycle import Tasks
from lib.storage.guard import AddressGuard
from lib.storage.http import GuardedHttp
from tests.fakes.http_hosts import Names, WebHost

BODY = b'{"id":"req-1","status":"completed"}'
Opened = AbstractAsyncContextManager[Webhooks]


@pytest.fixture
async def host() -> AsyncIterator[WebHost]:
    async with WebHost() as host:
        yield host


@pytest.fixture
def told() -> list[bool]:
    return []


@pytest.fixture
def opened(told: list[bool]) -> Callable[..., Opened]:
    @asynccontextmanager
    async def open_(*, own: tuple[str, ...] = (), grace_s: float = 5.0, attempts: int = 3) -> AsyncIterator[Webhooks]:
        names = Names(hooks_example=[["127.0.0.1"]], inner_example=[["127.0.0.1"]])
        guard = AddressGuard(allow=["hooks.example"], own_urls=own, lookup=names)
        async with (
            GuardedHttp(guard) as http,
            Tasks() as tasks,
            Webhooks(
                http=http,
                tasks=tasks,
                render=lambda job, target: BODY,
                attempts=attempts,
                on_attempt=told.append,
                grace_s=grace_s,
                first_wait_s=0.0,
            ) as webhooks,
        ):
            yield webhooks

    return open_


def to(url: str, *, secret: str | None = None, timeout_s: float = 5.0, operator: bool = False) -> WebhookTarget:
    return WebhookTarget(url=url, secret=secret, timeout_s=timeout_s, operator=operator)


@pytest.mark.parametrize("status", [JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELLED])
async def test_every_outcome_is_told(
    host: WebHost, opened: Callable[..., Opened], job: Callable[..., Job], status: JobStatus
) -> None:
    """Completed, failed and cancelled jobs tell; pending webhooks are sent before the worker is gone."""
    async with opened() as webhooks:
        webhooks.notify(job(status=status, webhooks=(to(host.url("/hook", host="hooks.example")),)))
        assert webhooks.pending_count == 1
    (seen,) = host.seen
    assert (seen.method, seen.body, seen.headers["Content-Type"]) == ("POST", BODY, "application/json")
    assert "X-Webhook-Signature" not in seen.headers


async def test_who_is_not_told(host: WebHost, opened: Callable[..., Opened], job: Callable[..., Job]) -> None:
    """Unfinished jobs, our own benchmark and jobs without a webhook tell nobody."""
    target = to(host.url("/hook", host="hooks.example"))
    async with opened() as webhooks:
        webhooks.notify(job(status=JobStatus.RUNNING, webhooks=(target,)))
        webhooks.notify(job(internal=True, webhooks=(target,)))
        webhooks.notify(job())
        assert webhooks.pending_count == 0


async def test_the_body_is_signed(host: WebHost, opened: Callable[..., Opened]) -> None:
    """HMAC-SHA256 over the exact body, with the raw secret, in hex."""
    async with opened() as webhooks:
        assert await webhooks.send(to(host.url("/hook", host="hooks.example"), secret="geheim"), BODY)
    expected = hmac.new(b"geheim", host.seen[0].body, hashlib.sha256).hexdigest()
    assert host.seen[0].headers["X-Webhook-Signature"] == f"sha256={expected}"


@pytest.mark.parametrize(
    ("statuses", "delivered", "attempts"),
    [
        ([200], True, 1),
        ([500, 429, 204], True, 3),
        ([408, 200], True, 2),
        ([500, 502, 503, 200], False, 3),
        ([404, 200], False, 1),
        ([410, 200], False, 1),
        ([302, 200], False, 1),
    ],
)
async def test_retries(
    host: WebHost,
    opened: Callable[..., Opened],
    told: list[bool],
    statuses: list[int],
    delivered: bool,
    attempts: int,
) -> None:
    """5xx, 408 and 429 are tried again, so often as configured; other answers are final; redirects are failures."""
    host.statuses = list(statuses)
    async with opened() as webhooks:
        assert await webhooks.send(to(host.url("/hook", host="hooks.example")), BODY) is delivered
    assert len(host.seen) == attempts
    assert told == [False] * (attempts - delivered) + [True] * delivered


async def test_a_hanging_target_is_given_up(host: WebHost, opened: Callable[..., Opened], told: list[bool]) -> None:
    """Each attempt has a time limit."""
    async with opened(attempts=2) as webhooks:
        assert not await webhooks.send(to(host.url("/hang", host="hooks.example"), timeout_s=0.1), BODY)
    assert told == [False, False]


async def test_shutdown_does_not_wait_for_ever(
    host: WebHost, opened: Callable[..., Opened], job: Callable[..., Job], caplog: pytest.LogCaptureFixture
) -> None:
    """After the grace what still hangs is dropped, and said."""
    async with opened(grace_s=0.1) as webhooks:
        webhooks.notify(job(webhooks=(to(host.url("/hang?token=hush", host="hooks.example"), timeout_s=60),)))
        await host.arrived.wait()
    assert "webhooks given up at shutdown" in caplog.text


async def test_a_hanging_target_delays_no_other(
    host: WebHost, opened: Callable[..., Opened], job: Callable[..., Job]
) -> None:
    """Others go out while one hangs."""
    async with opened(grace_s=0.0) as webhooks:
        webhooks.notify(job(webhooks=(to(host.url("/hang", host="hooks.example"), timeout_s=60),)))
        await host.arrived.wait()
        assert await webhooks.send(to(host.url("/hook", host="hooks.example")), BODY)
        assert webhooks.pending_count == 1


async def test_inward_targets_are_refused(
    host: WebHost, opened: Callable[..., Opened], told: list[bool], caplog: pytest.LogCaptureFixture
) -> None:
    """A caller can't reach loopback, by address, name or redirect; logs name the host only."""
    caplog.set_level(logging.INFO)
    async with opened() as webhooks:
        for target in ("127.0.0.1", "inner.example"):
            assert not await webhooks.send(to(host.url("/hook?token=hush", host=target)), BODY)
        assert not host.seen
        redirect = host.url("/to?", host="hooks.example") + host.url("/hook")
        assert not await webhooks.send(to(redirect), BODY)
    assert [seen.path for seen in host.seen] == ["/to"]
    assert told == [False] * 3
    assert all("hush" not in str(record.__dict__) for record in caplog.records)


async def test_our_own_url_and_the_operators_are_open(host: WebHost, opened: Callable[..., Opened]) -> None:
    """The exact session-end URL passes, and so does the operator's own target on a private address."""
    own = host.url("/hook")
    async with opened(own=(own,)) as webhooks:
        assert await webhooks.send(to(own), BODY)
        assert not await webhooks.send(to(own + "?x"), BODY)
        assert await webhooks.send(to(own + "?x", operator=True), BODY)
    assert len(host.seen) == 2
