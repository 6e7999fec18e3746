"""What the process is put together from: parts add routes and loops; each is built from the same ground."""

from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any, Protocol

import aiohttp
from aiohttp import web

from lib.clock import Clock
from lib.lifecycle import Tasks
from lib.serving.access import Needs
from lib.serving.middleware import ErrorRenderer
from lib.serving.openapi import Operation
from router.build import Core
from router.dispatch import Dispatcher
from router.endpoints import Endpoints
from router.keeping import EndpointKeeping
from router.ports import JobStore, SharedState
from router.settings import RouterSettings
from router.signing import Signing


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """What every part may use. ``base_url`` is where workers and clients reach the router, known once it listens;
    ``http`` calls workers, and checks their certificates only where the operator says by which authority
    (``ROUTER_WORKER_CA``)."""

    settings: RouterSettings
    keeping: EndpointKeeping
    core: Core
    signing: Signing
    state: SharedState
    jobs: JobStore
    http: aiohttp.ClientSession
    clock: Clock
    tasks: Tasks
    replica: str
    base_url: Callable[[], str]

    @property
    def dispatcher(self) -> Dispatcher:
        return self.core.dispatcher

    @property
    def endpoints(self) -> Endpoints:
        return self.core.dispatcher.endpoints


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What a part adds. ``loops`` are vital; ``health`` is put into ``/health`` under the part's name; ``stop`` is
    called when the router is told to stop, before its listener closes."""

    name: str
    routes: Sequence[web.RouteDef] = ()
    needs: Needs = field(default_factory=dict)
    render_error: ErrorRenderer | None = None
    operations: Sequence[Operation] = ()
    loops: Mapping[str, Coroutine[Any, Any, object]] = field(default_factory=dict)
    health: Callable[[], Mapping[str, Any]] | None = None
    stop: Callable[[], Awaitable[object]] | None = None


class PartBuilder(Protocol):
    """Builds a part; what has to be closed goes on the stack."""

    async def __call__(self, ground: Ground, stack: AsyncExitStack) -> Part: ...
