"""The durable store beyond the ports: restarts, kills, full disks, clock jumps, and what is in its files."""

import asyncio
import logging
import os
import sqlite3
import stat
import sys
from collections.abc import Awaitable, Callable
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from lib.errors import StorageFailed
from lib.jobs.durable.database import connect
from lib.jobs.durable.queries import CHUNK
from lib.jobs.durable.rows import VISIBLE, WHOLE
from lib.jobs.model import Credential, DeliverySpec, JobFilter, JobStatus, NamedInput, PutTarget, WebhookTarget
from lib.jobs.ports import Busy
from lib.jobs.retention import Retention
from lib.jobs.sqlite_store import SqliteJobStore
from tests.fakes.clock import START, FakeClock
from tests.lib.jobs.store_values import KEY, TO_S3, ended, job, message

ROOT = Path(__file__).resolve().parents[3]
YEAR_S = 365 * 86400.0


class JumpingClock(FakeClock):
    """A clock whose time of day somebody sets, while ``monotonic`` goes on as before."""

    def __init__(self, *, jump_s: float = 0.0) -> None:
        super().__init__()
        self.jump_s = jump_s

    def now(self) -> datetime:
        return super().now() + timedelta(seconds=self.jump_s)


def opened(folder: Path, clock: FakeClock | None = None, **changes: Any) -> SqliteJobStore:
    """``changes`` to the bounds, or to what the store takes besides."""
    bounds: dict[str, Any] = {"ttl_s": 60.0, "max_results": 10_000} | changes
    others = {name: bounds.pop(name) for name in ("connect", "retry_s") if name in bounds}
    return SqliteJobStore(folder, clock=clock or FakeClock(), retention=Retention(**bounds), **others)


# -- restarts --------------------------------------------------------------------------------------------------------


async def test_a_restart_finds_everything(tmp_path: Path) -> None:
    """What is not over with its workflow, results with their response, messages, runs, keys, the highest sequence."""
    running = job(2, delivery=TO_S3, workflow=b"g" * 50_000)
    async with opened(tmp_path) as store:
        await store.add(job(1, idempotency=KEY))
        await store.add(running)
        store.update(running.with_(status=JobStatus.RUNNING, posts=1), (message("started"),))
        await store.finish(ended(job(1, idempotency=KEY), response={"a": 1}), (message("completed"),))
    async with opened(tmp_path) as store:
        assert await store.unfinished() == [running.with_(status=JobStatus.RUNNING, posts=1)]
        found = await store.get("j1")
        assert found is not None and found.response == {"a": 1}
        assert await store.keyed(KEY) == found
        assert {item.message_id for item in await store.due(START, limit=9)} == {"started", "completed"}
        assert await store.run_number("r2") == 2
        assert await store.last_sequence() == 2
        await store.finish(ended(running))
    async with opened(tmp_path) as store:
        assert await store.unfinished() == []


async def test_a_restart_finds_what_is_kept_of_requests_and_lives(tmp_path: Path) -> None:
    """A failed job that may be repeated, complete; a life that is limited, or was shortened, ends when it was to."""
    clock = FakeClock()
    files = (NamedInput(name="a.png", value="A" * 100_000),)
    failed = job(1, repeatable=True, files=files, delivery=TO_S3)
    brief = job(2, ttl_s=30).with_(expires_at=START + timedelta(seconds=30))
    async with opened(tmp_path, clock) as store:
        for accepted in (failed, brief, job(3)):
            await store.add(accepted)
        await store.finish(ended(failed, JobStatus.FAILED))
        await store.shorten("j3", 20)
    await clock.advance(19)
    async with opened(tmp_path, clock) as store:
        found = await store.get("j1")
        assert found is not None and found.spec == failed.spec
        assert [left.expires_at for left in await store.unfinished()] == [
            START + timedelta(seconds=30),
            START + timedelta(seconds=20),
        ]
        await clock.advance(1)
        assert [shown.sequence for shown in await store.listed(JobFilter())] == [2, 1]
    await clock.advance(10)
    async with opened(tmp_path, clock) as store:
        assert [shown.sequence for shown in await store.listed(JobFilter())] == [1]
        await store.finish(ended(brief, JobStatus.CANCELLED))
        await clock.advance(60)
        await store.expire()
        for table in ("jobs", "workflows"):
            (count,) = await rows(tmp_path, f"SELECT count(*) FROM {table}")
            assert count == (1 if table == "jobs" else 0), "only the one that is not over is left"


async def rows(folder: Path, query: str) -> tuple[Any, ...]:
    """The first row of a query, read by somebody else."""

    def read() -> tuple[Any, ...]:
        with closing(connect(folder / "jobs.sqlite3")) as db:
            row: tuple[Any, ...] = db.execute(query).fetchone()
            return row

    return await asyncio.to_thread(read)


async def test_news_of_a_job_do_not_write_its_files_again(tmp_path: Path) -> None:
    """They lie in a row of their own, written once; small ones lie in the job's row, which is not changed by news."""
    written: list[str] = []

    def traced(path: Path) -> sqlite3.Connection:
        connection = connect(path)
        connection.set_trace_callback(lambda statement: written.append(statement))
        return connection

    accepted = job(1, files=(NamedInput(name="a.png", value="A" * 100_000),))
    async with opened(tmp_path, connect=traced) as store:
        await store.add(accepted)
        assert max(map(len, written)) > 100_000
        written.clear()
        await store.write(accepted.with_(status=JobStatus.RUNNING))
        await store.finish(ended(accepted))
    assert 0 < max(map(len, written)) < 10_000


async def test_what_is_forgotten_is_found_in_an_index(tmp_path: Path) -> None:
    """Neither a look for a job nor the list reads rows for it: the time lies behind everything else in them."""
    async with opened(tmp_path) as store:
        await store.add(job(1))
        for name in ("j.job_id = ?", "j.named = ?", "j.keyed = ?", "j.sequence < ?"):

            def explain(name: str = name) -> list[str]:
                with closing(connect(tmp_path / "jobs.sqlite3")) as db:
                    query = f"EXPLAIN QUERY PLAN {WHOLE} WHERE {name} AND {VISIBLE}"
                    return [row[-1] for row in db.execute(query, (1, 1, 1, 1))]

            plan = await asyncio.to_thread(explain)
            assert "SEARCH jobs USING COVERING INDEX jobs_by_end (forget_at<?)" in plan
            assert not [step for step in plan if step.startswith("SCAN")]


async def test_a_message_that_is_delivered_before_it_is_written_goes_all_the_same(tmp_path: Path) -> None:
    """It is sent at once, its row comes a moment later: no row may stay that would be sent again."""
    async with opened(tmp_path) as store:
        await store.add(job(1))
        store.update(job(1).with_(status=JobStatus.RUNNING), (message("started"),))
        await store.delivered("started")
        await store.finish(ended(job(1)))
        assert await store.due(START, limit=9) == []
        assert (await store.state()).pending_count == 0


async def test_what_is_written_now_is_there(tmp_path: Path) -> None:
    """Not a moment later, and with ComfyUI's response."""
    kept = job(1).with_(posts=7, response={"a": 1})
    async with opened(tmp_path) as store:
        await store.add(job(1))
        await store.write(kept)
        assert await store.unfinished() == [kept]


async def test_a_short_job_takes_two_writes(tmp_path: Path) -> None:
    """Its news are overtaken by its end; so is what is written a moment later anyway."""
    statements: list[str] = []

    def traced(path: Path) -> sqlite3.Connection:
        connection = connect(path)
        connection.set_trace_callback(statements.append)
        return connection

    async with opened(tmp_path, connect=traced) as store:
        statements.clear()
        assert await store.run_number("r1") == 1
        await store.add(job(1))
        for posts in range(5):
            store.update(job(1).with_(status=JobStatus.RUNNING, posts=posts))
        await store.finish(ended(job(1)))
        assert [statement.split()[0] for statement in statements] == ["INSERT", "UPDATE"]


async def test_news_are_written_by_themselves(tmp_path: Path) -> None:
    """Nobody has to do anything for it: another process sees them soon."""
    loop, written = asyncio.get_running_loop(), asyncio.Event()

    def notice(statement: str) -> None:
        if statement.startswith("UPDATE jobs"):
            loop.call_soon_threadsafe(written.set)

    def traced(path: Path) -> sqlite3.Connection:
        connection = connect(path)
        connection.set_trace_callback(notice)
        return connection

    async with opened(tmp_path, connect=traced) as store:
        await store.add(job(1))
        written.clear()
        store.update(job(1).with_(status=JobStatus.RUNNING))
        await asyncio.wait_for(written.wait(), 60)


async def test_a_cancelled_add_leaves_nothing(tmp_path: Path) -> None:
    """A job that nobody was told of does not run after a restart."""
    async with opened(tmp_path) as store:
        adding = asyncio.ensure_future(store.add(job(1)))
        await asyncio.sleep(0)
        adding.cancel()
        with pytest.raises(asyncio.CancelledError):
            await adding
    async with opened(tmp_path) as store:
        assert await store.unfinished() == []


async def test_a_cancelled_finish_is_written(tmp_path: Path) -> None:
    """The work is done, whoever stopped waiting for it."""
    async with opened(tmp_path) as store:
        await store.add(job(1))
        finishing = asyncio.ensure_future(store.finish(ended(job(1))))
        await asyncio.sleep(0)
        finishing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await finishing
    async with opened(tmp_path) as store:
        found = await store.get("j1")
        assert found is not None and found.status is JobStatus.COMPLETED


async def test_a_closed_store_says_so(tmp_path: Path) -> None:
    """Instead of waiting for ever."""
    async with opened(tmp_path) as store:
        pass
    with pytest.raises(StorageFailed, match="shutting down"):
        await store.add(job(1))


@pytest.mark.parametrize("acknowledged", [1, 40, 400])
async def test_a_kill_loses_nothing_that_was_acknowledged(tmp_path: Path, acknowledged: int) -> None:
    """SIGKILL in the midst of writing, twice on the same files; each line that was printed before holds."""
    said: dict[int, str] = {}
    for _ in range(2):
        for number, word in await run_and_kill(tmp_path, acknowledged):
            said[number] = word
    async with opened(tmp_path, ttl_s=1e9, max_results=100_000) as store:
        left = {found.sequence: found for found in await store.unfinished()}
        messages = {item.message_id for item in await store.due(START + timedelta(days=1000), limit=100_000)}
        for number, word in said.items():
            if word == "finished":
                found = await store.get(f"j{number}")
                assert found is not None and found.response == {"number": number}
                assert f"m{number}" in messages
            else:
                found = left.get(number) or await store.get(f"j{number}")
                assert found is not None
                assert found.status.terminal or found.spec.workflow.startswith(b"w" * 500)


async def run_and_kill(folder: Path, count: int) -> list[tuple[int, str]]:
    """Let the program write; kill it after so many acknowledgements; return all that it gave."""
    program = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.lib.jobs.store_program", str(folder), cwd=ROOT, stdout=asyncio.subprocess.PIPE
    )
    assert program.stdout is not None
    lines = [await asyncio.wait_for(program.stdout.readline(), 60) for _ in range(count + 1)]
    program.kill()
    lines += (await program.stdout.read()).splitlines(keepends=True)
    await program.wait()
    whole = [line.split() for line in lines if line.endswith(b"\n")]
    assert len(whole) > count and whole[0] == [b"open"]
    return [(int(words[1]), words[0].decode()) for words in whole[1:]]


# -- what is in the files --------------------------------------------------------------------------------------------


async def test_nothing_of_a_caller_is_in_the_files(tmp_path: Path) -> None:
    """Neither secrets nor texts, not even the key of an idempotent request or a webhook's host; for our eyes only."""
    hidden = [
        "prompt-text", "access-key", "session-token", "header-value", "hook-secret", "hook-host", "put-signature",
        "message-body", "attempt-error", "output-text", "node-response", "error-detail", "idempotency-secret",
        "picture-name", "picture-content",
    ]  # fmt: skip
    webhook = WebhookTarget(url="https://hook-host.example/x?token=hook-secret", secret="hook-secret")
    accepted = job(
        1,
        workflow=b'{"1": "prompt-text"}' + b"prompt-text" * 5000,
        files=(NamedInput(name="picture-name", value="picture-content" * 5000),),
        repeatable=True,
        idempotency=type(KEY)(scope="s", key="idempotency-secret"),
        credentials=(Credential(kind="http", pattern="https://*", values={"A": "header-value access-key"}),),
        delivery=DeliverySpec(
            put=PutTarget(urls=("https://b/?X-Amz-Signature=put-signature",), headers={"T": "session-token"}),
            webhooks=(webhook,),
        ),
    )
    sent = message("m", host="hook-host.example")
    sent = type(sent)(
        **{name: getattr(sent, name) for name in sent.__slots__} | {"body": b"message-body", "target": webhook}
    )
    async with opened(tmp_path) as store:
        await store.add(accepted)
        store.update(accepted.with_(status=JobStatus.RUNNING))
        await in_no_file(tmp_path, hidden)
        error = StorageFailed("error-detail", details={"a": "error-detail"})
        done = ended(
            accepted, JobStatus.FAILED, error=error, response={"a": "node-response", "b": "output-text" * 3000}
        )
        await store.finish(done, (sent,))
        await store.postpone("m", next_at=START, error="attempt-error")
        await in_no_file(tmp_path, hidden)
    await in_no_file(tmp_path, hidden)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert modes == {"jobs.sqlite3": 0o600, "jobs.key": 0o600, "jobs.lock": 0o600}


async def in_no_file(folder: Path, hidden: list[str]) -> None:
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert any(b"SQLite" in content for content in files.values())
    assert [(name, word) for name, content in files.items() for word in hidden if word.encode() in content] == []


async def test_rows_that_cannot_be_read_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A flipped bit, or one job's bytes under another's name: it is logged, and the others are served."""
    async with opened(tmp_path) as store:
        for number in range(1, 5):
            await store.add(job(number))
        await store.finish(ended(job(4), response={"a": 1}), (message("m"), message("n")))
    with connect(tmp_path / "jobs.sqlite3") as db:
        db.execute("UPDATE jobs SET head = (SELECT head FROM jobs WHERE sequence = 2) WHERE sequence = 1")
        db.execute("UPDATE jobs SET workflow = substr(workflow, 1, 20) WHERE sequence = 3")
        db.execute("UPDATE outbox SET body = x'00' WHERE message_id = 'm'")
    db.close()
    async with opened(tmp_path) as store:
        with caplog.at_level(logging.WARNING):
            assert [found.sequence for found in await store.unfinished()] == [2]
            assert await store.get("j1") is None
            assert [found.sequence for found in await store.listed(JobFilter())] == [4, 3, 2]
            assert [item.message_id for item in await store.due(START, limit=9)] == ["n"]
        assert {record.event for record in caplog.records} == {"store.unreadable"}  # type: ignore[attr-defined]


async def test_the_file_shrinks_again(tmp_path: Path) -> None:
    """Room that results took is given back to the disk, in steps."""
    clock = FakeClock()
    async with opened(tmp_path, clock) as store:
        for number in range(1, 3 * CHUNK):
            await store.add(job(number))
            await store.finish(ended(job(number), response={"a": os.urandom(9000).hex()}))
    large = (tmp_path / "jobs.sqlite3").stat().st_size
    await clock.advance(100)
    async with opened(tmp_path, clock) as store:
        await store.expire()
        assert await store.listed(JobFilter()) == []
    assert (tmp_path / "jobs.sqlite3").stat().st_size < large / 2


# -- a full disk -----------------------------------------------------------------------------------------------------


class Disk:
    """Gives connections, and later the disk under them no more room, by SQLite's own limit."""

    def __init__(self) -> None:
        self.connections: list[sqlite3.Connection] = []

    def connect(self, path: Path) -> sqlite3.Connection:
        self.connections.append(connect(path))
        return self.connections[-1]

    def fill(self) -> None:
        writing = self.connections[0]
        (pages,) = writing.execute("PRAGMA page_count").fetchone()
        writing.execute(f"PRAGMA max_page_count = {pages}")

    def empty(self) -> None:
        self.connections[0].execute("PRAGMA max_page_count = 1000000")


async def fails(call: Callable[[], Awaitable[object]]) -> StorageFailed:
    with pytest.raises(StorageFailed) as caught:
        await call()
    return caught.value


async def test_a_full_disk_refuses_new_jobs_and_keeps_results(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Who submits is told to come back, who waits gets the answer; it recovers by itself, and nothing is lost."""
    disk, news, over = Disk(), list[str | None](), asyncio.Event()
    first, second = job(1), job(2)
    async with opened(tmp_path, connect=disk.connect, retry_s=0.01) as store:
        store.on_trouble(news.append)
        store.on_trouble(lambda trouble: over.set() if trouble is None else None)
        await store.add(first)
        await store.add(second)
        disk.fill()
        refused = await fails(lambda: store.add(job(3, workflow=b"w" * 100_000)))
        assert refused.retryable and refused.retry_after_s
        assert "could not be recorded" in refused.message and "disk of STATE_DIR is full" in refused.message
        assert news == ["the disk of STATE_DIR is full"] == [store.trouble] and not store.healthy
        large = {"a": os.urandom(200_000).hex()}
        store.update(first.with_(status=JobStatus.RUNNING), (message("started"),))
        await store.finish(ended(first, response=large), (message("completed", size=100_000),))
        store.update(second.with_(status=JobStatus.RUNNING, warnings=("w" * 100_000,)))
        for found in (await store.get("j1"), await store.latest("r1"), (await store.listed(JobFilter()))[1]):
            assert found is not None and found.status is JobStatus.COMPLETED
        assert await store.due(START, limit=9) == []
        assert not over.is_set()
        disk.empty()
        await asyncio.wait_for(over.wait(), 60)
        assert store.healthy and news[-1] is None
        await store.add(job(4))
    async with opened(tmp_path) as store:
        found = await store.get("j1")
        assert found is not None and found.response == large
        assert [(left.sequence, left.status) for left in await store.unfinished()] == [
            (2, JobStatus.RUNNING),
            (4, JobStatus.QUEUED),
        ]
        assert {item.message_id for item in await store.due(START, limit=9)} == {"started", "completed"}
    events = [record.event for record in caplog.records if record.name.startswith("lib.jobs")]  # type: ignore[attr-defined]
    assert events.count("store.trouble") == 1


async def test_one_refused_job_takes_no_other_with_it(tmp_path: Path) -> None:
    """Of jobs that share a transaction each one that fits is recorded."""
    disk = Disk()
    async with opened(tmp_path, connect=disk.connect, retry_s=60) as store:
        await store.add(job(1, workflow=b"w" * 100_000))
        await store.finish(ended(job(1)))  # which leaves empty pages
        disk.fill()
        sizes = [100 if number % 2 else 500_000 for number in range(100, 110)]
        adding = [store.add(job(number, workflow=b"w" * size)) for number, size in enumerate(sizes, 100)]
        outcomes = await asyncio.gather(*adding, return_exceptions=True)
        assert [isinstance(outcome, StorageFailed) for outcome in outcomes] == [size > 100 for size in sizes]
        disk.empty()


async def test_a_process_that_ends_in_trouble_says_what_is_lost(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The log names the job."""
    disk = Disk()
    async with opened(tmp_path, connect=disk.connect, retry_s=60) as store:
        await store.add(job(1))
        disk.fill()
        await store.finish(ended(job(1), response={"a": os.urandom(200_000).hex()}))
    lost = [record for record in caplog.records if getattr(record, "event", "") == "store.unwritten"]
    assert [record.message for record in lost] == [
        "a job's end is kept in memory for now",
        "a job's end is lost with this process",
    ]
    async with opened(tmp_path) as store:
        assert [found.sequence for found in await store.unfinished()] == [1]


async def test_nobody_else_can_block_the_store_for_long(tmp_path: Path) -> None:
    """Somebody holds the database with a tool of his own: it is said, and over when he lets go."""

    def impatient(path: Path) -> sqlite3.Connection:
        connection = connect(path)
        connection.execute("PRAGMA busy_timeout = 10")
        return connection

    over = asyncio.Event()
    async with opened(tmp_path, connect=impatient, retry_s=0.01) as store:
        store.on_trouble(lambda trouble: over.set() if trouble is None else None)
        other = connect(tmp_path / "jobs.sqlite3")
        other.execute("BEGIN IMMEDIATE")
        refused = await fails(lambda: store.add(job(1)))
        assert "another program holds the job store" in refused.message
        other.execute("ROLLBACK")
        other.close()
        await asyncio.wait_for(over.wait(), 60)
        await store.add(job(1))


async def test_a_defect_in_a_value_is_one_operation_s_own(tmp_path: Path) -> None:
    """A number twice is refused, and is no trouble of the disk."""
    async with opened(tmp_path) as store:
        await store.add(job(1))
        await fails(lambda: store.add(job(1, job_id="another")))
        assert store.healthy
        assert await store.unfinished() == [job(1)]


# -- clock jumps -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("jump_s", [YEAR_S, -YEAR_S, -3600.0])
async def test_a_jump_while_we_live_moves_no_deadline(tmp_path: Path, jump_s: float) -> None:
    """Results, keys and messages end when they would have ended; the order is that of the numbers."""
    clock = JumpingClock()
    async with opened(tmp_path, clock, idempotency_ttl_s=600.0) as store:
        await store.add(job(1))
        await store.finish(ended(job(1)), (message("m", due_s=30),))
        clock.jump_s = jump_s
        await store.add(job(2, idempotency=KEY))
        await store.finish(ended(job(2, idempotency=KEY)))
        await clock.advance(29)
        assert await store.due(clock.now(), limit=9) == []
        await clock.advance(2)
        assert [item.message_id for item in await store.due(clock.now(), limit=9)] == ["m"]
        assert [found.sequence for found in await store.listed(JobFilter())] == [2, 1]
        await clock.advance(30)
        await store.expire()
        assert [found.sequence for found in await store.listed(JobFilter())] == [2]
        await clock.advance(600)
        await store.expire()
        assert await store.listed(JobFilter()) == []


async def test_a_clock_set_back_between_two_lives_keeps_nothing_for_ever(tmp_path: Path) -> None:
    """What was stamped in the future counts as of the restart; what was due then is due now."""
    async with opened(tmp_path, JumpingClock(jump_s=YEAR_S)) as store:
        for number in (1, 2):
            await store.add(job(number))
            await store.finish(ended(job(number)))
        late = message("m")
        late = type(late)(
            **{name: getattr(late, name) for name in late.__slots__}
            | {"created_at": START + timedelta(seconds=YEAR_S), "next_at": START + timedelta(seconds=YEAR_S + 5)}
        )
        dead = type(late)(**{name: getattr(late, name) for name in late.__slots__} | {"message_id": "d"})
        await store.add(job(3))
        await store.finish(ended(job(3)), (late, dead))
        await store.bury("d", error="")
    clock = FakeClock()
    async with opened(tmp_path, clock, dead_ttl_s=100.0) as store:
        assert [item.message_id for item in await store.due(clock.now(), limit=9)] == ["m"]
        await store.add(job(4))
        await store.finish(ended(job(4)))
        await clock.advance(59)
        await store.expire()
        assert [found.sequence for found in await store.listed(JobFilter())] == [4, 3, 2, 1]
        await clock.advance(2)
        await store.expire()
        assert await store.listed(JobFilter()) == []
        await clock.advance(100)
        await store.expire()
        assert await store.dead(owner=None, limit=9) == []


async def test_new_ends_come_after_old_ones_whatever_the_clock_says(tmp_path: Path) -> None:
    """So the count takes the oldest first also after the clock was set back."""
    async with opened(tmp_path, JumpingClock(jump_s=YEAR_S)) as store:
        for number in (1, 2):
            await store.add(job(number))
            await store.finish(ended(job(number)))
    async with opened(tmp_path, FakeClock(), max_results=2) as store:
        await store.add(job(3))
        await store.finish(ended(job(3)))
        await store.expire()
        assert [found.sequence for found in await store.listed(JobFilter())] == [3, 2]


async def test_nothing_is_hidden_by_many_busy_hosts(tmp_path: Path) -> None:
    """As many as a sender may have in hand."""
    async with opened(tmp_path) as store:
        await store.add(job(1))
        items = tuple(message(f"m{number}", host=f"h{number}.example") for number in range(300))
        await store.finish(ended(job(1)), items)
        busy = Busy(
            message_ids=frozenset(f"m{number}" for number in range(100)),
            hosts=frozenset(f"h{number}.example" for number in range(100, 299)),
        )
        assert [item.message_id for item in await store.due(START, limit=9, busy=busy)] == ["m299"]
