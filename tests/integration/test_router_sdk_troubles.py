"""The unmodified ``vastai`` SDK through our router to workers that refuse, break, die, come late or differ in speed."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.comfyui_fixture import free_port
from tests.integration.router_process import ACCOUNT_KEY, RouterProcess, router_process
from tests.integration.terse_worker import Trouble, terse_worker
from tests.peers.vast.sdk import drive, sdk_python

KEYS = {"east": "east-key-0123456789abcdef", "west": "west-key-0123456789abcdef"}
NAMES = ("full", "refusing", "broken", "garbled", "garbage", "dead", "late", "mixed")
GONE: dict[str, Any] = {"version": "1.1.0", "loadtime": 1.0, "max_perf": 1e9, "cur_load": 0.0}
"""What a worker reported before it went away; it looks like the fastest."""


@pytest.fixture(scope="module")
def python() -> Path:
    return sdk_python()


@pytest.fixture(scope="module")
def router(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RouterProcess]:
    apart = [{"name": name, "api_key": key} for name, key in KEYS.items()]
    folder = tmp_path_factory.mktemp("router")
    with router_process(folder, *NAMES, *apart, ROUTER_ROUTE_WAIT_S="2", ROUTER_STALE_S="120") as process:
        yield process


def sdk(python: Path, router: RouterProcess, scenario: str, **options: Any) -> list[dict[str, Any]]:
    return asyncio.run(drive(python, scenario, router=router.url, **options))


def test_what_the_operator_has_to_know_is_said_at_once(router: RouterProcess) -> None:
    """Also where the output is a file."""
    assert f"REPORT_ADDR={router.url}/e/full\n" in router.log.read_text()


def test_a_full_worker_is_asked_again_later(router: RouterProcess, python: Path) -> None:
    """429, then it works: the same number all the time, a few routes and no storm."""
    with terse_worker(router, "full", 1, 429, 200) as full:
        (result,) = sdk(python, router, "request", endpoint="full")
    assert (result["ok"], result["status"]) == (True, 200)
    assert [call["auth_data"]["request_idx"] for call in full.calls] == [result["request_idx"]] * 2
    assert router.given("full", 1) == 2


def test_who_is_refused_gets_another_worker(router: RouterProcess, python: Path) -> None:
    """429 by the faster one: the retry goes to the other, by the same number."""
    with terse_worker(router, "refusing", 1, 429, perf=1e7) as full, terse_worker(router, "refusing", 2, 200) as free:
        (result,) = sdk(python, router, "request", endpoint="refusing")
    assert (result["ok"], result["response"]["worker"]) == (True, 2)
    numbers = [call["auth_data"]["request_idx"] for call in full.calls + free.calls]
    assert numbers == [result["request_idx"]] * 2


def test_a_broken_worker_is_left_for_a_sound_one(router: RouterProcess, python: Path) -> None:
    """500 from the faster one: the retry goes to the other."""
    with terse_worker(router, "broken", 1, 500, perf=1e7) as broken, terse_worker(router, "broken", 2, 200) as sound:
        (result,) = sdk(python, router, "request", endpoint="broken")
    assert (result["ok"], result["status"]) == (True, 200)
    assert (len(broken.calls), len(sound.calls)) == (1, 1)


@pytest.mark.parametrize("trouble", list(Trouble), ids=lambda trouble: str(trouble.name).lower())
def test_a_malformed_answer_is_tried_elsewhere(router: RouterProcess, python: Path, trouble: Trouble) -> None:
    """The SDK comes back at once, although the worker said that all went well: it is not sent there again."""
    with (
        terse_worker(router, "garbled", 1, trouble, perf=1e7) as garbled,
        terse_worker(router, "garbled", 2, 200) as sound,
    ):
        (result,) = sdk(python, router, "request", endpoint="garbled")
    assert (result["ok"], result["response"]["worker"]) == (True, 2)
    assert (len(garbled.calls), len(sound.calls)) == (1, 1)


def test_nobody_spins_while_all_workers_talk_garbage(router: RouterProcess, python: Path) -> None:
    """The SDK alone would call thousands of times in these seconds."""
    with terse_worker(router, "garbage", 1, Trouble.GARBAGE) as first:
        (raised,) = sdk(python, router, "request", endpoint="garbage", timeout=3, raises=True)
    assert raised["type"] == "TimeoutError"
    assert len(first.calls) <= 2


def test_nobody_spins_while_only_a_dead_worker_is_there(router: RouterProcess, python: Path) -> None:
    """The SDK retries without a pause when a connection fails; it is held until a living worker comes."""

    async def scene() -> list[dict[str, Any]]:
        url = f"http://127.0.0.1:{free_port()}"
        await asyncio.to_thread(router.tell, "dead", "/worker_status/", **GONE, id=1, url=url)
        asking = asyncio.ensure_future(drive(python, "request", router=router.url, endpoint="dead"))
        await asyncio.to_thread(router.until, lambda: router.given("dead", 1), "given to the dead one")
        with terse_worker(router, "dead", 2, 200):
            return await asking

    (result,) = asyncio.run(scene())
    assert (result["ok"], result["status"]) == (True, 200)
    assert router.given("dead", 1) == 1


def test_a_worker_that_comes_late_serves_who_waits(router: RouterProcess, python: Path) -> None:
    """Nobody was there for longer than the router holds a request; the SDK polls, and the first worker gets it."""

    async def scene() -> list[dict[str, Any]]:
        asking = asyncio.ensure_future(drive(python, "request", router=router.url, endpoint="late", count=3))
        await asyncio.to_thread(router.until, lambda: router.waiting("late") == 3, "waiting")
        polls = [await asyncio.to_thread(router.call, "/route/", endpoint="late") for _ in range(2)]
        with terse_worker(router, "late", 1, 200):
            return [*await asking, *polls]

    *results, first, second = asyncio.run(scene())
    assert "url" not in first and "url" not in second
    assert [(result["ok"], result["status"]) for result in results] == [(True, 200)] * 3
    assert len({result["request_idx"] for result in results}) == 3


def test_faster_workers_get_more(router: RouterProcess, python: Path) -> None:
    """Twenty clients at once, with requests of all sizes, on three workers of different speed: all succeed, none is
    refused, and each worker does about the share of the work that its speed is of theirs."""
    speeds = {1: 120.0, 2: 240.0, 3: 720.0}
    costs = [50, 100, 150, 400]

    async def scene() -> list[list[dict[str, Any]]]:
        clients = [
            drive(python, "request", router=router.url, endpoint="mixed", count=20, costs=costs) for _ in range(2)
        ]
        return list(await asyncio.gather(*clients))

    with (
        terse_worker(router, "mixed", 1, 200, perf=speeds[1]) as slow,
        terse_worker(router, "mixed", 2, 200, perf=speeds[2]) as middling,
        terse_worker(router, "mixed", 3, 200, perf=speeds[3]) as fast,
    ):
        results = [result for client in asyncio.run(scene()) for result in client]
    assert [result["status"] for result in results] == [200] * 40
    assert len({result["request_idx"] for result in results}) == 40
    assert slow.done < middling.done < fast.done
    assert slow.done + middling.done + fast.done == 10 * sum(costs)
    assert fast.done > 0.5 * 10 * sum(costs)


# -- keys -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scenario", ["request", "manage"])
def test_a_wrong_key_is_told_at_once(router: RouterProcess, python: Path, scenario: str) -> None:
    """401 as the SDK shows it; nothing is waited for."""
    (raised,) = sdk(python, router, scenario, endpoint="east", key="wrong-key-0123456789", raises=True)
    assert "401" in raised["error"] and "API key" in raised["error"]


def test_an_unknown_endpoint_is_told_at_once(router: RouterProcess, python: Path) -> None:
    """It is not listed; who asks for it all the same is told 404."""
    (raised,) = sdk(python, router, "request", endpoint="nowhere", raises=True)
    assert raised["error"] == "Endpoint nowhere could not be found"


def test_each_endpoint_has_its_key(router: RouterProcess, python: Path) -> None:
    """A key lists its own endpoint only, opens it, and no other; work of one never comes to the other's workers."""
    with terse_worker(router, "east", 1, 200) as east, terse_worker(router, "west", 1, 200, perf=1e7) as west:
        (result,) = sdk(python, router, "request", endpoint="east", key=KEYS["east"])
        assert (result["ok"], len(east.calls), len(west.calls)) == (True, 1, 0)
        (raised,) = sdk(python, router, "request", endpoint="west", key=KEYS["east"], raises=True)
        assert raised["error"] == "Endpoint west could not be found"
        (raised,) = sdk(python, router, "stolen", endpoint="west", other_key=KEYS["east"], raises=True)
        assert "404" in raised["error"]
        assert (len(east.calls), len(west.calls)) == (1, 0)


# -- management -------------------------------------------------------------------------------------------------------


def test_an_endpoint_made_by_the_sdk_is_used_and_removed(router: RouterProcess, python: Path) -> None:
    """It routes as soon as it has a worker; its new group has none to update; afterwards it is gone."""

    async def scene() -> list[dict[str, Any]]:
        managing = asyncio.ensure_future(drive(python, "manage", router=router.url, endpoint="made"))
        await asyncio.to_thread(router.until, lambda: "made" in _names(router), "made")
        with terse_worker(router, "made", 5, 200):
            return await managing

    made, group, result, update, left = asyncio.run(scene())
    assert (made["name"], made["most"]) == ("made", 3) and len(made["key"]) == 64
    assert group["found"] is not None
    assert (result["ok"], result["response"]["worker"]) == (True, 5)
    assert (update["success"], update["workers_to_update"]) == (True, 0)
    assert "made" not in left["names"]


def test_the_blocking_client_manages_and_looks(router: RouterProcess, python: Path) -> None:
    """It shows its key in the header alone."""
    number = _names(router)["mixed"]
    with terse_worker(router, "mixed", 8, 200):
        endpoints, groups, workers, logs, group_logs, left = sdk(
            python, router, "synchronous", endpoint="temporary", id=number
        )
    made = next(one for one in endpoints["endpoints"] if one["endpoint_name"] == "temporary")
    assert (made["max_workers"], made["endpoint_state"]) == (5, "active")
    assert [one["endpoint_id"] for one in groups["groups"]].count(made["id"]) == 2
    assert "idle" in {one["status"] for one in workers["workers"] if one["id"] == 8}
    assert all(set(one["logs"]) == {"info0", "info1", "trace", "debug"} for one in (logs, group_logs))
    assert "temporary" not in left["names"] and "mixed" in left["names"]


def _names(router: RouterProcess) -> dict[str, int]:
    answer = router.look(f"/api/v0/endptjobs/?api_key={ACCOUNT_KEY}")
    return {one["endpoint_name"]: one["id"] for one in answer["results"]}
