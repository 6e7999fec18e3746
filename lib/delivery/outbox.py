"""Sends what the outbox holds: fresh messages at once, the others when they are due, until they are taken or given up.

Bounded in every direction: so many messages on their way, so many of them to one host, so many bytes. Whatever finds no
room stays in the store and is read again. At least once: what is not recorded as delivered is sent again.
"""

import asyncio
import contextlib
import logging
import random
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import partial
from typing import Self, TypeVar

from lib.clock import Clock
from lib.delivery.posting import Attempt, Posts
from lib.delivery.schedules import Schedule, Verdict
from lib.jobs.model import OutboxItem, WebhookScheme
from lib.jobs.ports import Busy, Outbox, OutboxState
from lib.lifecycle import Tasks, every
from lib.telemetry.logs import job_context

log = logging.getLogger(__name__)
K = TypeVar("K")

PARALLEL = 64
PER_HOST = 8
FAILING_HOST = 1
"""A host whose last attempt failed gets one seat: many dead hosts together still leave room for the living."""
FLYING_BYTES = 64 * 1024 * 1024
PORTION = 16
RESUME_S = 1.0
"""The loop starts so long after the process, and again after a failure of the store."""
HOLD_S = 60.0
"""A message whose outcome could not be recorded is not touched before."""
NAP_MIN_S = 0.05
OBSERVE_S = 30.0
REMEMBERED = 1000

OnAttempt = Callable[[Attempt, bool], None]
"""Told of each attempt, and whether the message is dead now; for metrics and traces. Must not block."""


class Room:
    """Who is on the way, and whether one more may be."""

    def __init__(self) -> None:
        self._hosts: Counter[str] = Counter()
        self._failing: OrderedDict[str, None] = OrderedDict()
        self._bytes = 0

    @property
    def full(self) -> bool:
        return self._hosts.total() >= PARALLEL or self._bytes >= FLYING_BYTES

    @property
    def crowded_hosts(self) -> frozenset[str]:
        return frozenset(host for host in self._hosts if self._crowded(host))

    def for_(self, item: OutboxItem) -> bool:
        """Whether this message may go now."""
        return not self.full and not self._crowded(item.host)

    def take(self, item: OutboxItem) -> None:
        """The message goes."""
        self._hosts[item.host] += 1
        self._bytes += len(item.body)

    def leave(self, item: OutboxItem) -> None:
        """The message is over."""
        self._bytes -= len(item.body)
        self._hosts[item.host] -= 1
        if not self._hosts[item.host]:
            del self._hosts[item.host]

    def judge(self, host: str, *, failing: bool) -> None:
        """Remember how the host took its last message."""
        self._failing.pop(host, None)
        if failing:
            _remember(self._failing, host)

    def _crowded(self, host: str) -> bool:
        return self._hosts[host] >= (FAILING_HOST if host in self._failing else PER_HOST)


class WebhookSender:
    """An async context manager: sends while it is entered, gives what is on its way a short grace when it is left."""

    def __init__(
        self,
        *,
        outbox: Outbox,
        posts: Posts,
        schedules: Mapping[WebhookScheme, Schedule],
        tasks: Tasks,
        clock: Clock,
        on_attempt: OnAttempt = lambda attempt, dead: None,
        grace_s: float = 5.0,
    ) -> None:
        self._outbox = outbox
        self._posts = posts
        self._schedules = schedules
        self._tasks = tasks
        self._clock = clock
        self._on_attempt = on_attempt
        self._grace_s = grace_s
        self._room = Room()
        self._flying: dict[str, asyncio.Task[Attempt | None] | asyncio.Task[None]] = {}
        self._begun: set[str] = set()
        self._woken = asyncio.Event()
        self._held = False
        self._gone: OrderedDict[tuple[str, str], None] = OrderedDict()
        self._loops: list[asyncio.Task[None]] = []
        self.state = OutboxState()
        """How much waits and is dead, a few seconds old at most; for metrics."""

    async def __aenter__(self) -> Self:
        await self._observe()
        for interval_s, work in ((RESUME_S, self._serve), (OBSERVE_S, self._observe)):
            loop = every(interval_s, work, name="webhooks", clock=self._clock)
            self._loops.append(self._tasks.spawn(loop, name="webhooks"))
        return self

    async def __aexit__(self, *exc: object) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._grace_s):
                while self._flying:
                    await asyncio.wait(self._flying.values())
        if self._flying:
            facts = {"event": "webhook.interrupted", "count": len(self._flying)}
            log.warning("webhooks interrupted by the shutdown; they stay in the outbox", extra=facts)
        left = [*self._loops, *self._flying.values()]
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    def send(self, items: tuple[OutboxItem, ...]) -> None:
        """Start sending messages that were stored just now; those that find no room are read again later."""
        if self._held:
            return
        for item in items:
            self._begin(item)

    def wake(self) -> None:
        """Look at the outbox: something in it became due by somebody else's hand."""
        self._woken.set()

    def hold(self, held: bool) -> None:
        """Begin nothing while the store can't write: what became of a message could not be recorded, and it would go
        out twice."""
        self._held = held
        if not held:  # what was stored meanwhile is written in a moment
            self._tasks.spawn(self._alarm(RESUME_S), name="webhook alarm")

    # -- the loop ----------------------------------------------------------------------------------------------

    async def _serve(self) -> None:
        while True:
            self._woken.clear()
            if not await self._start_due():
                await self._nap()

    async def _start_due(self) -> bool:
        """Start messages that are due; true when there may be more."""
        if self._room.full:
            return False
        self._begun.clear()
        items = await self._outbox.due(self._clock.now(), limit=PORTION, busy=self._busy())
        # what went out while the store was read may be over by now: its row is old news
        begun = [self._begin(item) for item in items if item.message_id not in self._begun]
        return any(begun)

    async def _nap(self) -> None:
        """Wait until something may be sent: a message is due, or another one made room."""
        due_at = None if self._room.full else await self._outbox.next_due(busy=self._busy())
        if due_at is None:
            await self._woken.wait()
            return
        wait_s = (due_at - self._clock.now()).total_seconds()
        alarm = self._tasks.spawn(self._alarm(max(wait_s, NAP_MIN_S)), name="webhook alarm")
        try:
            await self._woken.wait()
        finally:
            alarm.cancel()

    async def _alarm(self, wait_s: float) -> None:
        await self._clock.sleep(wait_s)
        self._woken.set()

    async def _observe(self) -> None:
        """Count, and look what is due: something may be by another hand."""
        self.state = await self._outbox.state()
        if self.state.pending_count > len(self._flying):
            self._woken.set()

    def _busy(self) -> Busy:
        return Busy(message_ids=frozenset(self._flying), hosts=self._room.crowded_hosts)

    # -- one message -------------------------------------------------------------------------------------------

    def _begin(self, item: OutboxItem) -> bool:
        if item.message_id in self._flying or not self._room.for_(item):
            return False
        self._room.take(item)
        self._begun.add(item.message_id)
        task = self._tasks.spawn(self._carry(item), name=f"webhook {item.message_id}")
        self._flying[item.message_id] = task
        task.add_done_callback(partial(self._landed, item))
        return True

    async def _carry(self, item: OutboxItem) -> Attempt | None:
        with job_context(item.job_id, owner=item.owner):
            if _target(item) in self._gone and item.last_error is None:  # one that was revived by hand goes
                await self._outbox.bury(item.message_id, error="the target answered 410 to an earlier message")
                return None
            attempt = await self._posts.post(item)
            await self._record(attempt)
            return attempt

    async def _record(self, attempt: Attempt) -> None:
        message_id, cause, facts = attempt.item.message_id, attempt.cause, _facts(attempt)
        next_at = self._next_at(attempt)
        if attempt.verdict is Verdict.DELIVERED:
            await self._outbox.delivered(message_id)
            log.info("webhook delivered", extra={"event": "webhook.delivered", **facts})
        elif next_at is not None:
            await self._outbox.postpone(message_id, next_at=next_at, error=cause)
            log.info("webhook postponed", extra={"event": "webhook.postponed", "next_at": next_at, **facts})
        else:
            await self._outbox.bury(message_id, error=cause)
            log.warning("webhook given up", extra={"event": "webhook.dead", **facts})
        self._on_attempt(attempt, attempt.verdict is not Verdict.DELIVERED and next_at is None)

    def _next_at(self, attempt: Attempt) -> datetime | None:
        if attempt.verdict is not Verdict.AGAIN:
            return None
        return self._schedules[attempt.item.target.scheme].next_at(
            failures=attempt.item.attempts + 1,
            now=attempt.ended_at,
            chance=random.random(),
            retry_after_s=attempt.retry_after_s,
        )

    def _landed(self, item: OutboxItem, task: asyncio.Task[Attempt | None]) -> None:
        if not task.cancelled() and task.exception() is not None:  # the store failed; the task's owner logged it
            self._flying[item.message_id] = self._tasks.spawn(self._hold(item), name="webhook on hold")
            return
        self._leave(item, None if task.cancelled() else task.result())

    async def _hold(self, item: OutboxItem) -> None:
        await self._clock.sleep(HOLD_S)
        self._leave(item, None)

    def _leave(self, item: OutboxItem, attempt: Attempt | None) -> None:
        again = attempt is None or attempt.verdict is Verdict.AGAIN
        if again or not self._room.for_(item):  # it is due later, or somebody waited for its seat
            self._woken.set()
        del self._flying[item.message_id]
        self._room.leave(item)
        if attempt is not None:
            self._room.judge(item.host, failing=attempt.verdict is Verdict.AGAIN)
            if attempt.verdict is Verdict.GONE:
                _remember(self._gone, _target(item))
            elif attempt.verdict is Verdict.DELIVERED:
                self._gone.pop(_target(item), None)


def _remember(known: OrderedDict[K, None], key: K) -> None:
    known[key] = None
    if len(known) > REMEMBERED:
        known.popitem(last=False)


def _target(item: OutboxItem) -> tuple[str, str]:
    return item.job_id, item.target.url


def _facts(attempt: Attempt) -> dict[str, object]:
    """For logs: of the URL the host and nothing more, since paths and queries of webhooks hold tokens."""
    item = attempt.item
    known = {"status": attempt.status, "cause": attempt.cause or None}
    facts = {"host": item.host, "message_id": item.message_id, "told": str(item.event), "attempt": item.attempts + 1}
    return facts | {name: value for name, value in known.items() if value is not None}
