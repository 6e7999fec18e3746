"""Opening the job store: a folder that can't be used is named with what to do; broken files are set aside."""

import logging
import sqlite3
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from lib.errors import StorageFailed
from lib.jobs.durable.database import connect, open_database
from lib.jobs.durable.schema import FIRST, MIGRATIONS, NewerSchema, migrate
from lib.jobs.retention import Retention
from lib.jobs.sqlite_store import SqliteJobStore
from tests.fakes.clock import FakeClock
from tests.lib.jobs.store_values import ended, job

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def opened(folder: Path, **changes: Any) -> SqliteJobStore:
    return SqliteJobStore(folder, clock=FakeClock(), retention=Retention(ttl_s=60, max_results=10_000), **changes)


async def refused(folder: Path, **changes: Any) -> str:
    with pytest.raises(StorageFailed) as caught:
        async with opened(folder, **changes):
            pass
    return caught.value.message


async def written(folder: Path, count: int) -> None:
    async with opened(folder) as store:
        for number in range(1, count + 1):
            await store.add(job(number))
            await store.finish(ended(job(number), response={"a": "x" * 3000}))


async def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    """With the setting that is wrong and what to set instead."""
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        message = await refused(folder)
        assert message.startswith(f"STATE_DIR={folder} can't be written") and "JOB_STORE=memory" in message


async def test_a_second_worker_is_kept_out(tmp_path: Path) -> None:
    """While the first one lives; its process is named. Then the folder is free."""
    async with opened(tmp_path):
        message = await refused(tmp_path)
        assert "in use by another worker (process " in message
        assert message.split("(process ")[1].split(")")[0].isdigit()
    async with opened(tmp_path):
        pass


async def test_a_file_system_without_wal_is_named(tmp_path: Path) -> None:
    """SQLite itself says so, here by its driver for file systems without shared memory; and nothing stays locked."""

    def poor(path: Path) -> sqlite3.Connection:
        return sqlite3.connect(f"file:{path}?vfs=unix-dotfile", uri=True, isolation_level=None, check_same_thread=False)

    message = await refused(tmp_path, connect=poor)
    assert message.startswith(f"STATE_DIR={tmp_path}") and "write-ahead log does not work there" in message
    async with opened(tmp_path / "another"):
        pass
    async with opened(tmp_path):
        pass


async def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    """And left as it is, for the version that wrote it."""
    await written(tmp_path, 1)
    path = tmp_path / "jobs.sqlite3"
    with connect(path) as db:
        db.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    db.close()
    message = await refused(tmp_path)
    assert "was written by a newer version" in message and str(path) in message
    with connect(path) as db:
        assert db.execute("SELECT count(*) FROM jobs").fetchone() == (1,)
        db.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")
    db.close()
    async with opened(tmp_path) as store:
        assert await store.get("j1") is not None


def test_migrations_go_forward_step_by_step(tmp_path: Path) -> None:
    """Each version's script runs once; a step that fails leaves the version before, whole."""
    db = connect(tmp_path / "db")
    migrate(db, (FIRST,))
    db.execute("INSERT INTO facts VALUES ('kept', 1)")
    steps = (FIRST, "ALTER TABLE facts ADD COLUMN note TEXT", "UPDATE facts SET note = 'new'")
    with pytest.raises(sqlite3.Error):
        migrate(db, (*steps, "CREATE TABLE half (a); CREATE TABLE facts (b)"))
    assert db.execute("PRAGMA user_version").fetchone() == (3,)
    assert db.execute("SELECT name FROM sqlite_master WHERE name = 'half'").fetchone() is None
    migrate(db, steps)
    assert db.execute("SELECT name, value, note FROM facts").fetchall() == [("kept", 1, "new")]
    with pytest.raises(NewerSchema):
        migrate(db, (FIRST,))
    db.close()


async def test_the_first_version_s_database_is_taken_over(tmp_path: Path) -> None:
    """Its jobs are there, live on without a limit, and can be given one; it is as quick as a change of the schema."""
    async with opened(tmp_path) as store:
        await store.add(job(1))
        await store.add(job(2))
        await store.finish(ended(job(1), response={"a": 1}))
    with connect(tmp_path / "jobs.sqlite3") as db:
        db.executescript("DROP INDEX jobs_by_end; ALTER TABLE jobs DROP COLUMN forget_at; PRAGMA user_version = 1")
    db.close()
    async with opened(tmp_path) as store:
        found = await store.get("j1")
        assert found is not None and (found.response, found.expires_at) == ({"a": 1}, None)
        assert [left.job_id for left in await store.unfinished()] == ["j2"]
        assert await store.shorten("j1", 0) is not None
        assert await store.get("j1") is None


def spoil_header(path: Path) -> None:
    path.write_bytes(b"not a database at all" * 1000)


def spoil_pages(path: Path) -> None:
    content = bytearray(path.read_bytes())
    for start in range(8192, len(content), 4096):
        content[start : start + 200] = b"\xff" * 200
    path.write_bytes(content)


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("spoil", [spoil_header, spoil_pages, cut_off])
async def test_a_damaged_database_is_set_aside(tmp_path: Path, caplog: pytest.LogCaptureFixture, spoil: Any) -> None:
    """Under a name with the time; the log says it as an error, and a new one is begun."""
    await written(tmp_path, 50)
    spoil(tmp_path / "jobs.sqlite3")
    spoiled = (tmp_path / "jobs.sqlite3").read_bytes()
    async with opened(tmp_path) as store:
        assert await store.get("j1") is None
        await store.add(job(1))
    (aside,) = tmp_path.glob("jobs.sqlite3.damaged-*")
    assert aside.name == "jobs.sqlite3.damaged-20260101T000000000000Z"
    assert aside.read_bytes()[100:] == spoiled[100:]  # before that SQLite counts
    (record,) = [found for found in caplog.records if found.levelno == logging.ERROR]
    assert record.event == "store.set_aside" and record.path == str(aside)  # type: ignore[attr-defined]
    async with opened(tmp_path) as store:
        assert await store.get("j1") is not None


async def test_a_lost_key_is_survived(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Old rows can't be read any more: that is said, they are set aside, and put back with their key they are there."""
    await written(tmp_path, 1)
    key = tmp_path / "jobs.key"
    kept = key.read_bytes()
    key.unlink()
    async with opened(tmp_path) as store:
        assert await store.get("j1") is None
    (aside,) = tmp_path.glob("jobs.sqlite3.unreadable-*")
    assert "another key" in caplog.text
    key.write_bytes(kept)
    aside.replace(tmp_path / "jobs.sqlite3")
    async with opened(tmp_path) as store:
        assert await store.get("j1") is not None


async def test_a_wrong_key_file_is_refused(tmp_path: Path) -> None:
    """It may be a mistake that can be undone; nothing is set aside, nothing stays locked."""
    await written(tmp_path, 1)
    (tmp_path / "jobs.key").write_text("oops")
    assert "is not a key of ours" in await refused(tmp_path)
    assert not list(tmp_path.glob("*.unreadable-*"))
    assert "is not a key of ours" in await refused(tmp_path)


async def test_a_database_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    """Whatever stands in its place."""
    (tmp_path / "jobs.sqlite3").mkdir()
    assert (await refused(tmp_path)).startswith(f"STATE_DIR={tmp_path}: the job store can't be opened")


def test_opening_twice_is_no_change(tmp_path: Path) -> None:
    """The second start finds the schema of the first, with room given back in steps and the log in WAL mode."""
    for _ in range(2):
        database = open_database(tmp_path, now=NOW)
        pragmas = ("user_version", "journal_mode", "auto_vacuum", "synchronous")
        found = [database.writing.execute(f"PRAGMA {name}").fetchone()[0] for name in pragmas]
        assert found == [len(MIGRATIONS), "wal", 2, 1]
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            database.reading.execute("DELETE FROM jobs")
        database.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["jobs.key", "jobs.lock", "jobs.sqlite3"]
