"""A program that writes jobs as fast as it can and says what is acknowledged, until somebody kills it.

``python -m tests.lib.jobs.store_program FOLDER``: prints ``added N`` and ``finished N`` for sequence numbers.
"""

import asyncio
import sys
from pathlib import Path

from lib.clock import SystemClock
from lib.jobs.model import JobStatus
from lib.jobs.retention import Retention
from lib.jobs.sqlite_store import SqliteJobStore
from tests.lib.jobs.store_values import ended, job, message

RETENTION = Retention(ttl_s=3600, max_results=100_000)


async def write(folder: Path) -> None:
    async with SqliteJobStore(folder, clock=SystemClock(), retention=RETENTION) as store:
        last = await store.last_sequence()
        print("open", flush=True)

        async def client() -> None:
            nonlocal last
            while True:
                last += 1
                number, accepted = last, job(last, workflow=b"w" * (50_000 if last % 5 == 0 else 500))
                await store.add(accepted)
                print("added", number, flush=True)
                store.update(accepted.with_(status=JobStatus.RUNNING, posts=1))
                if number % 3:
                    await store.finish(ended(accepted, response={"number": number}), (message(f"m{number}"),))
                    print("finished", number, flush=True)

        await asyncio.gather(*(client() for _ in range(8)))


asyncio.run(write(Path(sys.argv[1])))
