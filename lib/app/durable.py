"""Opens the job store, and gives the secrets that live as long as it does."""

from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from lib.clock import Clock
from lib.jobs.ports import JobStore, Outbox
from lib.jobs.retention import Retention
from lib.jobs.sqlite_store import SqliteJobStore
from lib.jobs.store import MemoryJobStore
from lib.settings import Settings
from lib.storage.vault import Vault

STATE = "state"
EXPIRE_S = 30.0
"""How often results that are past their time are forgotten."""


class Store(JobStore, Outbox, Protocol):
    """Jobs and the messages that tell of them, in one place."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Records:
    """``derive`` gives a secret key for a purpose: the same one in each life of the worker where the store is durable.
    ``on_trouble`` takes a listener that is told why nothing can be recorded now, ``None`` when it can again."""

    store: Store
    derive: Callable[[str], bytes]
    durable: bool
    on_trouble: Callable[[Callable[[str | None], None]], None]
    on_commit: Callable[[Callable[[float], None]], None]


async def open_records(settings: Settings, stack: AsyncExitStack, *, clock: Clock) -> Records:
    """Open the store on ``stack``. Raises StorageFailed: the state folder can't be used, or another worker has it."""
    jobs = settings.jobs
    retention = Retention(
        ttl_s=jobs.result_ttl_s,
        max_results=jobs.max_results,
        results_max_bytes=jobs.results_max_bytes,
        idempotency_ttl_s=jobs.idempotency_ttl_s,
        dead_ttl_s=settings.delivery.webhook_dead_ttl_s,
    )
    if jobs.store == "memory":
        return Records(
            store=MemoryJobStore(clock=clock, retention=retention),
            derive=Vault.random().derive,
            durable=False,
            on_trouble=lambda listener: None,
            on_commit=lambda listener: None,
        )
    store = SqliteJobStore(state_folder(settings), clock=clock, retention=retention)
    await stack.enter_async_context(store)
    return Records(
        store=store,
        derive=store.vault.derive,
        durable=True,
        on_trouble=store.on_trouble,
        on_commit=store.on_commit,
    )


def state_folder(settings: Settings) -> Path:
    """Where the durable store lies."""
    return settings.jobs.state_dir or settings.engine.workspace.resolve() / STATE
