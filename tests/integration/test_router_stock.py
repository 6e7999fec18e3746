"""Vast's own programs, unmodified, with our router: the SDK calls the stock PyWorker, the CLI manages both."""

import asyncio
import json
import subprocess
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.integration.router_process import ACCOUNT_KEY, RouterProcess, router_process
from tests.integration.stock_process import NUMBER, StockWorker, stock_worker
from tests.integration.terse_worker import terse_worker
from tests.peers.vast.sdk import drive, sdk_python

pytestmark = pytest.mark.timeout(900)
"""Vast's programs take seconds for their imports alone, a minute on a busy machine."""
LONG_S = 26.0
"""Longer than the router holds a request, the SDK's pauses and the router's patience with a silent worker (25 s)."""
HELD_S = 10.0
"""So long a worker whose answer was lost is not given the same request again."""
PAYLOAD = {"input": {"prompt": "x"}}
Results = list[dict[str, Any]]


@pytest.fixture(scope="module")
def python() -> Path:
    return sdk_python()


@pytest.fixture(scope="module")
def router(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RouterProcess]:
    folder = tmp_path_factory.mktemp("router")
    with router_process(folder, "ep", "long", ROUTER_ROUTE_WAIT_S="3") as process:
        yield process


@pytest.fixture(scope="module")
def workers(
    python: Path, router: RouterProcess, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, StockWorker]]:
    """One at each endpoint; they start together."""
    with ExitStack() as stack, ThreadPoolExecutor(2) as pool:

        def begin(endpoint: str) -> StockWorker:
            folder = tmp_path_factory.mktemp(endpoint)
            return stack.enter_context(stock_worker(python, router, folder, endpoint=endpoint))

        found = dict(zip(("ep", "long"), pool.map(begin, ("ep", "long")), strict=True))
        yield found


@pytest.fixture(scope="module")
def stock(workers: dict[str, StockWorker], long_job: "Future[Results]") -> StockWorker:
    return workers["ep"]


@pytest.fixture(scope="module")
def long_job(python: Path, router: RouterProcess, workers: dict[str, StockWorker]) -> Iterator["Future[Results]"]:
    """A job of many seconds, which goes on during all the other tests."""
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(sdk, python, router, "request", endpoint="long", payload={"seconds": LONG_S})


def sdk(python: Path, router: RouterProcess, scenario: str, **options: Any) -> Results:
    return asyncio.run(drive(python, scenario, router=router.url, **{"payload": PAYLOAD} | options))


def cli(python: Path, router: RouterProcess, folder: Path, *words: str) -> str:
    """Run Vast's CLI. It is told of the router by ``--url``: with ``VAST_URL`` it asks Vast's own for logs.

    Each has a home of its own: two that make the same folders at once get in each other's way.
    """
    home = tempfile.mkdtemp(dir=folder)
    command = [str(python.parent / "vastai"), *words, "--url", router.url, "--api-key", ACCOUNT_KEY]
    done = subprocess.run(
        command, env={"PATH": "/usr/bin:/bin", "HOME": home}, capture_output=True, text=True, timeout=150
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("client", ["futures", "coroutines"])
def test_stock_workers_serve_the_sdk(router: RouterProcess, stock: StockWorker, python: Path, client: str) -> None:
    """Public key, reports, benchmark, signed requests, ended requests; many at once, of which it refuses none."""
    before = router.given("ep", NUMBER)
    results = sdk(python, router, "request", count=8, client=client)
    assert [(result["ok"], result["response"], result["url"]) for result in results] == [(True, PAYLOAD, stock.url)] * 8
    assert router.given("ep", NUMBER) == before + 8
    listed = router.workers("ep")[NUMBER]
    assert listed["measured_perf"] > 0 and listed["reliability"] == 1.0


def test_a_stream_is_read_to_its_end(router: RouterProcess, stock: StockWorker, python: Path) -> None:
    """As the model sends it."""
    *events, ended = sdk(python, router, "stream", route="/generate/stream", payload={"events": 5, "seconds": 3.0})
    assert [one["event"] for one in events] == [{"number": number} for number in range(5)]
    assert events[-1]["at"] - events[0]["at"] > 0.5
    assert (ended["ok"], ended["url"]) == (True, stock.url)


def test_a_session_from_open_to_close(router: RouterProcess, stock: StockWorker, python: Path) -> None:
    """One route for all of its requests."""
    before = router.given("ep", NUMBER)
    opened, *results, is_open, closed = sdk(python, router, "session", count=3)
    assert opened["session_id"] and is_open["value"] is True and "closed session" in closed["error"]
    assert [(result["status"], result["url"]) for result in results] == [(200, stock.url)] * 3
    assert router.given("ep", NUMBER) == before + 1


def test_a_session_ends_by_itself(router: RouterProcess, stock: StockWorker, python: Path) -> None:
    """Vast's worker looks for such ones every 5 s."""
    opened, over, closed = sdk(python, router, "expiry", lifetime=1.0)
    assert 0.9 < over["at"] - opened["at"] < 60
    assert "session" in over["error"] and "closed session" in closed["error"]


def test_more_sessions_than_it_takes(router: RouterProcess, stock: StockWorker, python: Path) -> None:
    """It refuses the third one at a time with 429; everybody gets one in the end."""
    results = sdk(python, router, "sessions", count=5, lifetime=20, payload={"seconds": 0.3})
    assert [(result["ok"], result["status"]) for result in results] == [(True, 200)] * 5


@pytest.mark.parametrize("status", [422, 500])
def test_what_the_model_refuses_is_told(router: RouterProcess, stock: StockWorker, python: Path, status: int) -> None:
    """A wrong request is not repeated; what may be (500) is not where the caller says so."""
    before = router.given("ep", NUMBER)
    (result,) = sdk(python, router, "request", payload={"status": status}, retry=status == 422)
    assert (result["ok"], result["status"]) == (False, status)
    assert router.given("ep", NUMBER) == before + 1


def test_a_malformed_answer_is_not_asked_for_again(router: RouterProcess, stock: StockWorker, python: Path) -> None:
    """The only worker says that all went well, and the SDK comes back without a pause: it is held."""
    before, begun = router.given("ep", NUMBER), time.monotonic()
    (raised,) = sdk(python, router, "request", payload={"garbage": True}, timeout=5, raises=True)
    assert raised["type"] == "TimeoutError"
    again = (time.monotonic() - begun) // HELD_S
    assert 1 <= router.given("ep", NUMBER) - before <= 1 + again


def test_the_cli_shows_and_makes_endpoints(
    router: RouterProcess, stock: StockWorker, python: Path, tmp_path: Path
) -> None:
    """Lists, workers, logs, updates, an endpoint's life."""

    def run(*words: str) -> str:
        return cli(python, router, tmp_path, *words)

    def both(*commands: tuple[str, ...]) -> list[str]:
        with ThreadPoolExecutor(2) as pool:
            return list(pool.map(lambda words: run(*words), commands))

    number, group = "1", "1001"
    groups, raw, line, changes, decisions, of_group, update = both(
        ("show", "workergroups", "--raw"),
        ("get", "endpt-workers", number, "--raw"),
        ("get", "endpt-workers", number),
        ("get", "endpt-logs", number, "--level", "0"),
        ("get", "endpt-logs", number, "--level", "1", "--tail", "100000"),
        ("get", "wrkgrp-logs", group, "--level", "3"),
        ("update", "workers", group, "--cancel"),
    )
    assert {one["endpoint_name"]: one["id"] for one in json.loads(groups)} == {"ep": 1001, "long": 2001}
    (worker,) = json.loads(raw)
    assert (worker["id"], worker["status"], worker["url"]) == (NUMBER, "idle", stock.url)
    assert f"id={NUMBER} status=idle" in line
    assert f"ep/{NUMBER} ready" in changes and f"-> ep/{NUMBER} " in decisions and '"max_perf"' in of_group
    assert "cancelled" in update
    run("create", "endpoint", "--endpoint_name", "made", "--max_workers", "3")
    both(
        ("update", "endpoint", "3", "--max_workers", "4"),
        ("create", "workergroup", "--endpoint_name", "made", "--template_hash", "x"),
    )
    found: Results = json.loads(run("show", "endpoints", "--raw"))
    assert {one["endpoint_name"]: one["max_workers"] for one in found} == {"ep": 16, "long": 16, "made": 4}
    run("delete", "endpoint", "3")
    assert "made" not in run("show", "endpoints")


def test_a_worker_that_is_killed_costs_a_retry(router: RouterProcess, stock: StockWorker, python: Path) -> None:
    """In the middle of a request, which another worker does; started again it is ready without a new benchmark."""

    async def scene() -> Results:
        before = await asyncio.to_thread(router.given, "ep", NUMBER)
        asking = asyncio.ensure_future(drive(python, "request", router=router.url, payload={"seconds": 5.0}))
        given = lambda: router.given("ep", NUMBER) > before  # noqa: E731 - shorter than a function
        await asyncio.to_thread(router.until, given, "given")
        await asyncio.to_thread(stock.kill)
        with terse_worker(router, "ep", 8, 200):
            return await asking

    (result,) = asyncio.run(scene())
    assert (result["ok"], result["response"]["worker"]) == (True, 8)
    router.until(lambda: stock.status == "error", "in error")
    router.tell("ep", "/worker_status/", id=8, error_msg="gone")
    stock.start()
    stock.wait_idle()
    (after,) = sdk(python, router, "request")
    assert (after["ok"], after["url"]) == (True, stock.url)


def test_a_worker_in_error_gets_nothing_until_it_is_restarted(
    router: RouterProcess, stock: StockWorker, python: Path
) -> None:
    """Vast's worker goes on serving, and never takes an error back; requests wait meanwhile."""

    async def scene() -> Results:
        before = await asyncio.to_thread(router.given, "ep", NUMBER)
        asking = asyncio.ensure_future(drive(python, "request", router=router.url, payload=PAYLOAD))
        await asyncio.to_thread(router.until, lambda: router.waiting("ep") == 1, "waiting")
        assert await asyncio.to_thread(router.given, "ep", NUMBER) == before
        await asyncio.to_thread(stock.kill)
        await asyncio.to_thread(stock.start)
        return await asking

    stock.break_model()
    router.until(lambda: stock.status == "error", "in error")
    assert "BROKEN" in router.workers("ep")[NUMBER]["error_msg"]
    (result,) = asyncio.run(scene())
    assert (result["ok"], result["url"]) == (True, stock.url)


def test_a_long_job_is_done_once(router: RouterProcess, long_job: "Future[Results]") -> None:
    """Its caller was told of one worker, once."""
    (result,) = long_job.result(200)
    assert (result["ok"], result["status"]) == (True, 200)
    assert result["latency"] >= LONG_S
    assert router.given("long", NUMBER) == 1


def test_workers_trust_a_router_that_was_killed_and_started_again(
    router: RouterProcess, stock: StockWorker, python: Path
) -> None:
    """They fetched its key once: it signs with the same one."""
    router.kill()
    router.start()
    stock.wait_idle()
    (result,) = sdk(python, router, "request")
    assert (result["ok"], result["url"]) == (True, stock.url)
