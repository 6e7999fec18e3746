"""The provider ``local`` whole: a router as a process starts real workers on fake ComfyUIs when work comes, and ends
them when it is done. Nothing is lost on the way up, down, or when a worker dies."""

import contextlib
import itertools
import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests

from tests.comfyui_fixture import REPOSITORY
from tests.integration.doors import FakeEngine, fake_engines
from tests.integration.harness import BENCHMARK, slow
from tests.integration.router_process import ACCOUNT_KEY, ANSWER_S, RouterProcess, router_process

FAST = {"ROUTER_SCALING_EVERY_S": "0.5", "ROUTER_SCALING_DOWN_DELAY_S": "12"}
pytestmark = pytest.mark.timeout(900)
"""Whole workers are started one after the other."""
WORKER = str(REPOSITORY / "workers" / "comfyui-json" / "worker.py")


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[FakeEngine]]:
    with fake_engines(tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("two")) as found:
        yield found


def endpoint(folder: Path, engines: list[FakeEngine], **provider: Any) -> dict[str, Any]:
    """Two places, each with a ComfyUI of its own; one worker (200 units a second) is too little for twelve requests."""
    measured = folder / "measured.json"
    save = {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "measured/__RANDOM_INT__"}}
    measured.write_text(json.dumps({**slow(0.5), "3": save}))
    env = {**BENCHMARK, "PYWORKER_HOST_READY": "1", "BENCHMARK_JSON_PATH": str(measured), "DRAIN_TIMEOUT_S": "20"}
    local = {
        "kind": "local",
        "command": [sys.executable, WORKER],
        "env": env,
        "places": [{"COMFYUI_API_BASE": engine.base_url} for engine in engines],
        "drain_time": 30,
        **provider,
    }
    return {
        "name": "ep",
        "target_queue_time": 0.2,
        "max_workers": 2,
        "groups": [{"name": "here", "boot_time": 5, "provider": local}],
    }


def scaling(router: RouterProcess) -> dict[str, Any]:
    headers = {"X-API-Key": ACCOUNT_KEY}
    reply = requests.get(f"{router.url}/scaling", headers=headers, timeout=ANSWER_S)
    assert reply.status_code == 200, reply.text
    return dict(reply.json())


def instances(router: RouterProcess) -> list[int]:
    """Numbers of the workers that there are."""
    group = scaling(router)["endpoints"].get("ep", {}).get("groups", {}).get("here", {"instances": []})
    return [one["id"] for one in group["instances"]]


def pids(router: RouterProcess) -> dict[int, int]:
    group = scaling(router)["endpoints"]["ep"]["groups"]["here"]
    return {one["id"]: int(one["detail"].split()[1]) for one in group["instances"]}


def lives(pid: int) -> bool:
    """Whether it runs; one that nobody has buried does not."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def left_over(folder: Path) -> list[int]:
    """Processes whose workspace is below the folder."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if str(folder) in process.environ().get("WORKSPACE_DIR", ""):
                found.append(process.pid)
    return found


def make(router: RouterProcess, payload: dict[str, Any], *, timeout_s: float = 200.0) -> tuple[str, dict[str, Any]]:
    """As the SDK does it: ask for a worker, call it, come back with the same number if it lets one down."""
    until, request_idx = time.monotonic() + timeout_s, 0
    while time.monotonic() < until:
        body = {"endpoint": "ep", "api_key": ACCOUNT_KEY, "cost": 100, "request_idx": request_idx}
        auth = requests.post(f"{router.url}/route/", json=body, timeout=ANSWER_S).json()
        request_idx = auth["request_idx"]
        if "url" not in auth:
            continue
        envelope = {"auth_data": auth, "session_id": None, "payload": {"input": {"workflow_json": payload}}}
        try:
            reply = requests.post(f"{auth['url']}/generate/sync", json=envelope, timeout=100)
        except requests.ConnectionError:
            continue
        if reply.status_code == 200:
            return auth["url"], reply.json()
        assert reply.status_code in (429, 500, 502, 503), reply.text
    raise AssertionError(f"not made within {timeout_s:g} s:\n{json.dumps(scaling(router))}")


def test_workers_come_with_the_work_and_go_with_it(tmp_path: Path, engines: list[FakeEngine]) -> None:
    """None at first, two under load, none in the end; every request is made, on both of them."""
    with router_process(tmp_path, endpoint(tmp_path, engines), **FAST) as router:
        assert instances(router) == []
        served, until = set[str](), time.monotonic() + 150

        def keep_busy(client: int) -> None:
            """One request after the other, until both workers have made some."""
            for number in itertools.count():
                url, answer = make(router, slow(1.0, color=client + 12 * number))
                assert answer["status"] == "completed"
                served.add(url)
                if len(served) == 2 or time.monotonic() > until:
                    return

        with ThreadPoolExecutor(12) as pool:
            list(pool.map(keep_busy, range(12)))
        assert len(served) == 2
        most = [event for event in scaling(router)["events"] if event["action"] == "start"]
        assert sum(event["number"] for event in most) == 2
        started = pids(router)
        router.until(lambda: not instances(router), "without workers")
        assert not any(lives(pid) for pid in started.values())
        router.until(lambda: router.workers("ep") == {}, "forgotten")


def test_a_worker_that_dies_is_started_again(tmp_path: Path, engines: list[FakeEngine]) -> None:
    """In its place, and its request is made by somebody."""
    wanted = endpoint(tmp_path, engines) | {"min_load": 1, "max_workers": 1}
    with router_process(tmp_path, wanted, **FAST) as router, ThreadPoolExecutor(1) as pool:
        make(router, slow(0.1))
        ((number, pid),) = pids(router).items()
        waiting = pool.submit(make, router, slow(6.0, color=9))
        router.until(lambda: scaling(router)["endpoints"]["ep"]["running_requests"], "busy")
        os.kill(pid, signal.SIGKILL)
        assert waiting.result()[1]["status"] == "completed"
        router.until(lambda: pids(router).get(number, pid) != pid, "started again")
        assert list(pids(router)) == [number]


def test_workers_may_outlive_their_router(tmp_path: Path, engines: list[FakeEngine]) -> None:
    """The next one finds them, uses them, and ends them."""
    wanted = endpoint(tmp_path, engines) | {"min_load": 1, "max_workers": 1}
    router = RouterProcess(tmp_path, wanted, **FAST)
    router.start()
    try:
        url, _ = make(router, slow(0.1))
        started = pids(router)
        router.kill()
        router.start()
        assert make(router, slow(0.1, color=3))[0] == url
        router.until(lambda: instances(router) == list(started), "found again")
        assert pids(router) == started
    finally:
        assert router.stop() == 0
    assert left_over(tmp_path) == []


def test_an_update_restarts_a_worker_that_has_nothing_to_do(tmp_path: Path, engines: list[FakeEngine]) -> None:
    """The same worker in another process, and it serves on; the router has nothing left to do."""
    wanted = endpoint(tmp_path, engines) | {"min_load": 1, "max_workers": 1}
    with router_process(tmp_path, wanted, **FAST) as router:
        make(router, slow(0.1))
        ((number, pid),) = pids(router).items()
        headers = {"X-API-Key": ACCOUNT_KEY}
        (group,) = requests.get(f"{router.url}/api/v0/workergroups/", headers=headers, timeout=ANSWER_S).json()[
            "results"
        ]
        asked = {"workergroup_id": group["id"], "api_key": ACCOUNT_KEY}
        answer = requests.post(f"{router.url}/update_workers/", json=asked, timeout=ANSWER_S).json()
        assert (answer["success"], answer["workers_to_update"], answer["error_msg"]) == (True, 1, "")
        router.until(lambda: pids(router).get(number, pid) != pid, "restarted")
        router.until(lambda: not scaling(router)["updates"], "ready again")
        assert pids(router).keys() == {number} and not lives(pid)
        assert len(list(tmp_path.rglob("force_update"))) == 1, "for this place's start script"
        assert make(router, slow(0.1, color=5))[1]["status"] == "completed"
    assert left_over(tmp_path) == []
