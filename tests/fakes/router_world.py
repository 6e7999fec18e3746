"""A router without HTTP, on a clock that is turned by hand: the real deciding parts over a fake store."""

import random
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

from lib.lifecycle import Tasks
from lib.serving.keyring import digest
from router.build import Core, build_core
from router.cases import Ending, Outcome
from router.direct import DirectRequests, Routed
from router.dispatch import Dispatcher
from router.endpoint_settings import EndpointSettings, GroupSettings
from router.endpoints import Bearer, Endpoint, Endpoints, Scope
from router.model import Ask, Assignment
from router.registry import record_of
from tests.fakes.clock import FakeClock, settle
from tests.fakes.shared_state import FakeStore

KEY, ACCOUNT, TOKEN = "endpoint-key-0123456789", "account-key-0123456789", "worker-token-0123456789"
OWNER = Bearer(scope=Scope.ENDPOINT, endpoint="ep")


def one_endpoint(**changes: Any) -> Endpoints:
    """The endpoint ``ep``."""
    fields = {"name": "ep", "id": 1, "groups": (GroupSettings(name="g", id=11),), "lead_time": 0.0, **changes}
    settings = EndpointSettings(**fields)
    return Endpoints(
        [Endpoint(settings=settings, api_key=KEY)], account_keys=[digest(ACCOUNT)], worker_tokens=[digest(TOKEN)]
    )


@dataclass
class Replica:
    """One router. ``reachable`` answers probes by URL."""

    core: Core
    clock: FakeClock
    tasks: Tasks
    unreachable: set[str] = field(default_factory=set)
    probed: list[str] = field(default_factory=list)
    reports: dict[int, dict[str, Any]] = field(default_factory=dict)

    @property
    def dispatcher(self) -> Dispatcher:
        return self.core.dispatcher

    @property
    def direct(self) -> DirectRequests:
        return self.core.direct

    async def probe(self, url: str) -> bool:
        self.probed.append(url)
        return url not in self.unreachable

    async def report(self, worker_id: int, **changes: Any) -> None:
        """A worker reports: a loaded one of 100 units a second with one place, unless ``changes`` say otherwise."""
        usual = {
            "id": worker_id,
            "mtoken": TOKEN,
            "version": "1.1.0",
            "loadtime": 5.0,
            "max_perf": 100.0,
            "cur_load": 0.0,
            "num_requests_working": 0,
            "working_request_idxs": [],
            "slots": 1,
            "engines": 1,
            "url": f"http://10.0.0.{worker_id}:3000",
        }
        report = self.reports[worker_id] = self.reports.get(worker_id, usual) | changes
        place = self.dispatcher.endpoints.place(worker_id, token=TOKEN)
        known = self.dispatcher.worker(place.key(worker_id))
        record = record_of(
            {name: value for name, value in report.items() if value is not None},
            worker_id=worker_id,
            place=place,
            now=self.clock.now().timestamp(),
            previous=known.record if known else None,
        )
        await self.dispatcher.heard(record)
        await settle()

    def ask(self, request_id: str, **changes: Any) -> Ask:
        fields = {"endpoint": "ep", "arrived_at": self.clock.monotonic(), "cost": 100.0, **changes}
        return self.dispatcher.learning.ask(request_id, **fields)

    async def give(self, request_id: str, *, wait_s: float = 0.0, **changes: Any) -> str | None:
        """Ask for a worker; its key."""
        given = await self.dispatcher.assign(self.ask(request_id, **changes), wait_s=wait_s)
        return given.worker if given else None

    def waiting(self, request_id: str, *, wait_s: float = 8.0, **changes: Any) -> "Waiter":
        """Ask in the background."""
        work = self.dispatcher.assign(self.ask(request_id, **changes), wait_s=wait_s)
        return Waiter(self.tasks.spawn(work, name=f"wait {request_id}"))

    async def done(self, request_id: str, *, run_s: float | None = None, ending: Ending = Ending.SUCCESS) -> None:
        await self.dispatcher.settle(request_id, Outcome(ending=ending, run_s=run_s))
        await settle()

    async def route(self, request_idx: int = 0, *, wait_s: float = 0.0, **changes: Any) -> Routed:
        options = {"cost": 100.0, **changes}
        return await self.direct.route("ep", OWNER, request_idx=request_idx, wait_s=wait_s, **options)


@dataclass
class Waiter:
    """Somebody who waits for a worker."""

    task: Any

    @property
    def worker(self) -> str | None:
        """The worker that was given; None: none, or not yet."""
        given: Assignment | None = self.task.result() if self.task.done() else None
        return given.worker if given else None


async def make_replica(
    stack: AsyncExitStack,
    *,
    clock: FakeClock | None = None,
    store: FakeStore | None = None,
    endpoints: Endpoints | None = None,
    name: str = "r1",
    shared: bool = False,
) -> Replica:
    clock = clock or FakeClock()
    tasks = await stack.enter_async_context(Tasks())
    made: list[Replica] = []
    core = build_core(
        endpoints or one_endpoint(),
        state=store or FakeStore(),
        shared=shared,
        replica=name,
        clock=clock,
        tasks=tasks,
        chance=random.Random(1),
        probe=lambda url: made[0].probe(url),
    )
    made.append(Replica(core=core, clock=clock, tasks=tasks))
    if shared:
        tasks.spawn(core.newsroom.run(), name="news", vital=True)
    await settle()
    return made[0]
