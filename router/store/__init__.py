"""The two stores of the router: SQLite and memory for one alone, a Redis-protocol server for several."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from lib.clock import Clock
from lib.errors import StorageFailed
from lib.settings import SettingsError
from lib.storage.vault import KEY_BYTES, Vault
from router.ports import JobStore, SharedState

KEY = "store.key"
DATABASE = "router.sqlite3"
SQLITE = "sqlite://"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stores:
    """What is kept, where routers share it and where jobs are."""

    shared: SharedState
    jobs: JobStore


@asynccontextmanager
async def open_stores(url: str, *, state_dir: Path, clock: Clock, state_key: str = "") -> AsyncIterator[Stores]:
    """Open ``sqlite://`` (a file in ``state_dir``), ``sqlite:///path``, ``redis://``, ``rediss://`` or ``unix://``.

    ``state_key`` (64 hex digits) seals what is at rest; without it a key is made in ``state_dir``. A server that is not
    there yet is no error; calls raise StoreDown until it is. Raises: SettingsError.
    """
    vault = await asyncio.to_thread(_vault, state_dir, state_key)
    stores: AbstractAsyncContextManager[Stores]
    if url.startswith(SQLITE):
        path = Path(url.removeprefix(SQLITE)) if url != SQLITE else state_dir / DATABASE
        stores = _open_sqlite(path, vault=vault, clock=clock)
    else:
        stores = await _redis(url, vault=vault, clock=clock)
    async with stores as opened:
        yield opened


@asynccontextmanager
async def _open_sqlite(path: Path, *, vault: Vault, clock: Clock) -> AsyncIterator[Stores]:
    from router.store.codec import JobCodec
    from router.store.memory import MemoryState
    from router.store.sqlite_file import SqliteFile
    from router.store.sqlite_jobs import SqliteJobs

    file = await asyncio.to_thread(SqliteFile.open, path, vault, now=clock.now())
    shared = MemoryState(file, clock=clock)
    try:
        yield Stores(shared=shared, jobs=SqliteJobs(file, JobCodec(vault), clock=clock))
    finally:
        await shared.close()
        await file.close()


async def _redis(url: str, *, vault: Vault, clock: Clock) -> AbstractAsyncContextManager[Stores]:
    try:
        await asyncio.to_thread(__import__, "redis.asyncio")  # 15 MB that a router alone does without
    except ImportError as error:
        raise SettingsError("ROUTER_STORE needs redis-py: pip install -r requirements-router.txt") from error
    from router.store.redis_line import connections
    from router.store.redis_opening import open_redis

    return open_redis(connections(url), vault=vault, clock=clock)


def _vault(state_dir: Path, state_key: str) -> Vault:
    if not state_key:
        try:
            state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            return Vault.open(state_dir / KEY)
        except OSError as error:
            raise SettingsError(f"ROUTER_STATE_DIR={state_dir} can't be written: {error.strerror}") from error
        except StorageFailed as error:
            raise SettingsError(error.message) from error
    try:
        key = bytes.fromhex(state_key)
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise SettingsError(f"ROUTER_STATE_KEY=***: expected {2 * KEY_BYTES} hexadecimal digits (openssl rand -hex 32)")
    return Vault(key)
