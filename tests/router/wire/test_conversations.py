"""Whole conversations, word by word: what stock workers and the SDK send, and everything that the router answers."""

from dataclasses import dataclass
from typing import Any

import pytest

from tests.fakes.router_world import ACCOUNT, KEY, TOKEN
from tests.router.wire.conftest import Talk

URL = "http://203.0.113.9:40001"


@dataclass
class Some:
    """Equal to any value of a kind that is not empty; remembers it."""

    kind: type
    value: Any = None

    def __eq__(self, other: object) -> bool:
        self.value = other
        return isinstance(other, self.kind) and not isinstance(other, bool) and bool(other)

    __hash__ = None  # type: ignore[assignment]


def report(**changes: Any) -> dict[str, Any]:
    """What a stock worker of 1.9.1 sends."""
    usual = {
        "id": 1, "mtoken": TOKEN, "version": "1.1.0", "loadtime": 0.0, "cur_load": 0.0, "new_load": 0.0,
        "rej_load": 0.0, "cur_perf": 0.0, "max_perf": 0.0, "error_msg": "", "num_requests_working": 0,
        "num_requests_recieved": 0, "additional_disk_usage": 0.01, "disk_usage": 31.5, "working_request_idxs": [],
        "cur_capacity": 0, "max_capacity": 0, "url": URL,
    }  # fmt: skip
    return usual | changes


def ended(request_idx: int, status: str) -> dict[str, Any]:
    finished = 1_800_000_002.0 if status in ("Success", "Error") else 0.0
    item = {"request_idx": request_idx, "success": status == "Success", "status": status}
    item |= {"entered_queue_at": 1_800_000_000.0, "work_started_at": 1_800_000_001.0, "work_completed_at": finished}
    return {"worker_id": 1, "mtoken": TOKEN, "requests": [item]}


def ready(request_idx: Any, reqnum: Any, cost: float) -> dict[str, Any]:
    return {
        "url": URL, "cost": cost, "endpoint": "ep", "reqnum": reqnum, "request_idx": request_idx,
        "signature": Some(str), "__request_id": Some(str),
    }  # fmt: skip


def waiting(request_idx: Any) -> dict[str, Any]:
    return {"endpoint": "ep", "status": Some(str), "request_idx": request_idx, "__request_id": Some(str)}


def asking(request_idx: int = 0, cost: float = 100.0) -> dict[str, Any]:
    """As the SDK asks."""
    return {"endpoint": "ep", "api_key": KEY, "cost": cost, "request_idx": request_idx, "replay_timeout": 60.0}


async def test_from_the_first_report_to_the_last(talk: Talk) -> None:
    """A worker boots, loads, refuses one request, is left alone for a moment, does another, and is listed."""
    number, first = Some(int), Some(int)
    assert await talk("/e/ep/worker_status/", report()) == {"success": True}
    assert await talk("/route/", asking()) == waiting(number)
    assert await talk("/route/", asking(number.value)) == waiting(number.value)
    assert await talk("/e/ep/worker_status/", report(loadtime=31.5, max_perf=40.0)) == {"success": True}
    assert await talk("/route/", asking(number.value)) == ready(number.value, first, 100.0)
    assert await talk("/e/ep/delete_requests/", ended(number.value, "Rejected")) == {"success": True}
    assert await talk("/route/", asking(number.value)) == waiting(number.value)
    full = report(loadtime=31.5, max_perf=40.0, cur_load=100.0, num_requests_working=1, working_request_idxs=[777])
    assert await talk("/e/ep/worker_status/", full) == {"success": True}
    assert await talk("/e/ep/worker_status/", report(loadtime=31.5, max_perf=40.0)) == {"success": True}
    other = Some(int)
    assert await talk("/route/", asking(cost=40)) == ready(other, first.value + 1, 40)
    assert other.value != number.value
    assert await talk("/e/ep/delete_requests/", ended(other.value, "Success")) == {"success": True}
    (listed,) = await talk("/get_endpoint_workers/", {"id": 1, "api_key": ACCOUNT})
    assert listed == {
        "id": 1, "status": "idle", "cur_load": 0.0, "new_load": 0.0,
        "cur_load_rolling_avg": pytest.approx(0.0, abs=50.0), "cur_perf": 0.0,
        "perf": 40.0, "measured_perf": 40.0, "dlperf": 0.0, "reliability": 1.0, "reqs_working": 0,
        "disk_usage": 31.5, "loaded_at": Some(float), "started_at": Some(float), "url": URL, "group": "g",
        "gpu_name": "", "error_msg": "",
    }  # fmt: skip


@pytest.mark.parametrize("version", [{}, {"version": "0.2.0"}])
async def test_workers_of_old_say_once_that_they_are_loaded(talk: Talk, version: dict[str, str]) -> None:
    """``loadtime`` is 0 again in the next report; the worker stays loaded, as its speed says."""
    old = {name: value for name, value in report(max_perf=40.0).items() if name not in ("version", "disk_usage")}
    assert await talk("/worker_status/", old | version | {"loadtime": 12.0}) == {"success": True}
    assert await talk("/worker_status/", old | version) == {"success": True}
    assert await talk("/route/", asking()) == ready(Some(int), Some(int), 100.0)


async def test_an_error_and_its_end(talk: Talk) -> None:
    """A worker that says what ails it gets nothing until it says nothing."""
    loaded = report(loadtime=31.5, max_perf=40.0)
    await talk("/e/ep/worker_status/", loaded | {"error_msg": "CUDA error"})
    assert await talk("/route/", asking()) == waiting(Some(int))
    await talk("/e/ep/worker_status/", loaded)
    assert await talk("/route/", asking()) == ready(Some(int), Some(int), 100.0)
