"""A worker without ComfyUI: the Vast dialect on its listeners, over the real job service and ledger, with a real
router on loopback; engine and payload are fakes."""

from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import aiohttp
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from lib.dialects.vast.routes import VastDialect
from lib.dialects.vast.sessions import Sessions
from lib.fleet.ledger import Ledger
from lib.fleet.pubkey import PubkeySource
from lib.fleet.uplink import Uplink
from lib.jobs.service import JobService
from lib.lifecycle import Tasks
from lib.protocol.auth import SignatureCheck
from lib.serving.application import Site
from lib.serving.server import Listener
from lib.serving.signing import Signer
from lib.settings import FleetSettings, JobsSettings
from tests.fakes.autoscaler import Autoscaler, new_key
from tests.fakes.engine import FakeEngine
from tests.fakes.jobs import build_jobs
from tests.fakes.pauses import PauseClock
from tests.fakes.payload import PlainPayload


@cache
def shared_key() -> RSAPrivateKey:
    """One router key for all workers of a test run: making one takes a tenth of a second."""
    return new_key()


URL = "http://203.0.113.9:40001"
"""How routers name the worker under test."""
MOST_BYTES = 512 * 1024
SIGNER = Signer(b"k" * 32)


@dataclass
class Answer:
    status: int
    body: Any
    headers: Mapping[str, str]


@dataclass
class World:
    engine: FakeEngine
    service: JobService
    ledger: Ledger
    router: Autoscaler
    sessions: Sessions
    tasks: Tasks
    clock: PauseClock
    listener: Listener
    plain: Listener
    http: aiohttp.ClientSession
    payload: PlainPayload
    posts: list[dict[str, Any]] = field(default_factory=list)
    not_ready: list[str] = field(default_factory=list)

    def auth(self, **changes: Any) -> dict[str, Any]:
        return {**self.router.auth_data(URL), **changes}

    def body(
        self, *, auth: dict[str, Any] | None = None, session_id: str | None = None, **asked: Any
    ) -> dict[str, Any]:
        return {
            "auth_data": auth if auth is not None else self.auth(),
            "session_id": session_id,
            "payload": {"input": {"workflow_json": {"1": {}}, **asked}},
        }

    async def post(
        self, path: str, body: Any, *, headers: Mapping[str, str] | None = None, plain: bool = False
    ) -> Answer:
        """``None`` as the body: no body at all."""
        base = (self.plain if plain else self.listener).url
        data = {} if body is None else {"data": body} if isinstance(body, bytes) else {"json": body}
        async with self.http.post(base + path, headers=headers, **data) as response:
            return await _answer(response)

    async def get(self, path: str, *, headers: Mapping[str, str] | None = None) -> Answer:
        async with self.http.get(self.listener.url + path, headers=headers) as response:
            return await _answer(response)

    async def work(self, **options: Any) -> Answer:
        return await self.post("/generate/sync", self.body(**options))

    async def session(self, **terms: Any) -> tuple[str, dict[str, Any]]:
        auth = self.auth()
        answer = await self.post("/session/create", {"auth_data": auth, "payload": terms})
        assert answer.status == 201, answer.body
        return answer.body["session_id"], auth

    @property
    def told(self) -> list[tuple[int, str]]:
        """What the router will be told of finished requests."""
        return [(item.request_idx, str(item.status)) for item in self.ledger.deleted(1000)]


async def make_world(
    stack: AsyncExitStack,
    folder: Path,
    *,
    url: str = URL,
    port: int = 0,
    in_flight: int = 100,
    automatic: bool = True,
    grace_s: float = 10.0,
    unsecured: bool = False,
    **fleet_options: Any,
) -> World:
    fleet = FleetSettings(unsecured=unsecured, force_update_path=folder / "force_update", **fleet_options)
    settings = JobsSettings(disconnect_grace_s=grace_s)
    clock, tasks, engine = PauseClock(), Tasks(), FakeEngine(automatic=automatic)
    ledger = Ledger(clock=clock)
    router = await stack.enter_async_context(Autoscaler(key=shared_key()))
    uplink = await stack.enter_async_context(Uplink((router.url,), clock=clock))
    keys = PubkeySource(uplink, clock=clock)
    await keys.load()
    jobs = build_jobs([engine], ledger=ledger, clock=clock, tasks=tasks, in_flight=in_flight)
    service, not_ready = jobs.service, jobs.blocked
    posts: list[dict[str, Any]] = []

    async def post(
        url: str, *, body: bytes, headers: Mapping[str, str], timeout_s: float, trusted: bool = False
    ) -> int:
        posts.append({"url": url, "body": body, "headers": dict(headers), "timeout_s": timeout_s, "trusted": trusted})
        if "refused" in url:
            raise aiohttp.ClientConnectionError("refused")
        return 200

    sessions = Sessions(
        most=fleet.max_sessions,
        jobs=service,
        ledger=ledger,
        post=post,
        plain_base=lambda: "http://127.0.0.1:3001",
        readiness=lambda: not_ready[0] if not_ready else None,
        clock=clock,
        tasks=tasks,
    )
    payload = PlainPayload()
    payload.jobs = service
    dialect = VastDialect(
        jobs=service,
        payload=payload,
        signatures=SignatureCheck(
            keys=keys,
            forms=fleet.signature_forms,
            own_urls=[url],
            check_url=fleet.check_url,
            unsecured=fleet.unsecured,
        ),
        signer=SIGNER,
        sessions=sessions,
        ledger=ledger,
        fleet=fleet,
        settings=settings,
        base_url=url,
        longest_wait_s=20.0,
        max_body_bytes=MOST_BYTES,
    )
    listener = await _listen(stack, dialect, plain=False, port=port)
    plain = await _listen(stack, dialect, plain=True)
    http = await stack.enter_async_context(aiohttp.ClientSession())
    return World(
        engine, service, ledger, router, sessions, tasks, clock, listener, plain, http, payload, posts, not_ready
    )


async def _answer(response: aiohttp.ClientResponse) -> Answer:
    answer = await response.json() if response.content_type == "application/json" else await response.text()
    return Answer(response.status, answer, response.headers)


async def _listen(stack: AsyncExitStack, dialect: VastDialect, *, plain: bool, port: int = 0) -> Listener:
    site = Site(max_body_bytes=MOST_BYTES)
    site.mount(
        dialect.plain_routes() if plain else dialect.routes(), owner=dialect.name, render_error=dialect.render_error
    )
    return await stack.enter_async_context(Listener(site.app, name="test", host="127.0.0.1", port=port))
