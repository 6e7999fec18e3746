"""The ports JobStore and Outbox: what every implementation does. Both run it."""

import asyncio
import base64
import gc
import random
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from lib.errors import EngineDied, JobTimeout
from lib.jobs.model import (
    Credential,
    Idempotency,
    Job,
    JobFilter,
    JobStatus,
    NamedInput,
    OnDisconnect,
    WebhookTarget,
)
from lib.jobs.ports import DUE_BYTES, Busy
from lib.jobs.requests import lightened
from lib.jobs.retention import KEYED_FACTOR, RUN_MEMORY_S, Retention
from lib.jobs.sqlite_store import SqliteJobStore
from lib.jobs.store import MemoryJobStore
from tests.fakes.clock import START, FakeClock
from tests.lib.jobs.store_values import KEY, TO_S3, ended, job, message

Store = MemoryJobStore | SqliteJobStore
BOUNDS = {"ttl_s": 60.0, "max_results": 3, "idempotency_ttl_s": 600.0, "dead_ttl_s": 300.0}


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture(params=["memory", "sqlite"])
async def make(request: pytest.FixtureRequest, clock: FakeClock, tmp_path: Path) -> AsyncIterator[Callable[..., Any]]:
    """Makes a store with these bounds, or changed ones."""
    async with AsyncExitStack() as stack:

        async def made(**changes: Any) -> Store:
            bounds: dict[str, Any] = BOUNDS | changes
            retention = Retention(**bounds)
            if request.param == "memory":
                return MemoryJobStore(clock=clock, retention=retention)
            return await stack.enter_async_context(SqliteJobStore(tmp_path, clock=clock, retention=retention))

        yield made


@pytest.fixture
async def store(make: Callable[..., Any]) -> Store:
    made: Store = await make()
    return made


# -- jobs ------------------------------------------------------------------------------------------------------------


async def test_a_job_is_found_in_each_state(store: Store) -> None:
    """By its id, as the newest snapshot says; a stranger's id finds nothing."""
    accepted = job(1)
    assert await store.get("j1") is None
    await store.add(accepted)
    assert await store.get("j1") == accepted
    running = accepted.with_(status=JobStatus.RUNNING, posts=1)
    store.update(running)
    assert await store.get("j1") == running
    await store.finish(ended(running, response={"p": 1}))
    found = await store.get("j1")
    assert found == ended(running, response={"p": 1}).with_(spec=replace(running.spec, workflow=b""))
    assert await store.get("j2") is None


async def test_a_terminal_state_stays(store: Store) -> None:
    """Neither late news nor a second end changes it."""
    await store.add(job(1))
    await store.finish(ended(job(1)))
    store.update(job(1).with_(status=JobStatus.RUNNING))
    await store.finish(ended(job(1), JobStatus.FAILED))
    found = await store.get("j1")
    assert found is not None and found.status is JobStatus.COMPLETED
    assert await store.unfinished() == []


async def test_an_end_without_a_beginning_is_kept(store: Store) -> None:
    """A job that was never added is there once it is finished."""
    await store.finish(ended(job(4)))
    found = await store.get("j4")
    assert found is not None and found.status is JobStatus.COMPLETED
    assert await store.last_sequence() in (0, 4)


async def test_an_error_comes_back_as_its_class(store: Store) -> None:
    """With what a caller sees of it, and whether the prompt had started."""
    error = EngineDied("ComfyUI ended.", started=True, details={"log_tail": ["bye"]}, retry_after_s=3)
    await store.add(job(1))
    await store.finish(ended(job(1), JobStatus.FAILED, error=error))
    found = await store.get("j1")
    assert found is not None and isinstance(found.error, EngineDied) and found.error.started
    assert (found.error.message, found.error.details, found.error.retry_after_s) == (
        "ComfyUI ended.",
        {"log_tail": ["bye"]},
        3,
    )


@pytest.mark.parametrize(
    "value", ["text", 2**70 + 1, float("1e300"), "\ud800", [{"a": None}], "much " * 20_000, {"deep": [[[[1]]]]}]
)
async def test_a_response_comes_back_as_it_was(store: Store, value: Any) -> None:
    """Also what only Python's own JSON encoder takes, and what is large."""
    await store.add(job(1))
    await store.finish(ended(job(1), response={"p": {"outputs": value}}))
    for found in (await store.get("j1"), await store.latest("r1")):
        assert found is not None and found.response == {"p": {"outputs": value}}


async def test_a_response_is_not_kept_as_objects(store: Store) -> None:
    """A graph as objects takes ten times its JSON, for hours."""
    mark = "a key of this test"
    await store.add(job(1))
    await store.finish(ended(job(1), response={"p": {mark: [[]]}}))
    gc.collect()
    assert await store.get("j1") is not None
    assert await store.get("another") is None  # so that no thread is busy with the first one any more
    assert not [found for found in gc.get_objects() if type(found) is dict and mark in found]


@pytest.mark.parametrize("size", [10, 100_000])
async def test_what_is_not_over_is_complete_and_in_order(store: Store, size: int) -> None:
    """A restarted worker gets workflow, secrets and progress of each such job, in the order of acceptance."""
    graph = b'{"1": "' + b"x" * size + b'"}'
    jobs = [job(number, workflow=graph, delivery=TO_S3) for number in (3, 5, 9, 12)]
    for accepted in jobs:
        await store.add(accepted)
    await store.finish(ended(jobs[1]))
    news = jobs[2].with_(status=JobStatus.RUNNING, posts=2, spec=replace(jobs[2].spec, workflow=b""))
    store.update(news)  # a worker that has posted the graph lets go of it
    left = await store.unfinished()
    assert [found.sequence for found in left] == [3, 9, 12]
    assert all(found.spec.workflow == graph and found.spec.delivery == TO_S3 for found in left)


async def test_runs_of_a_request_id_count(store: Store) -> None:
    """Per owner; the newest run is the one that its name finds."""
    assert await store.run_number("r") == 1
    assert await store.latest("r") is None
    await store.add(job(1, request_id="r"))
    assert await store.run_number("r") == 2
    await store.finish(ended(job(1, request_id="r")))
    second = job(2, request_id="r").with_(run=2)
    await store.add(second)
    other = job(3, request_id="r", owner="somebody")
    await store.add(other)
    assert await store.run_number("r") == 3
    assert await store.latest("r") == second
    assert await store.run_number("r", owner="somebody") == 2
    assert await store.latest("r", owner="somebody") == other
    assert await store.latest("r", owner="nobody") is None


async def test_owner_and_name_are_not_run_together(store: Store) -> None:
    """``a`` + ``bc`` is not ``ab`` + ``c``."""
    await store.add(job(1, owner="a", request_id="bc"))
    assert await store.latest("c", owner="ab") is None
    assert await store.latest("\ud800") is None


async def test_a_run_is_remembered_longer_than_its_result(store: Store, clock: FakeClock) -> None:
    """While a presigned URL of an earlier run may live, the next run has another number, and so another key."""
    await store.add(job(1, request_id="r", delivery=TO_S3).with_(run=4))
    await store.finish(ended(job(1, request_id="r", delivery=TO_S3).with_(run=4)))
    await clock.advance(61)
    await store.expire()
    assert await store.get("j1") is None
    assert await store.run_number("r") == 5
    await clock.advance(7 * 86400)
    await store.expire()
    assert await store.run_number("r") == 5
    await clock.advance(RUN_MEMORY_S)
    await store.expire()
    assert await store.run_number("r") == 1


async def test_a_job_is_found_by_its_idempotency_key(store: Store, clock: FakeClock) -> None:
    """Scope and key together, while it runs and as long as keys are remembered, whatever the life of results."""
    assert await store.keyed(KEY) is None
    await store.add(job(1, idempotency=KEY))
    assert await store.keyed(KEY) == job(1, idempotency=KEY)
    assert await store.keyed(Idempotency(scope="tenant/other", key=KEY.key)) is None
    await store.finish(ended(job(1, idempotency=KEY)))
    await clock.advance(599)
    await store.expire()
    found = await store.keyed(KEY)
    assert found is not None and found.status is JobStatus.COMPLETED
    await clock.advance(2)
    assert await store.keyed(KEY) is None
    await store.expire()
    assert await store.get("j1") is None


async def test_a_key_ends_before_a_result_that_lives_longer(make: Callable[..., Any], clock: FakeClock) -> None:
    """Then the key is free for new work, and the result still there."""
    store: Store = await make(ttl_s=1000.0)
    await store.add(job(1, idempotency=KEY))
    await store.finish(ended(job(1, idempotency=KEY)))
    await clock.advance(601)
    await store.expire()
    assert await store.keyed(KEY) is None
    assert await store.get("j1") is not None


async def test_jobs_are_listed_by_filter_and_page(make: Callable[..., Any]) -> None:
    """Newest first, without workflow and response; each filter narrows; ``before`` turns the page."""
    store: Store = await make(max_results=100)
    for number in range(1, 11):
        accepted = job(
            number,
            request_id="twice" if number in (2, 7) else f"r{number}",
            owner="a" if number % 2 else "b",
            dialect="vast" if number < 4 else "test",
        )
        await store.add(accepted)
        if number > 5:
            await store.finish(
                ended(accepted, JobStatus.FAILED if number == 9 else JobStatus.COMPLETED, response={"p": 1})
            )

    async def numbers(**asked: Any) -> list[int]:
        found = await store.listed(JobFilter(**asked))
        assert all(not each.spec.workflow and not each.response for each in found)
        return [each.sequence for each in found]

    assert await numbers() == list(range(10, 0, -1))
    assert await numbers(limit=3) == [10, 9, 8]
    assert await numbers(limit=3, before=8) == [7, 6, 5]
    assert await numbers(owner="a") == [9, 7, 5, 3, 1]
    assert await numbers(owner="c") == []
    assert await numbers(dialect="vast", owner="b") == [2]
    assert await numbers(request_id="twice") == [7, 2]
    assert await numbers(statuses=frozenset({JobStatus.FAILED, JobStatus.QUEUED})) == [9, 5, 4, 3, 2, 1]
    assert await numbers(statuses=frozenset({JobStatus.RUNNING})) == []


async def test_the_highest_sequence_is_never_forgotten(store: Store, clock: FakeClock) -> None:
    """Also when its job is long gone: numbers are not given twice."""
    assert await store.last_sequence() == 0
    await store.add(job(7))
    await store.finish(ended(job(7)))
    await clock.advance(100)
    await store.expire()
    assert await store.get("j7") is None
    assert await store.last_sequence() == 7


# -- bounds ----------------------------------------------------------------------------------------------------------


async def present(store: Store, numbers: range) -> list[int]:
    await store.expire()
    return [number for number in numbers if await store.get(f"j{number}") is not None]


async def test_results_are_bounded_in_count(store: Store) -> None:
    """What ended first goes first, whatever was accepted first; what is not over stays."""
    for number in range(1, 7):
        await store.add(job(number))
    for number in (6, 2, 1, 4, 3):
        await store.finish(ended(job(number)))
    assert await present(store, range(1, 7)) == [1, 3, 4, 5]
    assert [left.sequence for left in await store.unfinished()] == [5]


async def test_results_are_bounded_in_time(store: Store, clock: FakeClock) -> None:
    """From their end on; past it they are not shown, whether or not somebody came by to expire them."""
    await store.add(job(1, request_id="r"))
    await store.add(job(2))
    await clock.advance(1000)
    await store.finish(ended(job(1, request_id="r")))
    await clock.advance(59)
    assert await store.get("j1") is not None
    await clock.advance(2)
    assert await store.get("j1") is None
    assert await store.latest("r") is None
    assert [left.sequence for left in await store.listed(JobFilter())] == [2]
    assert await present(store, range(1, 3)) == [2]


async def test_results_are_bounded_in_bytes(make: Callable[..., Any]) -> None:
    """A few large ones push out what ended earlier, also under an idempotency key when only such are left."""
    store: Store = await make(max_results=1000, results_max_bytes=1 << 20)
    noise = base64.b85encode(random.Random(1).randbytes(160_000)).decode()
    for number in range(1, 9):
        accepted = job(number, idempotency=Idempotency(scope="s", key=str(number)) if number < 3 else None)
        await store.add(accepted)
        await store.finish(ended(accepted, response={"p": noise}))
    kept = await present(store, range(1, 9))
    assert 3 <= len(kept) < 8 and kept == [1, 2, *range(11 - len(kept), 9)]
    for number in range(9, 30):
        accepted = job(number, idempotency=Idempotency(scope="s", key=str(number)))
        await store.add(accepted)
        await store.finish(ended(accepted, response={"p": noise}))
    kept = await present(store, range(1, 30))
    assert 2 <= len(kept) < 15 and kept == list(range(30 - len(kept), 30))


async def test_a_keyed_result_outlives_the_count(store: Store) -> None:
    """Whoever was promised a replay gets it; even so there is a bound."""
    keys = [Idempotency(scope="s", key=str(number)) for number in range(40)]
    for number, key in enumerate(keys):
        await store.add(job(number + 1, idempotency=key))
        await store.finish(ended(job(number + 1, idempotency=key)))
    for number in range(50, 60):
        await store.add(job(number))
        await store.finish(ended(job(number)))
    most = int(BOUNDS["max_results"]) * KEYED_FACTOR
    assert await present(store, range(1, 60)) == [*range(41 - most, 41), 57, 58, 59]


# -- jobs that live for a limited time --------------------------------------------------------------------------------


def brief(number: int, ttl_s: float, **changes: Any) -> Job:
    """A job that is forgotten so many seconds after the fake clock's start."""
    return job(number, ttl_s=ttl_s, **changes).with_(expires_at=START + timedelta(seconds=ttl_s))


async def found_as(store: Store, accepted: Job) -> list[bool]:
    """Whether it is found by each of its names, and in the list."""
    spec = accepted.spec
    return [
        await store.get(accepted.job_id) is not None,
        await store.latest(spec.request_id) is not None,
        spec.idempotency is None or await store.keyed(spec.idempotency) is not None,
        accepted.sequence in [each.sequence for each in await store.listed(JobFilter())],
    ]


@pytest.mark.parametrize("over", [False, True])
async def test_a_job_is_forgotten_when_its_time_is_over(store: Store, clock: FakeClock, over: bool) -> None:
    """By every name, whether it is over or not; one that is not is there to be ended. Others stay."""
    accepted = brief(1, 10, idempotency=KEY)
    await store.add(job(2))
    await store.add(accepted)
    if over:
        await store.finish(ended(accepted))
    await clock.advance(9)
    await store.expire()
    assert await found_as(store, accepted) == [True] * 4
    await clock.advance(1)
    for _ in range(2):
        assert await found_as(store, accepted) == [False] * 4
        assert await found_as(store, job(2)) == [True] * 4
        assert [left.sequence for left in await store.unfinished()] == [2] if over else [1, 2]
        await store.expire()
    if not over:
        await store.finish(ended(accepted, JobStatus.CANCELLED))
        assert await found_as(store, accepted) == [False] * 4
        await store.expire()
        assert [left.sequence for left in await store.unfinished()] == [2]


async def test_an_earlier_run_is_found_behind_a_forgotten_one(store: Store, clock: FakeClock) -> None:
    """The newest that is there counts; numbers of runs are not given again while a row tells of them."""
    await store.add(job(1, request_id="r"))
    await store.finish(ended(job(1, request_id="r")))
    await store.add(brief(2, 10, request_id="r").with_(run=2))
    await clock.advance(11)
    found = await store.latest("r")
    assert found is not None and found.job_id == "j1"
    assert await store.run_number("r") == 3


async def test_forgotten_results_push_out_nobody(make: Callable[..., Any], clock: FakeClock) -> None:
    """They do not count among those that are kept."""
    store: Store = await make(max_results=3)
    for number in range(1, 4):
        await store.add(brief(number, 10))
        await store.finish(ended(brief(number, 10)))
    await clock.advance(11)
    await store.expire()
    for number in range(4, 7):
        await store.add(job(number))
        await store.finish(ended(job(number)))
    assert await present(store, range(1, 7)) == [4, 5, 6]


async def test_a_life_is_shortened_never_prolonged(store: Store, clock: FakeClock) -> None:
    """From now on, at the latest; what is not there, or no longer, is not."""
    await store.add(job(1))
    await store.finish(ended(job(1), response={"a": 1}))
    await store.add(brief(2, 10))
    assert await store.shorten("nobody", 5) is None
    shortened = await store.shorten("j1", 20)
    assert shortened is not None and shortened.response == {"a": 1}
    assert shortened.expires_at == START + timedelta(seconds=20)
    assert await store.get("j1") == shortened
    for job_id, ttl_s in (("j1", 30.0), ("j2", 30.0)):
        unchanged = await store.shorten(job_id, ttl_s)
        assert unchanged is not None and unchanged == await store.get(job_id)
    await clock.advance(11)
    assert [await store.get(name) is None for name in ("j1", "j2")] == [False, True]
    assert await store.shorten("j2", 5) is None
    assert await store.shorten("j1", 0) is not None
    assert await store.get("j1") is None


async def test_news_do_not_prolong_a_life_that_was_shortened(store: Store, clock: FakeClock) -> None:
    """Nor does the job's end."""
    await store.add(job(1))
    await store.shorten("j1", 10)
    store.update(job(1).with_(status=JobStatus.RUNNING))
    await store.finish(ended(job(1)))
    assert await store.get("j1") is not None
    await clock.advance(10)
    assert await store.get("j1") is None


# -- requests that are kept --------------------------------------------------------------------------------------------

PICTURES = (NamedInput(name="a.png", value="data:image/png;base64,AAAA"), NamedInput(name="b", value="https://x/b"))
HOOKED = replace(TO_S3, webhooks=(WebhookTarget(url="https://hooks.example/", secret="whsec"),))


def repeatable(number: int, **changes: Any) -> Job:
    credential = Credential(kind="s3", pattern="s3://*", values={"secret_access_key": "hidden"})
    return job(number, repeatable=True, credentials=(credential,), delivery=HOOKED, **changes)


@pytest.mark.parametrize("size", [10, 100_000])
async def test_files_of_what_is_not_over_are_complete(store: Store, size: int) -> None:
    """Also when the worker, which has them on disk, let go of them."""
    files = (NamedInput(name="a.png", value="A" * size), *PICTURES)
    accepted = job(1, files=files)
    await store.add(accepted)
    store.update(accepted.with_(status=JobStatus.RUNNING, spec=lightened(accepted.spec)))
    await store.write(accepted.with_(status=JobStatus.RUNNING, posts=1, spec=lightened(accepted.spec)))
    (left,) = await store.unfinished()
    assert (left.spec, left.posts) == (accepted.spec, 1)
    await store.finish(ended(left))
    found = await store.get("j1")
    assert found is not None and (found.spec.workflow, found.spec.files) == (b"", ())


@pytest.mark.parametrize("size", [10, 100_000])
@pytest.mark.parametrize("added", [True, False])
async def test_a_repeatable_job_that_failed_keeps_its_request(store: Store, size: int, added: bool) -> None:
    """All of it, secrets too, by whatever name it is found; the list shows none of it. Whether it was accepted first or
    was over when it came."""
    accepted = repeatable(1, request_id="r", workflow=b'{"1": "%s"}' % (b"x" * size), files=PICTURES)
    last = ended(accepted, JobStatus.FAILED, error=JobTimeout("Too long."))
    if added:
        await store.add(accepted)
        last = last.with_(spec=lightened(accepted.spec))
    await store.finish(last)
    for found in (await store.get("j1"), await store.latest("r"), await store.shorten("j1", 30)):
        assert found is not None and found.spec == accepted.spec
    (shown,) = await store.listed(JobFilter())
    assert (shown.spec.workflow, shown.spec.files) == (b"", ())
    assert await store.run_number("r") == 2
    assert await store.last_sequence() == 1


@pytest.mark.parametrize("status", [JobStatus.COMPLETED, JobStatus.CANCELLED])
async def test_others_keep_no_request(store: Store, status: JobStatus) -> None:
    """Nobody repeats what was done, or was not wanted."""
    await store.add(repeatable(1, files=PICTURES, workflow=b"w" * 50_000))
    await store.finish(ended(repeatable(1, files=PICTURES), status))
    found = await store.get("j1")
    assert found is not None and (found.spec.workflow, found.spec.files) == (b"", ())


async def test_requests_that_are_kept_count_in_bytes(make: Callable[..., Any]) -> None:
    """A few large ones push out what ended earlier; each goes with its result."""
    store: Store = await make(max_results=1000, results_max_bytes=1 << 20)
    for number in range(1, 9):
        large = repeatable(number, workflow=b"w" * 100_000, files=(NamedInput(name="a", value="A" * 100_000),))
        if number % 2:
            await store.add(large)
        await store.finish(ended(large, JobStatus.FAILED))
    kept = await present(store, range(1, 9))
    assert 3 <= len(kept) <= 6 and kept == list(range(9 - len(kept), 9))


async def test_large_requests_that_failed_push_out_no_results(make: Callable[..., Any]) -> None:
    """They go among themselves, the first finished first; smaller results stay, however old, and small failures too."""
    store: Store = await make(max_results=1000, results_max_bytes=1 << 20)
    await store.add(job(1))
    await store.finish(ended(job(1)))
    await store.add(repeatable(2))
    await store.finish(ended(repeatable(2), JobStatus.FAILED))
    for number in range(3, 9):
        large = repeatable(number, workflow=b"w" * 300_000)
        await store.add(large)
        await store.finish(ended(large, JobStatus.FAILED))
    assert await present(store, range(1, 9)) == [1, 2, 6, 7, 8]


async def test_an_end_without_a_beginning_is_found_by_its_names(store: Store) -> None:
    """A job that was over when it came: by request id and idempotency key, with its message."""
    refused = job(4, request_id="r", idempotency=KEY)
    await store.finish(ended(refused, JobStatus.FAILED), (message("m"),))
    assert await found_as(store, refused) == [True] * 4
    assert await store.run_number("r") == 2
    assert await due(store, 1) == ["m"]


# -- outbox ----------------------------------------------------------------------------------------------------------


async def due(store: Store, seconds: float, limit: int = 100, **busy: Any) -> list[str]:
    found = await store.due(START + timedelta(seconds=seconds), limit=limit, busy=Busy(**busy))
    return [item.message_id for item in found]


async def recorded(store: Store, *items: Any) -> None:
    """Messages get in with a job's end."""
    number = await store.last_sequence() + 1
    await store.add(job(number))
    await store.finish(ended(job(number)), tuple(items))


async def test_messages_come_when_they_are_due(store: Store) -> None:
    """The longest overdue first, and no more than asked for; each as it was put in."""
    await recorded(store, message("c", due_s=30), message("a", due_s=10), message("b", due_s=20))
    assert await due(store, 9) == []
    assert await due(store, 25) == ["a", "b"]
    assert await due(store, 100, limit=2) == ["a", "b"]
    assert await store.next_due() == START + timedelta(seconds=10)
    assert await store.due(START + timedelta(seconds=10), limit=1) == [message("a", due_s=10)]


async def test_large_messages_come_a_few_at_a_time(store: Store) -> None:
    """No more bytes than a sender can hold; one at least, however large it is."""
    await recorded(store, *(message(f"m{number}", due_s=number, size=DUE_BYTES // 2 - 100) for number in range(3)))
    assert await due(store, 10) == ["m0", "m1"]
    await store.delivered("m0")
    await store.delivered("m1")
    await recorded(store, message("large", size=DUE_BYTES + 1))
    assert await due(store, 10) == ["large"]


async def test_what_is_in_hand_is_not_due(store: Store) -> None:
    """Neither messages on their way, nor those of a host that gets enough at once; others are not hidden by them."""
    await recorded(store, message("a"), message("b", due_s=1, host="dead.example"), message("c", due_s=2))
    assert await due(store, 10, message_ids=frozenset({"a"})) == ["b", "c"]
    assert await due(store, 10, hosts=frozenset({"dead.example"})) == ["a", "c"]
    assert await due(store, 10, message_ids=frozenset({"a", "c"}), hosts=frozenset({"dead.example"})) == []
    busy = Busy(message_ids=frozenset({"a"}), hosts=frozenset({"dead.example"}))
    assert await store.next_due(busy=busy) == START + timedelta(seconds=2)
    assert await store.next_due(busy=Busy(hosts=frozenset({"dead.example", "hooks.example"}))) is None


async def test_a_delivered_message_is_gone(store: Store) -> None:
    """At once, with nothing left to count; a second time is no error."""
    await recorded(store, message("a"))
    await store.delivered("a")
    await store.delivered("a")
    assert await due(store, 10) == []
    assert await store.next_due() is None
    assert (await store.state()).pending_count == 0


async def test_a_failed_attempt_is_counted_and_postponed(store: Store) -> None:
    """The reason is kept with it."""
    await recorded(store, message("a"))
    later = START + timedelta(seconds=50)
    await store.postpone("a", next_at=later, error="500")
    await store.postpone("a", next_at=later, error="timed out \ud800")
    assert await due(store, 49) == []
    (item,) = await store.due(later, limit=1)
    assert (item.attempts, item.next_at, item.dead) == (2, later, False)
    assert item.last_error is not None and item.last_error.startswith("timed out")
    assert (item.body, item.target) == (message("a").body, message("a").target)


async def test_a_dead_message_is_shown_and_can_be_revived(store: Store, clock: FakeClock) -> None:
    """To its owner and to the operator only; revived it starts its schedule anew."""
    await recorded(store, message("a", owner="x"), message("b", owner="y"), message("c", owner="x"))
    for name in ("a", "b", "c"):
        await store.bury(name, error="410")
        await clock.advance(1)
    assert await due(store, 100) == []
    assert await store.next_due() is None
    assert [item.message_id for item in await store.dead(owner=None, limit=10)] == ["c", "b", "a"]
    assert [item.message_id for item in await store.dead(owner="x", limit=10)] == ["c", "a"]
    assert [item.message_id for item in await store.dead(owner="x", limit=1)] == ["c"]
    (shown,) = await store.dead(owner="y", limit=10)
    assert (shown.attempts, shown.last_error, shown.dead) == (1, "410", True)
    now = START + timedelta(seconds=20)
    assert not await store.revive("a", owner="y", now=now)
    assert not await store.revive("nothing", owner=None, now=now)
    assert await store.revive("a", owner="x", now=now)
    assert await store.revive("b", owner=None, now=now)
    assert not await store.revive("a", owner="x", now=now)
    assert sorted(await due(store, 20)) == ["a", "b"]
    (item,) = await store.due(now, limit=1)
    assert (item.attempts, item.dead, item.next_at) == (0, False, now)


async def test_dead_messages_are_kept_for_a_time(store: Store, clock: FakeClock) -> None:
    """From when they were given up; those that may still be sent stay."""
    await recorded(store, message("a"), message("b", due_s=100_000))
    await clock.advance(100)
    await store.bury("a", error="gone")
    await clock.advance(299)
    await store.expire()
    assert [item.message_id for item in await store.dead(owner=None, limit=10)] == ["a"]
    await clock.advance(2)
    await store.expire()
    assert await store.dead(owner=None, limit=10) == []
    assert await due(store, 100_000) == ["b"]


async def test_the_outbox_is_bounded(make: Callable[..., Any]) -> None:
    """In the count of dead messages, and in bytes: dead ones go first, then the oldest."""
    store: Store = await make(results_max_bytes=1 << 20)
    await recorded(store, *(message(f"d{number}") for number in range(5)))
    for number in range(5):
        await store.bury(f"d{number}", error="")
    await store.expire()
    assert {item.message_id for item in await store.dead(owner=None, limit=10)} == {"d2", "d3", "d4"}
    await recorded(store, *(message(f"m{number}", due_s=number, size=300_000) for number in range(5)))
    await store.expire()
    assert await due(store, 100) == ["m2", "m3", "m4"]


async def test_the_state_of_the_outbox(store: Store) -> None:
    """How much waits, since when, and how much was given up."""
    assert (await store.state()).oldest_at is None
    old = replace(message("b"), created_at=START - timedelta(seconds=5))
    await recorded(store, message("a"), old, message("c"))
    await store.bury("c", error="")
    state = await store.state()
    assert (state.pending_count, state.oldest_at, state.dead_count) == (2, START - timedelta(seconds=5), 1)


async def test_messages_of_an_update_are_not_lost(store: Store) -> None:
    """Also when the job's end overtakes the update."""
    await store.add(job(1))
    store.update(job(1).with_(status=JobStatus.RUNNING), (message("started"),))
    store.update(job(1).with_(status=JobStatus.RUNNING, posts=1))
    await store.finish(ended(job(1)), (message("completed", due_s=1),))
    assert await due(store, 10) == ["started", "completed"]


async def test_many_at_once(make: Callable[..., Any]) -> None:
    """Concurrent callers get what they asked for, and nothing is mixed up."""
    store: Store = await make(max_results=1000)

    async def one(number: int) -> None:
        accepted = job(number, on_disconnect=OnDisconnect.KEEP)
        await store.add(accepted)
        store.update(accepted.with_(status=JobStatus.RUNNING))
        await store.finish(ended(accepted, response={"number": number}))

    await asyncio.gather(*(one(number) for number in range(1, 201)))
    for number in range(1, 201):
        found = await store.get(f"j{number}")
        assert found is not None and found.response == {"number": number} and found.sequence == number
