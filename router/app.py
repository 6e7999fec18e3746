"""Builds the router's objects in order on one exit stack, starts its loops, waits for the end, and stops gracefully."""

import asyncio
import concurrent.futures
import gc
import logging
import random
import secrets
import signal
import ssl
import sys
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack, ExitStack
from urllib.parse import urlsplit

import aiohttp

from lib.clock import Clock, SystemClock
from lib.lifecycle import Tasks, every
from lib.serving.application import Site
from lib.serving.origins import OriginPolicy
from lib.serving.probes import Probes
from lib.serving.server import Listener, tls_context
from lib.settings import SettingsError
from router import greeting
from router.access import RouterAccess
from router.build import Core, build_core
from router.describing import Describing
from router.explaining import Explaining, RouterHealth
from router.joblink import JobLink
from router.keeping import EndpointKeeping, state_folder
from router.learning import SAVE_S, load_sizes
from router.newsroom import TIDY_S
from router.parts import Ground, Part, PartBuilder
from router.probing import http_probe
from router.settings import RouterSettings, unknown_variables
from router.signing import FILE, Signing, load_signing_key
from router.store import open_stores

log = logging.getLogger(__name__)
VERSION = "0.1.0"
SCRAPE_S = 5.0
COLLECTED_AFTER = (10_000, 10, 10)
"""New objects, and collections of younger ones, after which rubbish is looked for."""
MOST_CONNECTIONS = 10_000
"""To workers, all together: one for each relayed request."""


class Router:
    """The whole process. ``run`` returns its exit status."""

    def __init__(
        self,
        settings: RouterSettings,
        *,
        parts: Sequence[PartBuilder],
        clock: Clock | None = None,
        say: Callable[[str], object] | None = None,
    ) -> None:
        self._settings = settings
        self._builders = parts
        self._clock = clock or SystemClock()
        self._say = say or _say
        self._stop = asyncio.Event()
        self._listener: Listener | None = None

    @property
    def url(self) -> str:
        """Where workers and clients reach the router, without a trailing slash."""
        if self._settings.public_url is not None or self._listener is None:
            return self._settings.public_url or ""
        return self._listener.url

    def stop(self) -> None:
        """End ``run``."""
        self._stop.set()

    async def run(self) -> int:
        """Start, serve, stop. Raises: SettingsError, OSError (a taken port), StoreDown."""
        self._watch_signals()
        for name, meant in unknown_variables().items():
            about = {"variable": name, "meant": meant or "?"}
            log.warning("the router has no such setting", extra={"event": "settings.unknown", **about})
        async with AsyncExitStack() as stack:
            ground = await self._ground(stack)
            health = RouterHealth(ground.dispatcher, version=VERSION, replica=ground.replica)
            parts = await self._open(stack, ground, health)
            _calm_collector()
            self._say(greeting.text(self.url, settings=self._settings, keeping=ground.keeping))
            await self._until_the_end(ground.tasks)
            log.info("stopping", extra={"event": "router.stopping"})
            health.stopping = True
            ground.dispatcher.stop_waiting()
            for part in parts:
                if part.stop is not None:
                    await part.stop()
        return 0

    # -- parts --------------------------------------------------------------------------------------------------------

    async def _ground(self, stack: AsyncExitStack) -> Ground:
        settings, clock = self._settings, self._clock
        folder = await asyncio.to_thread(state_folder, settings.state_dir)
        keeping = await asyncio.to_thread(EndpointKeeping, settings)
        key = await asyncio.to_thread(load_signing_key, settings.signing_key_path or folder / FILE)
        replica = settings.replica or secrets.token_hex(4)
        opening = open_stores(
            settings.store.get_secret_value(),
            state_dir=folder,
            clock=clock,
            state_key=settings.state_key.get_secret_value() if settings.state_key else "",
        )
        stores = await stack.enter_async_context(opening)
        tls = await asyncio.to_thread(_worker_tls, settings)
        connector = aiohttp.TCPConnector(limit=MOST_CONNECTIONS, limit_per_host=0, ssl=tls)
        http = await stack.enter_async_context(
            aiohttp.ClientSession(connector=connector, auto_decompress=False, cookie_jar=aiohttp.DummyCookieJar())
        )
        tasks = await stack.enter_async_context(Tasks())
        core = build_core(
            keeping.endpoints,
            state=stores.shared,
            shared=settings.shared,
            replica=replica,
            clock=clock,
            tasks=tasks,
            chance=random.Random(),
            probe=http_probe(http, timeout_s=settings.probe_timeout_s),
            sizes=await asyncio.to_thread(load_sizes, folder),
            stale_s=settings.stale_s,
            gone_s=settings.gone_s,
            replay_timeout_s=settings.replay_timeout_s,
        )
        stack.push_async_callback(core.learning.save, folder)
        return Ground(
            settings=settings,
            keeping=keeping,
            core=core,
            signing=Signing(key, clock=clock, ticket_life_s=settings.ticket_life_s),
            state=stores.shared,
            jobs=JobLink(stores.jobs, link=core.link, tasks=tasks, clock=clock),
            http=http,
            clock=clock,
            tasks=tasks,
            replica=replica,
            base_url=lambda: self.url,
        )

    async def _open(self, stack: AsyncExitStack, ground: Ground, health: RouterHealth) -> Sequence[Part]:
        """Build the parts, listen, start the loops; those that were never started are closed."""
        parts: list[Part] = []
        with ExitStack() as unstarted:
            for build in self._builders:
                parts.append(await build(ground, stack))
                for loop in parts[-1].loops.values():
                    unstarted.callback(loop.close)
            await self._listen(stack, ground, health, parts)
            self._start_loops(ground, parts)
            unstarted.pop_all()
        return parts

    async def _listen(self, stack: AsyncExitStack, ground: Ground, health: RouterHealth, parts: Sequence[Part]) -> None:
        settings = self._settings
        site = Site(
            max_body_bytes=settings.max_body_bytes,
            policy=_policy(settings),
            access=RouterAccess(ground.endpoints, open_reading=settings.page_is_open),
        )
        probes = Probes(health=health.health, ready=health.ready, metrics=_exposition(ground.core))
        explaining = Explaining(ground.dispatcher, elsewhere=ground.core.newsroom.elsewhere)
        site.mount(probes.routes(), owner="probes", needs=probes.needs())
        site.mount(explaining.routes(), owner="explain", needs=explaining.needs())
        for part in parts:
            site.mount(part.routes, owner=part.name, render_error=part.render_error, needs=part.needs)
            if part.health is not None:
                health.add(part.name, part.health)
        described = [operation for part in parts for operation in part.operations]
        docs = Describing([*described, *explaining.operations(), *probes.operations()], version=VERSION)
        site.mount(docs.routes(), owner="docs", needs=docs.needs())
        listener = Listener(
            site.app,
            name="router",
            host=settings.host,
            port=settings.port,
            setting="ROUTER_PORT",
            host_setting="ROUTER_HOST",
            tls=await asyncio.to_thread(_tls, settings),
            shutdown_timeout_s=settings.stop_timeout_s,
        )
        self._listener = await stack.enter_async_context(listener)

    def _start_loops(self, ground: Ground, parts: Sequence[Part]) -> None:
        tasks, core = ground.tasks, ground.core
        tasks.spawn(core.newsroom.run(), name="news", vital=True)
        if self._settings.shared:
            tidy = every(TIDY_S, core.newsroom.tidy, name="tidy", clock=self._clock)
            tasks.spawn(tidy, name="tidy")
        save = every(SAVE_S, lambda: core.learning.save(self._settings.state_dir), name="sizes", clock=self._clock)
        tasks.spawn(save, name="sizes")
        for part in parts:
            for name, loop in part.loops.items():
                tasks.spawn(loop, name=f"{part.name}: {name}", vital=True)

    # -- life ---------------------------------------------------------------------------------------------------------

    async def _until_the_end(self, tasks: Tasks) -> None:
        stopped = tasks.spawn(self._stop.wait(), name="stop")
        failed = tasks.spawn(tasks.failed.wait(), name="failure")
        await asyncio.wait({stopped, failed}, return_when=asyncio.FIRST_COMPLETED)
        if tasks.failure is not None:
            raise RuntimeError(f"{type(tasks.failure).__name__}: {tasks.failure}") from tasks.failure

    def _watch_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)


def _say(text: str) -> None:
    """At once, also where the output is a file or a service's log."""
    sys.stdout.write(text)
    sys.stdout.flush()


def _calm_collector() -> None:
    """What is there now stays for good: collections under load need not walk it, and need not come so often."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECTED_AFTER)


def _policy(settings: RouterSettings) -> OriginPolicy | None:
    """Where no key is asked for, a page of somebody else's must not look."""
    if not settings.page_is_open:
        return None
    own = urlsplit(settings.public_url or "").hostname
    hosts = frozenset({*settings.allowed_hosts, settings.host, *([own] if own else [])})
    return OriginPolicy(hosts=hosts, any_address=not settings.is_loopback, setting="ROUTER_ALLOWED_HOSTS")


def _tls(settings: RouterSettings) -> ssl.SSLContext | None:
    if settings.tls_cert_path is None or settings.tls_key_path is None:
        return None
    try:
        return tls_context(settings.tls_cert_path, settings.tls_key_path)
    except (OSError, ssl.SSLError) as error:
        raise SettingsError(f"ROUTER_TLS_CERT={settings.tls_cert_path}: it can't be used: {error}") from error


def _worker_tls(settings: RouterSettings) -> ssl.SSLContext | bool:
    """How workers' certificates are checked: not at all, or by the operator's authority."""
    if settings.worker_ca_path is None:
        return False
    try:
        context = ssl.create_default_context(cafile=str(settings.worker_ca_path))
    except (OSError, ssl.SSLError) as error:
        raise SettingsError(f"ROUTER_WORKER_CA={settings.worker_ca_path}: it can't be used: {error}") from error
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT  # Vast's own root lacks a key usage
    return context


def _exposition(core: Core) -> Callable[[], tuple[bytes, str]]:
    """Called in a thread: the figures are taken on the loop, which owns them; the text is made in the thread."""
    loop = asyncio.get_running_loop()

    def take(taken: concurrent.futures.Future[None]) -> None:
        for endpoint in core.dispatcher.endpoints.all():
            core.metrics.fleet(core.dispatcher.figures(endpoint.name))
        taken.set_result(None)

    def exposition() -> tuple[bytes, str]:
        taken: concurrent.futures.Future[None] = concurrent.futures.Future()
        loop.call_soon_threadsafe(take, taken)
        taken.result(timeout=SCRAPE_S)
        return core.metrics.render()

    return exposition
