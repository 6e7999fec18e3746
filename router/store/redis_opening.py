"""Opens the store on a Redis-protocol server; each new connection is looked at: new enough, written with our key?"""

import asyncio
import logging
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from redis.asyncio.connection import Connection

from lib.clock import Clock
from lib.lanes import Lane
from lib.lifecycle import Tasks
from lib.settings import SettingsError
from lib.storage.vault import Unreadable, Vault
from router.ports import StoreDown
from router.store import Stores
from router.store.codec import JobCodec
from router.store.redis_jobs import RedisJobs
from router.store.redis_line import PREFIX, Connect, RedisLine, exchange
from router.store.redis_state import RedisState

log = logging.getLogger(__name__)
_FACT = re.compile(rb"(\w+):(\S*)")

OLDEST = (6, 2)
CHECK = b"the key fits"
CHECK_KEY = f"{PREFIX}check"
JOBS_S = 10.0
"""So long a call about jobs may take: bodies and results are large, and the line to the server may be slow."""


class _Unfit(StoreDown):
    """This server can't be our store; no later try will change that."""


class _Look:
    """What is looked at with each new connection. Raises: StoreDown."""

    def __init__(self, vault: Vault) -> None:
        self._vault = vault
        self._sealed = vault.seal(CHECK, "check")

    async def __call__(self, connection: Connection) -> None:
        info, _, sealed = await exchange(
            connection, [("INFO", "server"), ("SET", CHECK_KEY, self._sealed, "NX"), ("GET", CHECK_KEY)]
        )
        version = re.search(rb"redis_version:(\d+)\.(\d+)", info) if isinstance(info, bytes) else None
        if version is not None and (found := tuple(map(int, version.groups()))) < OLDEST:
            raise _Unfit("ROUTER_STORE is a server of version {}.{}; 6.2 is the oldest that works.".format(*found))
        if not isinstance(sealed, bytes):
            raise StoreDown(f"ROUTER_STORE: the server refuses us: {str(sealed)[:200]}")
        try:
            self._vault.unseal(sealed, "check")
        except Unreadable as error:
            raise _Unfit(
                "ROUTER_STORE was written with another key: all routers that share it need the same ROUTER_STATE_KEY "
                "(or the same key file in ROUTER_STATE_DIR)."
            ) from error


@asynccontextmanager
async def open_redis(connect: Connect, *, vault: Vault, clock: Clock) -> AsyncIterator[Stores]:
    """The stores over connections of this making. Without a server now it is found later; raises: SettingsError."""
    look = _Look(vault)
    lane = Lane(1, name="router-sealing")
    try:
        async with Tasks() as tasks:
            state = RedisLine(connect, tasks=tasks, prepare=look)
            jobs = RedisLine(connect, tasks=tasks, prepare=look, call_s=JOBS_S)  # large bodies hold no reservation up
            try:
                await _first_look(state)
                await _advise(state)
                yield Stores(
                    shared=RedisState(state, clock=clock),
                    jobs=RedisJobs(jobs, JobCodec(vault), clock=clock, lane=lane),
                )
            finally:
                await state.close()
                await jobs.close()
    finally:
        await asyncio.to_thread(lane.close)


async def _first_look(line: RedisLine) -> None:
    try:
        await line.call("PING")
    except _Unfit as error:
        raise SettingsError(error.message) from error
    except StoreDown as error:
        log.error("the store is not there yet", extra={"event": "store.down", "reason": error.message})


async def _advise(line: RedisLine) -> None:
    """Name what would lose jobs that were accepted; a managed server may tell nothing of itself."""
    try:
        told = [await line.call("INFO", section) for section in ("persistence", "memory")]
    except StoreDown as error:
        log.debug("the server tells nothing", extra={"event": "store.untold", "reason": error.message})
        return
    facts = dict(_FACT.findall(b"".join(part for part in told if isinstance(part, bytes))))
    if facts.get(b"aof_enabled") == b"0":
        log.warning(
            "ROUTER_STORE keeps no append-only file: jobs that were accepted are lost when it ends; "
            "set appendonly yes, and appendfsync always where not even the last second's may be lost",
            extra={"event": "store.forgets"},
        )
    policy = facts.get(b"maxmemory_policy", b"noeviction")
    if facts.get(b"maxmemory", b"0") != b"0" and policy != b"noeviction":
        log.warning(
            "ROUTER_STORE throws keys out when its memory is full: set maxmemory-policy noeviction",
            extra={"event": "store.evicts", "policy": policy.decode()},
        )
