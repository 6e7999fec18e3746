"""Lists and logs, as the SDK and the CLI ask for them."""

import time

import pytest

from tests.fakes.router_world import ACCOUNT, KEY, TOKEN
from tests.router.wire.conftest import OTHER_KEY, TENANT, Talk

SDK_FIELDS = {
    "cur_load": float,
    "new_load": float,
    "cur_load_rolling_avg": float,
    "cur_perf": float,
    "perf": float,
    "measured_perf": float,
    "dlperf": float,
    "reliability": float,
    "reqs_working": int,
    "disk_usage": float,
    "loaded_at": float,
    "started_at": float,
}


async def test_workers_are_a_bare_list_that_the_sdk_can_read(talk: Talk) -> None:
    """Every field it reads is there and converts; no nulls. Loaded ones are ``idle``, others are not."""
    await talk.report(2)
    await talk.report(1, loadtime=0.0, max_perf=0.0)
    first, second = await talk("/get_endpoint_workers/", {"id": 1, "api_key": ACCOUNT})
    assert [(one["id"], one["status"]) for one in (first, second)] == [(1, "loading"), (2, "idle")]
    assert all(kind(second[name]) == second[name] for name, kind in SDK_FIELDS.items())
    assert None not in [*first.values(), *second.values()]
    assert (second["perf"], second["measured_perf"], second["reliability"]) == (100.0, 100.0, 1.0)


async def test_a_worker_that_was_loaded_before_the_router_came(talk: Talk) -> None:
    """Its times are in the past, though nobody here saw it start."""
    await talk.report(1, loadtime=3600.0)
    (one,) = await talk("/get_endpoint_workers/", {"id": 1, "api_key": ACCOUNT})
    assert one["loaded_at"] - one["started_at"] == pytest.approx(3600)
    assert one["loaded_at"] <= time.time()


async def test_what_fails_lowers_the_reliability(talk: Talk) -> None:
    """One of one request failed."""
    await talk.report(1)
    first = await talk.route()
    failed = {"request_idx": first["request_idx"], "success": False, "status": "Error"}
    await talk("/e/ep/delete_requests/", {"worker_id": 1, "mtoken": TOKEN, "requests": [failed]})
    (one,) = await talk("/get_endpoint_workers/", {"endpoint": "ep"}, key=KEY)
    assert (one["reliability"], one["perf"], one["measured_perf"]) == (0.0, 0.0, 100.0)


@pytest.mark.parametrize("name", ["workergroup", "autogroup"])
async def test_groups_have_their_own_workers(talk: Talk, name: str) -> None:
    """Under the new and the old name."""
    await talk.report(1)
    await talk.report(3)
    assert [one["id"] for one in await talk(f"/get_{name}_workers/", {"id": 12, "api_key": ACCOUNT})] == [3]


@pytest.mark.parametrize("name", ["endpoint", "workergroup", "autogroup"])
async def test_logs_say_who_came_and_who_was_given_what(talk: Talk, name: str) -> None:
    """Four texts."""
    await talk.report(1)
    request_idx = (await talk.route())["request_idx"]
    await talk.report(3, error_msg="out of order")
    number = 1 if name == "endpoint" else 11
    logs = await talk(f"/get_{name}_logs/", {"id": number, "api_key": ACCOUNT, "tail": -1})
    assert set(logs) == {"info0", "info1", "trace", "debug"}
    assert "ep/1 ready" in logs["info0"]
    assert ("out of order" in logs["info0"]) is (name == "endpoint")
    assert f" {request_idx} -> ep/1 " in logs["info1"]
    assert str(request_idx) in logs["trace"]
    assert '"max_perf":100.0' in logs["debug"] and TOKEN not in str(logs)


async def test_the_tail_is_whole_lines(talk: Talk) -> None:
    """So many bytes at most."""
    for number in range(1, 4):
        await talk.report(number)
    everything = (await talk("/get_endpoint_logs/", {"endpoint": "ep", "tail": -1}, key=KEY))["info0"]
    lines = everything.splitlines(keepends=True)
    assert len(lines) == 3
    tail = (await talk("/get_endpoint_logs/", {"endpoint": "ep", "tail": len(lines[-1]) + 3}, key=KEY))["info0"]
    assert tail == lines[-1]
    assert (await talk("/get_endpoint_logs/", {"endpoint": "ep", "tail": 0}, key=KEY))["info0"] == ""


@pytest.mark.parametrize("path", ["/get_endpoint_workers/", "/get_endpoint_logs/"])
@pytest.mark.parametrize(
    ("body", "key", "status"),
    [
        ({"id": 1}, "", 401),
        ({"id": 1}, OTHER_KEY, 404),
        ({"id": 99}, ACCOUNT, 404),
        ({"id": 1}, TENANT, 403),
        ({}, ACCOUNT, 400),
    ],
)
async def test_workers_are_nobody_elses_business(
    talk: Talk, path: str, body: dict[str, int], key: str, status: int
) -> None:
    """Nor a tenant's, who would see requests of others."""
    assert (await talk(path, body, key=key, status=status))["error"]
