"""Log lines: facts, ids, no secrets."""

import asyncio
import io
import json
import logging
import time
from collections.abc import Callable, Iterator
from typing import Any, Literal

import pytest
from aiohttp.http_exceptions import BadStatusLine
from aiohttp.web import RequestPayloadError

from lib.telemetry.logs import add_job_facts, configure_logging, job_context, redact, set_request_id

Lines = Callable[[Literal["text", "json"]], io.StringIO]


@pytest.fixture
def lines() -> Iterator[Lines]:
    """Configure logging to a buffer; the root logger is as before afterwards."""
    root = logging.getLogger()
    before = root.handlers[:], root.level

    def start(log_format: Literal["text", "json"]) -> io.StringIO:
        stream = io.StringIO()
        configure_logging(level="debug", log_format=log_format, stream=stream)
        return stream

    yield start
    root.handlers[:], root.level = before


log = logging.getLogger("lib.test")


def test_text_has_event_message_and_facts(lines: Lines) -> None:
    """One line for people, values with blanks quoted."""
    stream = lines("text")
    log.info("admitted", extra={"event": "job.admitted", "cost": 100, "why": "first one"})
    line = stream.getvalue()
    assert "INFO lib.test job.admitted admitted cost=100 why='first one'" in line
    assert line.count("\n") == 1


def test_json_has_the_same(lines: Lines) -> None:
    """One object for machines."""
    stream = lines("json")
    log.info("admitted", extra={"event": "job.admitted", "cost": 100})
    record: dict[str, Any] = json.loads(stream.getvalue())
    assert record["level"] == "INFO"
    assert record["logger"] == "lib.test"
    assert (record["event"], record["message"], record["cost"]) == ("job.admitted", "admitted", 100)
    assert record["timestamp"]


def test_ids_of_the_work_in_hand_are_added(lines: Lines) -> None:
    """The job's id inside its context only; an id given by hand wins."""
    stream = lines("json")
    set_request_id("r-1")
    with job_context("j-1"):
        log.info("a")
        log.info("b", extra={"job_id": "j-2"})
    log.info("c")
    records = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [record.get("job_id") for record in records] == ["j-1", "j-2", None]
    assert records[0]["http_request_id"] == "r-1"


async def test_a_job_is_known_by_more_than_its_id(lines: Lines) -> None:
    """Request id, dialect, owner, and the engine once there is one, in the job's task and those it starts only.
    What is not known is not there."""
    stream = lines("json")

    async def part() -> None:
        log.info("inside")

    async def work() -> None:
        with job_context("j-1", request_id="r-1", dialect="wrapper", owner=""):
            log.info("queued")
            add_job_facts(engine="gpu-0")
            log.info("running")
            async with asyncio.TaskGroup() as group:
                group.create_task(part())

    async with asyncio.TaskGroup() as group:
        group.create_task(work())
    log.info("outside")
    records = [json.loads(line) for line in stream.getvalue().splitlines()]
    names = ("job_id", "request_id", "dialect", "engine", "owner")
    assert [tuple(record.get(name) for name in names) for record in records] == [
        ("j-1", "r-1", "wrapper", None, None),
        ("j-1", "r-1", "wrapper", "gpu-0", None),
        ("j-1", "r-1", "wrapper", "gpu-0", None),
        (None,) * 5,
    ]


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_secrets_stay_out(lines: Lines, log_format: Literal["text", "json"]) -> None:
    """In fields by their name, in URLs, in nested values and in tracebacks."""
    stream = lines(log_format)
    url = "https://user:hunter2@bucket.example/key.png?X-Amz-Signature=deadbeef&x=1"
    try:
        raise ValueError(f"cannot fetch {url}")
    except ValueError:
        log.exception("failed for %s", url, extra={"secret_access_key": "topsecret", "block": {"api_key": "topsecret"}})
    text = stream.getvalue()
    for hidden in ("hunter2", "deadbeef", "topsecret"):
        assert hidden not in text
    assert "bucket.example/key.png" in text
    assert "ValueError" in text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("GET https://h/a?sig=1 done", "GET https://h/a?*** done"),
        ("Authorization: Bearer abcdefghijkl", "Authorization: *** ***"),
        ("{'secret_access_key': 'x y', 'a': 1}", "{'secret_access_key': ***, 'a': 1}"),
        ('{"token":"abc","b":2}', '{"token":***,"b":2}'),
        ("password=abc&x=1", "password=***&x=1"),
        ("signed with whsec_MfKQ9r8GKYqr/aSw+A== here", "signed with whsec_*** here"),
        ("nothing to hide: 3", "nothing to hide: 3"),
        ("redis://:pw@h:6379/0", "redis://***@h:6379/0"),
    ],
)
def test_redaction_hides_values_and_keeps_the_rest(text: str, expected: str) -> None:
    """What names the place stays readable."""
    assert redact(text) == expected


@pytest.mark.parametrize("text", ["a-", "a.", "x://", "a" * 70, "token", "token =", "bearer ", "x://a:", "secret-"])
def test_redaction_takes_no_longer_than_the_text_is_long(text: str) -> None:
    """Callers' names and URLs are logged on the event loop, and some callers are malicious."""
    begun = time.process_time()
    redact(text * (100_000 // len(text)))
    assert time.process_time() - begun < 4.0


def test_a_fact_fills_no_log(lines: Lines) -> None:
    """What a caller sent may be megabytes long."""
    stream = lines("text")
    log.info("failed", extra={"event": "job.failed", "reason": "x" * 1_000_000, "host": ["y" * 1_000_000]})
    assert len(stream.getvalue()) < 20_000


def test_what_is_no_http_is_no_news(lines: Lines) -> None:
    """Anybody on the net can send it, as often as he likes; what is wrong with us is still told."""
    stream = lines("text")
    for error in (BadStatusLine("rubbish"), RequestPayloadError("rubbish, packed"), ValueError("ours")):
        logging.getLogger("aiohttp.server").error("Error handling request", exc_info=error)
    assert "rubbish" not in stream.getvalue() and "ours" in stream.getvalue()


def test_an_unknown_level_is_refused() -> None:
    """A typo in LOG_LEVEL does not silence the service."""
    with pytest.raises(ValueError, match="LOUD"):
        configure_logging(level="loud", stream=io.StringIO())
