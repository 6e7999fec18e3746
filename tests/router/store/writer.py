"""A program that writes jobs until it is killed: says each that is recorded, at last one that it is in the midst of.

Arguments: state folder, how many jobs it records before.
"""

import asyncio
import sqlite3
import sys
from dataclasses import replace
from pathlib import Path

from lib.clock import SystemClock
from lib.storage.vault import Vault
from router.ports import JobState
from router.store import DATABASE, KEY, open_stores
from router.store.sqlite_file import SqliteFile
from tests.router.store.values import NOW, job


def hang(connection: sqlite3.Connection) -> None:
    """Write, and never come to an end."""
    connection.execute("UPDATE jobs SET state = 'nonsense'")
    connection.execute("UPDATE counters SET value = 0")
    print("midst", flush=True)
    sys.stdin.read()


async def main(folder: Path, count: int) -> None:
    """Record, then begin what does not end."""
    async with open_stores("sqlite://", state_dir=folder, clock=SystemClock()) as stores:
        for number in range(count):
            await stores.jobs.add(job(f"j{number}"))
            print("number", await stores.shared.next_number("route"), flush=True)
        (mine,) = await stores.jobs.lease("a", limit=1, until=NOW + 45, now=NOW)
        await stores.jobs.save(replace(mine, state=JobState.DONE, result=b"answer"))
    file = SqliteFile.open(folder / DATABASE, Vault.open(folder / KEY), now=SystemClock().now())
    await file.run(hang)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2])))
