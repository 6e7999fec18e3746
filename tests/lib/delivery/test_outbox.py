"""Sending what the outbox holds, against real hosts on loopback and a clock that is turned by hand."""

import asyncio
import base64
import io
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from standardwebhooks import Webhook

from lib.delivery.outbox import FLYING_BYTES, HOLD_S, PARALLEL, PER_HOST, Room, WebhookSender
from lib.delivery.posting import Attempt, Posts
from lib.delivery.schedules import STANDARD, Verdict, schedules
from lib.jobs.model import JobEvent, OutboxItem, WebhookScheme, WebhookTarget
from lib.jobs.ports import NOTHING_BUSY, Busy, OutboxState
from lib.jobs.retention import Retention
from lib.jobs.store import MemoryJobStore
from lib.lifecycle import Tasks
from lib.settings import DeliverySettings
from lib.storage.guard import AddressGuard
from lib.storage.http import GuardedHttp
from lib.telemetry.logs import configure_logging
from tests.fakes.clock import FakeClock, settle
from tests.fakes.http_hosts import Names, WebHost

BODY = b'{"id":"req-1","status":"completed"}'
SECRET = "whsec_" + base64.b64encode(b"a key of two dozen bytes").decode()
HOUR_S = 3600.0


class Shelf(MemoryJobStore):
    """The in-memory store, which can be told to fail, and counts who reads it."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__(clock=clock, retention=Retention(ttl_s=HOUR_S, max_results=100))
        self.reads = 0
        self.broken_reads = 0
        self.broken_writes = 0

    def put(self, *items: OutboxItem) -> tuple[OutboxItem, ...]:
        """Store messages as a finished job would."""
        self._keep(items)
        return items

    async def due(self, now: datetime, *, limit: int, busy: Busy = NOTHING_BUSY) -> list[OutboxItem]:
        self.reads += 1
        if self.broken_reads:
            self.broken_reads -= 1
            raise OSError("disk I/O error")
        return await super().due(now, limit=limit, busy=busy)

    async def delivered(self, message_id: str) -> None:
        if self.broken_writes:
            self.broken_writes -= 1
            raise OSError("disk is full")
        await super().delivered(message_id)


@dataclass
class Rig:
    """A worker's sending half; ``attempts`` is told of each attempt and whether its message is dead now."""

    clock: FakeClock = field(default_factory=FakeClock)
    attempts: "asyncio.Queue[tuple[Attempt, bool]]" = field(default_factory=asyncio.Queue)

    def __post_init__(self) -> None:
        self.shelf = Shelf(self.clock)

    @asynccontextmanager
    async def sending(
        self, *, grace_s: float = 5.0, own: tuple[str, ...] = (), tries: int = 3
    ) -> AsyncIterator[WebhookSender]:
        """A process that sends, from its start to its end."""
        names = Names(**{name: [["127.0.0.1"]] for name in ("hooks_example", "other_example", "inner_example")})
        guard = AddressGuard(allow=["hooks.example", "other.example"], own_urls=own, lookup=names)
        when = schedules(DeliverySettings(WEBHOOK_ATTEMPTS=tries))
        async with GuardedHttp(guard) as http, Tasks() as tasks:
            sender = WebhookSender(
                outbox=self.shelf,
                posts=Posts(http=http, schedules=when, clock=self.clock),
                schedules=when,
                tasks=tasks,
                clock=self.clock,
                on_attempt=lambda attempt, dead: self.attempts.put_nowait((attempt, dead)),
                grace_s=grace_s,
            )
            async with sender:
                await settle()
                yield sender

    async def verdict(self) -> tuple[Verdict, bool]:
        """Wait for the next attempt's end."""
        attempt, dead = await asyncio.wait_for(self.attempts.get(), 60)
        await settle()
        return attempt.verdict, dead

    async def pending(self) -> int:
        return (await self.shelf.state()).pending_count


@pytest.fixture
def rig() -> Rig:
    return Rig()


@pytest.fixture
async def host() -> AsyncIterator[WebHost]:
    async with WebHost() as host:
        yield host


@pytest.fixture
def item(rig: Rig) -> Callable[..., OutboxItem]:
    count = iter(range(100_000))

    def make(url: str, *, job_id: str = "job-1", body: bytes = BODY, **target: Any) -> OutboxItem:
        now = rig.clock.now()
        return OutboxItem(
            message_id=f"msg_{next(count)}",
            job_id=job_id,
            owner="",
            event=JobEvent.COMPLETED,
            target=WebhookTarget(url=url, **{"timeout_s": 5.0} | target),
            body=body,
            created_at=now,
            next_at=now,
        )

    return make


Items = Callable[..., OutboxItem]


def hook(host: WebHost, name: str = "hooks.example", path: str = "/hook") -> str:
    return host.url(path, host=name)


async def test_a_fresh_message_goes_out_at_once(rig: Rig, host: WebHost, item: Items) -> None:
    """Stored, sent, forgotten: without a look into the store, and no time passes."""
    async with rig.sending() as sender:
        sender.send(rig.shelf.put(item(hook(host))))
        assert await rig.verdict() == (Verdict.DELIVERED, False)
        assert rig.shelf.reads == 0
    (seen,) = host.seen
    assert (seen.method, seen.body, seen.headers["Content-Type"]) == ("POST", BODY, "application/json")
    assert await rig.shelf.state() == OutboxState()


@pytest.mark.parametrize(
    ("statuses", "tries", "verdict", "seen"),
    [
        ([500, 429, 204], 3, Verdict.DELIVERED, 3),
        ([408, 200], 3, Verdict.DELIVERED, 2),
        ([500, 502, 503, 200], 3, Verdict.AGAIN, 3),
        ([500, 200], 1, Verdict.AGAIN, 1),
        ([404, 200], 3, Verdict.REFUSED, 1),
        ([302, 200], 3, Verdict.REFUSED, 1),
    ],
)
async def test_the_wrappers_scheme(
    rig: Rig, host: WebHost, item: Items, statuses: list[int], tries: int, verdict: Verdict, seen: int
) -> None:
    """What may pass is tried again within seconds, as often as configured; the rest is dead, with its reason."""
    host.statuses = list(statuses)
    async with rig.sending(tries=tries) as sender:
        sender.send(rig.shelf.put(item(hook(host))))
        for number in range(seen):
            found = await rig.verdict()
            assert found[1] is (number == seen - 1 and verdict is not Verdict.DELIVERED)
            await rig.clock.advance(10)
        assert found[0] is verdict
        await rig.clock.advance(HOUR_S)
    assert len(host.seen) == seen
    assert await rig.pending() == 0
    dead = await rig.shelf.dead(owner=None, limit=10)
    expected = [] if verdict is Verdict.DELIVERED else [(f"status {statuses[seen - 1]}", seen)]
    assert [(message.last_error, message.attempts) for message in dead] == expected


async def test_a_target_that_is_down_for_an_hour(rig: Rig, host: WebHost, item: Items) -> None:
    """Standard Webhooks: tried by its schedule, delivered once the target is back, always under the same id, each time
    with a new stamp and a signature that its library accepts."""
    host.statuses, host.stuck = [503], True
    async with rig.sending() as sender:
        sender.send(rig.shelf.put(item(hook(host), scheme=WebhookScheme.STANDARD, secret=SECRET)))
        for wait_s in (7, 400, 2200):  # within the spread of 5 s, 5 min, 30 min
            assert await rig.verdict() == (Verdict.AGAIN, False)
            await rig.clock.advance(wait_s)
        assert await rig.verdict() == (Verdict.AGAIN, False)
        host.statuses = [200]
        await rig.clock.advance(HOUR_S)
        assert len(host.seen) == 4
        await rig.clock.advance(2 * HOUR_S)
        assert await rig.verdict() == (Verdict.DELIVERED, False)
    assert len({seen.headers["webhook-id"] for seen in host.seen}) == 1
    stamps = [int(seen.headers["webhook-timestamp"]) for seen in host.seen]
    assert stamps == sorted(set(stamps))
    last = host.seen[-1]
    at = datetime.fromtimestamp(stamps[-1], rig.clock.now().tzinfo)
    signature = Webhook(SECRET).sign(last.headers["webhook-id"], at, last.body.decode())
    assert last.headers["webhook-signature"] == signature
    assert await rig.pending() == 0


@pytest.mark.parametrize(
    ("statuses", "verdict"),
    [
        ([200], Verdict.DELIVERED),
        ([204, 200], Verdict.DELIVERED),
        ([302, 410, 200], Verdict.DELIVERED),
        ([201, 400, 500, 200], Verdict.AGAIN),
    ],
)
async def test_runpods_scheme(rig: Rig, host: WebHost, item: Items, statuses: list[int], verdict: Verdict) -> None:
    """Unsigned; 200 alone counts; three attempts, ten seconds between them, also over a restart."""
    host.statuses = list(statuses)
    tries = min(len(statuses), 3)
    async with rig.sending() as sender:
        sender.send(rig.shelf.put(item(hook(host), scheme=WebhookScheme.RUNPOD, secret=SECRET)))
        found = await rig.verdict()
        if tries > 1:
            assert found == (Verdict.AGAIN, False)
            await rig.clock.advance(9.5)
            assert len(host.seen) == 1
    for number in range(1, tries):
        async with rig.sending():
            await rig.clock.advance(1 if number == 1 else 10)
            found = await rig.verdict()
            assert len(host.seen) == number + 1
    assert found == (verdict, verdict is not Verdict.DELIVERED)
    assert await rig.pending() == 0
    assert not [name for seen in host.seen for name in seen.headers if "signature" in name.lower()]
    assert {seen.path for seen in host.seen} == {"/hook"}


async def test_three_days_are_enough(rig: Rig, host: WebHost, item: Items) -> None:
    """After ten attempts the message is dead; made due again by hand it goes out."""
    host.statuses, host.stuck = [500], True
    async with rig.sending() as sender:
        (message,) = rig.shelf.put(item(hook(host), scheme=WebhookScheme.STANDARD))
        sender.send((message,))
        for wait_s in STANDARD.waits_s:
            assert await rig.verdict() == (Verdict.AGAIN, False)
            await rig.clock.advance(1.2 * wait_s + 1)
        assert await rig.verdict() == (Verdict.AGAIN, True)
        (dead,) = await rig.shelf.dead(owner=None, limit=10)
        assert (dead.message_id, dead.attempts, dead.last_error) == (message.message_id, 10, "status 500")
        host.statuses = [200]
        assert await rig.shelf.revive(message.message_id, owner=None, now=rig.clock.now())
        sender.wake()
        assert await rig.verdict() == (Verdict.DELIVERED, False)


async def test_what_waits_is_sent_after_a_restart(rig: Rig, host: WebHost, item: Items) -> None:
    """A process that ends leaves its messages behind; the next one sends what is due, and the rest in its time."""
    host.statuses = [500]
    later = replace(item(hook(host)), next_at=rig.clock.now() + timedelta(seconds=100))
    async with rig.sending(grace_s=0.0) as sender:
        sender.send(rig.shelf.put(item(hook(host))))
        assert await rig.verdict() == (Verdict.AGAIN, False)
        rig.shelf.put(*(item(hook(host)) for _ in range(40)), later)
    await rig.clock.advance(10)
    async with rig.sending():
        await rig.clock.advance(1)
        for _ in range(41):
            assert await rig.verdict() == (Verdict.DELIVERED, False)
        assert await rig.pending() == 1
        await rig.clock.advance(100)
        assert await rig.verdict() == (Verdict.DELIVERED, False)
    assert len(host.seen) == 43


async def test_a_target_asks_for_patience(rig: Rig, host: WebHost, item: Items) -> None:
    """``Retry-After`` is kept where it is longer than the schedule's wait."""
    host.statuses, host.retry_after = [429], "300"
    async with rig.sending() as sender:
        sender.send(rig.shelf.put(item(hook(host))))
        await rig.verdict()
        await rig.clock.advance(299)
        assert len(host.seen) == 1
        await rig.clock.advance(2)
        assert await rig.verdict() == (Verdict.DELIVERED, False)


async def test_what_nobody_told_of_goes_out_too(rig: Rig, host: WebHost, item: Items) -> None:
    """A message that appears in the outbox without a word is found within half a minute."""
    async with rig.sending():
        await rig.clock.advance(2)
        rig.shelf.put(item(hook(host)))
        await rig.clock.advance(30)
        assert await rig.verdict() == (Verdict.DELIVERED, False)


async def test_gone_means_gone(rig: Rig, host: WebHost, item: Items) -> None:
    """410 ends the message and every later one of that job to that target; other jobs' messages still go."""
    host.statuses = [410]
    async with rig.sending() as sender:
        sender.send(rig.shelf.put(item(hook(host), scheme=WebhookScheme.STANDARD)))
        assert await rig.verdict() == (Verdict.GONE, True)
        sender.send(rig.shelf.put(item(hook(host), scheme=WebhookScheme.STANDARD)))
        await settle()
        sender.send(rig.shelf.put(item(hook(host), scheme=WebhookScheme.STANDARD, job_id="job-2")))
        assert await rig.verdict() == (Verdict.DELIVERED, False)
    assert len(host.seen) == 2
    assert await rig.shelf.state() == OutboxState(dead_count=2)


async def test_gone_is_asked_again_by_hand_only(rig: Rig, host: WebHost, item: Items) -> None:
    """A revived message goes out although its target said 410; once taken, later messages to it go too."""
    host.statuses = [410]
    async with rig.sending() as sender:
        sender.send(rig.shelf.put(gone := item(hook(host), scheme=WebhookScheme.STANDARD)))
        assert await rig.verdict() == (Verdict.GONE, True)
        assert await rig.shelf.revive(gone.message_id, owner=None, now=rig.clock.now())
        sender.wake()
        await rig.clock.advance(2)
        assert await rig.verdict() == (Verdict.DELIVERED, False)
        sender.send(rig.shelf.put(item(hook(host), scheme=WebhookScheme.STANDARD)))
        assert await rig.verdict() == (Verdict.DELIVERED, False)
    assert await rig.shelf.state() == OutboxState()


async def test_a_slow_target_delays_no_other(rig: Rig, host: WebHost, item: Items) -> None:
    """Hundreds for a host that hangs take their seats and no more; another host's, stored after them, go out at once,
    fresh ones and those from the store. Nobody spins meanwhile."""
    async with WebHost() as slow, rig.sending(grace_s=0.0) as sender:
        hanging = [item(hook(slow, path="/hang"), timeout_s=300.0) for _ in range(300)]
        sender.send(rig.shelf.put(*hanging))
        sender.send(rig.shelf.put(item(hook(host))))
        assert await rig.verdict() == (Verdict.DELIVERED, False)
        rig.shelf.put(*(item(hook(host)) for _ in range(20)))
        await rig.clock.advance(1)
        for _ in range(20):
            assert await rig.verdict() == (Verdict.DELIVERED, False)
        await slow.arrived.wait()
        reads = rig.shelf.reads
        await rig.clock.advance(60)
        assert rig.shelf.reads <= reads + 2
        assert await rig.pending() == 300
        slow.release.set()
        for _ in range(300):
            assert await rig.verdict() == (Verdict.DELIVERED, False)
        assert slow.most <= PER_HOST
    assert await rig.pending() == 0


async def test_a_dead_host_keeps_one_seat(rig: Rig, host: WebHost, item: Items) -> None:
    """Once it failed it is asked by one message at a time, until one is taken."""
    host.statuses = [500]
    async with rig.sending(grace_s=0.0) as sender:
        sender.send(rig.shelf.put(item(hook(host))))
        await rig.verdict()
        host.most = 0
        sender.send(rig.shelf.put(*(item(hook(host, path="/gated"), timeout_s=300.0) for _ in range(30))))
        while not host.most:
            await asyncio.sleep(0)
        await rig.clock.advance(1)
        assert host.most == 1
        host.release.set()
        for number in range(31):
            await rig.clock.advance(number // 30)  # the last one is the one that failed
            assert await rig.verdict() == (Verdict.DELIVERED, False)
        host.release.clear()
        host.most = 0
        sender.send(rig.shelf.put(*(item(hook(host, path="/gated"), timeout_s=300.0) for _ in range(30))))
        while host.most < PER_HOST:
            await asyncio.sleep(0)


def test_room_is_bounded_in_every_direction(item: Items) -> None:
    """In messages, in messages to one host, and in bytes; what left made room."""
    room = Room()
    many = [item(f"https://h{number // PER_HOST}.example/") for number in range(PARALLEL)]
    for message in many:
        assert room.for_(message)
        room.take(message)
    assert room.full
    assert room.crowded_hosts == {message.host for message in many}
    room.leave(many[0])
    assert room.for_(item("https://new.example/"))
    assert room.for_(many[0])
    for message in many[1:]:
        room.leave(message)
    assert room.crowded_hosts == frozenset()
    room.take(item("https://new.example/", body=bytes(FLYING_BYTES)))
    assert room.full


async def test_the_end_does_not_wait_for_ever(
    rig: Rig, host: WebHost, item: Items, caplog: pytest.LogCaptureFixture
) -> None:
    """After the grace what still hangs is left in the outbox, uncounted, and this is said."""
    async with rig.sending(grace_s=0.05) as sender:
        sender.send(rig.shelf.put(item(hook(host, path="/hang"), timeout_s=300.0)))
        await host.arrived.wait()
    assert "interrupted by the shutdown" in caplog.text
    (left,) = await rig.shelf.due(rig.clock.now(), limit=5)
    assert left.attempts == 0


async def test_the_end_gives_a_grace(rig: Rig, host: WebHost, item: Items) -> None:
    """What is on its way when the worker ends still arrives."""
    async with rig.sending() as sender:
        sender.send(rig.shelf.put(item(hook(host))))
    assert await rig.verdict() == (Verdict.DELIVERED, False)
    assert await rig.pending() == 0


async def test_an_outcome_that_cannot_be_recorded(rig: Rig, host: WebHost, item: Items) -> None:
    """The target took it and the disk is full: sent again, but only after a while, not in a storm."""
    rig.shelf.broken_writes = 1
    async with rig.sending() as sender:
        sender.send(rig.shelf.put(item(hook(host))))
        await host.arrived.wait()
        await rig.clock.advance(1)
        while rig.shelf.broken_writes:
            await asyncio.sleep(0)
        await rig.clock.advance(HOLD_S - 2)
        assert len(host.seen) == 1
        await rig.clock.advance(10)
        assert await rig.verdict() == (Verdict.DELIVERED, False)
    assert len(host.seen) == 2
    assert await rig.pending() == 0


async def test_a_store_that_cannot_write_now(rig: Rig, host: WebHost, item: Items) -> None:
    """A full disk: a message that is not in the store yet waits until it is, and goes out once."""
    async with rig.sending() as sender:
        message = item(hook(host))
        sender.hold(True)
        sender.send((message,))
        await rig.clock.advance(2)
        assert not host.seen
        rig.shelf.put(message)
        sender.hold(False)
        await rig.clock.advance(2)
        assert await rig.verdict() == (Verdict.DELIVERED, False)
    assert len(host.seen) == 1


async def test_a_store_that_cannot_be_read(rig: Rig, host: WebHost, item: Items) -> None:
    """The loop says so and goes on."""
    rig.shelf.broken_reads = 2
    rig.shelf.put(item(hook(host)))
    async with rig.sending():
        await rig.clock.advance(2)
        assert not host.seen
        await rig.clock.advance(2)
        assert await rig.verdict() == (Verdict.DELIVERED, False)


@pytest.mark.parametrize("scheme", list(WebhookScheme))
async def test_inward_targets_are_refused(rig: Rig, host: WebHost, item: Items, scheme: WebhookScheme) -> None:
    """A caller can't reach loopback, by address, name or redirect, in no scheme, and it is not tried again."""
    async with rig.sending() as sender:
        for url in (host.url("/hook"), hook(host, "inner.example")):
            sender.send(rig.shelf.put(item(url, scheme=scheme)))
            assert await rig.verdict() == (Verdict.REFUSED, True)
        assert not host.seen
        sender.send(rig.shelf.put(item(hook(host, path="/to?") + host.url("/hook"), scheme=scheme)))
        await rig.verdict()
    assert [seen.path for seen in host.seen] == ["/to"]


async def test_our_own_url_and_the_operators_are_open(rig: Rig, host: WebHost, item: Items) -> None:
    """The exact session-end URL passes, and so does the operator's own target on a private address."""
    own = host.url("/hook")
    async with rig.sending(own=(own,)) as sender:
        for url, operator in ((own, False), (own + "?x", True)):
            sender.send(rig.shelf.put(item(url, operator=operator)))
            assert await rig.verdict() == (Verdict.DELIVERED, False)
        sender.send(rig.shelf.put(item(own + "?x")))
        assert await rig.verdict() == (Verdict.REFUSED, True)


async def test_a_target_that_does_not_answer(rig: Rig, host: WebHost, item: Items) -> None:
    """Each attempt has a time limit; a port where nobody listens is a failure that may pass."""
    async with rig.sending(tries=2) as sender:
        sender.send(rig.shelf.put(item(hook(host, path="/hang"), timeout_s=0.05)))
        assert await rig.verdict() == (Verdict.AGAIN, False)
        sender.send(rig.shelf.put(item("http://hooks.example:9/")))
        assert await rig.verdict() == (Verdict.AGAIN, False)


async def test_a_secret_that_cannot_sign(rig: Rig, host: WebHost, item: Items) -> None:
    """An unsigned message is not sent in place of a signed one."""
    async with rig.sending() as sender:
        sender.send(rig.shelf.put(item(hook(host), scheme=WebhookScheme.STANDARD, secret="geheim!")))
        assert await rig.verdict() == (Verdict.REFUSED, True)
    assert not host.seen
    (dead,) = await rig.shelf.dead(owner=None, limit=1)
    assert dead.last_error == "the secret is not valid base64"


@pytest.fixture
def logged() -> Iterator[io.StringIO]:
    """Everything that is logged, as a machine reads it, at the chattiest level."""
    root = logging.getLogger()
    before = root.handlers[:], root.level
    configure_logging(level="debug", log_format="json", stream=(stream := io.StringIO()))
    yield stream
    root.handlers[:], root.level = before


async def test_logs_name_the_host_and_no_secret(rig: Rig, host: WebHost, item: Items, logged: io.StringIO) -> None:
    """Paths, queries, user parts, secrets and bodies of webhooks stay out of a whole run's log, whatever happens."""
    host.statuses = [404, 410]
    planted = ["hush1", "hush2", "hush3", "hush4", SECRET, SECRET.removeprefix("whsec_")]
    url = hook(host, path="/hook?token=hush1")
    others = (url.replace("//", "//hush2:hush3@"), "http://inner.example/hush1", "http://hooks.example:9/hush1?hush3")
    async with rig.sending(tries=2, grace_s=0.0) as sender:
        for number, scheme in enumerate(WebhookScheme, 1):
            for target in (url, *others):
                told = item(target, scheme=scheme, secret=SECRET, body=b'{"x":"hush4"}', job_id=f"job-{number}")
                sender.send(rig.shelf.put(told))
                await rig.verdict()
        rig.shelf.broken_writes = 1
        sender.send(rig.shelf.put(item(url, job_id="job-0", secret=SECRET, body=b'{"x":"hush4"}')))
        while rig.shelf.broken_writes:
            await asyncio.sleep(0)
        await settle()
    text = logged.getvalue()
    for event in ("webhook.dead", "webhook.postponed", "task.failed"):
        assert event in text
    assert f"hooks.example:{host.port}" in text
    assert '"job_id": "job-1"' in text
    assert [secret for secret in planted if secret in text] == []


async def test_the_state_is_at_hand(rig: Rig, host: WebHost, item: Items) -> None:
    """For metrics: how much waits, since when, and how much is dead, a few seconds old at most."""
    begun = rig.clock.now()
    rig.shelf.put(replace(item(hook(host)), next_at=begun + timedelta(days=1)))
    async with rig.sending() as sender:
        assert sender.state == OutboxState(pending_count=1, oldest_at=begun)
        rig.shelf.put(replace(item(hook(host)), next_at=begun + timedelta(days=1)))
        await rig.clock.advance(30)
        assert sender.state.pending_count == 2
