"""Scalers over real deciding parts, with providers in memory, on a clock that is turned by hand."""

from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from router.endpoint_settings import GroupSettings
from router.keeping import EndpointKeeping
from router.parts import Ground
from router.scaling.control import Scaler
from router.scaling.group import Group
from router.scaling.ports import Launch
from router.settings import RouterSettings
from router.signing import Signing
from router.store import open_stores
from tests.fakes.clock import FakeClock, settle
from tests.fakes.provider import FakeProvider
from tests.fakes.router_world import ACCOUNT, TOKEN, Replica, make_replica, one_endpoint
from tests.fakes.shared_state import FakeStore
from tests.fakes.vast_worker import shared_key

EVERY_S = 5.0


@dataclass
class World:
    """One replica that scales the endpoint ``ep``, whose groups are those of ``providers``."""

    replica: Replica
    scaler: Scaler
    providers: dict[str, FakeProvider]

    @property
    def provider(self) -> FakeProvider:
        return next(iter(self.providers.values()))

    async def tick(self, times: int = 1, *, apart_s: float = EVERY_S) -> None:
        """So many looks, each with time before it."""
        for _ in range(times):
            await self.replica.clock.advance(apart_s)
            await self.scaler.tick()
            await settle()

    async def ready(self, *numbers: int, **changes: Any) -> None:
        """Machines report that they serve."""
        for number in numbers:
            await self.replica.report(number, **changes)

    async def serve(self, *numbers: int, seconds: float) -> None:
        """Time passes, and these report on."""
        for _ in range(int(seconds / EVERY_S)):
            await self.ready(*numbers)
            await self.tick()

    @property
    def figures(self) -> dict[str, Any]:
        return self.scaler.figures("ep")


async def make_world(
    stack: AsyncExitStack,
    folder: Path,
    *,
    groups: dict[str, FakeProvider] | None = None,
    prices: dict[str, float] | None = None,
    clock: FakeClock | None = None,
    store: FakeStore | None = None,
    name: str = "r1",
    options: dict[str, Any] | None = None,
    **endpoint: Any,
) -> World:
    clock = clock or FakeClock()
    providers = {"g": FakeProvider()} if groups is None else groups
    own = tuple(
        GroupSettings(name=group, id=11 + place, price=(prices or {}).get(group, 0.0))
        for place, group in enumerate(providers or {"g": None})
    )
    endpoints = one_endpoint(groups=own, **endpoint)
    replica = await make_replica(
        stack, clock=clock, store=store, endpoints=endpoints, name=name, shared=store is not None
    )
    settings = RouterSettings(
        state_dir=folder, account_keys=ACCOUNT, worker_tokens=TOKEN, scaling_every_s=EVERY_S, **(options or {})
    )
    stores = await stack.enter_async_context(open_stores("sqlite://", state_dir=folder, clock=clock))
    ground = Ground(
        settings=settings,
        keeping=EndpointKeeping(settings),
        core=replica.core,
        signing=Signing(shared_key(), clock=clock),
        state=store or stores.shared,
        jobs=stores.jobs,
        http=await stack.enter_async_context(aiohttp.ClientSession()),
        clock=clock,
        tasks=replica.tasks,
        replica=name,
        base_url=lambda: "http://router.example.org",
    )
    scaler = Scaler(ground)
    scaler.use({("ep", group): _group(ground, group, provider, scaler) for group, provider in providers.items()})
    stack.callback(ground.dispatcher.changes.listen(scaler.hear))
    return World(replica=replica, scaler=scaler, providers=providers)


def _group(ground: Ground, name: str, provider: FakeProvider, scaler: Scaler) -> Group:
    return Group(
        endpoint="ep",
        name=name,
        provider=provider,
        launch_of=lambda: Launch(endpoint="ep", group=name, environment={}),
        clock=ground.clock,
        tasks=ground.tasks,
        changed=scaler.soon,
        boot_s=30.0,
        most=provider.places,
    )
