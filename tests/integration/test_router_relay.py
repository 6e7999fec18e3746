"""Clients that know only the router: it and our workers as processes, fake ComfyUIs behind, and one stock PyWorker."""

import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests

from tests.integration.harness import picture, slow
from tests.integration.router_fleet import Fleet, all_idle, two_workers
from tests.integration.router_process import ACCOUNT_KEY, RouterProcess, router_process
from tests.integration.stock_process import stock_worker
from tests.peers.vast.sdk import sdk_python

KEY = {"Authorization": f"Bearer {ACCOUNT_KEY}"}
MEGABYTE = 2**20
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def router(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RouterProcess]:
    with router_process(tmp_path_factory.mktemp("router"), "ep") as process:
        yield process


@pytest.fixture(scope="module")
def fleet(router: RouterProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Two workers."""
    with two_workers(router, tmp_path_factory.mktemp("workers")) as workers:
        yield workers


@pytest.fixture(autouse=True)
def _all_ready(router: RouterProcess, fleet: Fleet) -> None:
    """Each test begins with two workers that are idle; who was killed comes back."""
    all_idle(router, fleet)
    router.until(lambda: busy(router) is None, "idle")


def busy(router: RouterProcess) -> int | None:
    """The worker that has a request."""
    return next((number for number, one in router.workers("ep").items() if one["reqs_working"]), None)


def post(router: RouterProcess, path: str, body: Any, **options: Any) -> requests.Response:
    return requests.post(router.url + path, json=body, headers=KEY, **{"timeout": 120, **options})


def asked(graph: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"input": {"workflow_json": graph, **fields}}


def kill_the_busy_one(router: RouterProcess, fleet: Fleet) -> int:
    """End the worker that has the request as a lost host does; its number."""
    found: list[int] = []

    def begun() -> bool:
        found.extend(number for number in [busy(router)] if number is not None)
        return bool(found)

    router.until(begun, "begun")
    (number,) = found
    process = fleet[number].process
    assert process is not None
    process.kill()
    process.wait()
    return number


def test_requests_are_done_and_their_files_come_through_the_router(router: RouterProcess) -> None:
    """Several at once; each link leads through the router to the worker that has the file, in parts too."""
    with ThreadPoolExecutor(6) as pool:
        done = list(pool.map(lambda color: post(router, "/generate/sync", asked(picture(color))), range(6)))
    assert [answer.status_code for answer in done] == [200] * 6, done[0].text
    for answer in done:
        (output,) = answer.json()["output"]
        assert output["url"].startswith(f"{router.url}/w/ep/")
        whole = requests.get(output["url"], timeout=60)
        part = requests.get(output["url"], headers={"Range": "bytes=0-7"}, timeout=60)
        assert whole.content.startswith(PNG) and (part.status_code, part.content) == (206, PNG)
        forged = requests.get(output["url"].replace("signature=", "signature=0"), timeout=60)
        assert forged.status_code in (401, 403, 404)


def test_salads_requests_are_done(router: RouterProcess) -> None:
    """Synchronously, with the pictures in the answer."""
    answer = post(router, "/prompt", {"prompt": picture(11)})
    assert answer.status_code == 200 and len(answer.json()["images"]) == 1, answer.text
    wrong = post(router, "/prompt", {"prompt": {}})
    assert wrong.status_code == 400 and wrong.json()["error"]


def test_events_come_while_the_job_runs(router: RouterProcess) -> None:
    """The last one has the result."""
    events, moments = [], []
    with post(router, "/generate/stream", asked(slow(3.0, color=12)), stream=True) as answer:
        for line in answer.iter_lines():
            if line.startswith(b"data: "):
                events.append(json.loads(line[6:]))
                moments.append(time.monotonic())
    assert events[-1]["status"] == "final_result" and events[-1]["result"]["status"] == "completed"
    assert moments[-1] - moments[0] > 0.5


def test_a_killed_workers_request_is_done_by_another(router: RouterProcess, fleet: Fleet) -> None:
    """The caller sees nothing of it."""
    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(post, router, "/generate/sync", asked(slow(5.0, color=13)))
        killed = kill_the_busy_one(router, fleet)
        answer = asking.result()
    assert answer.status_code == 200 and answer.json()["status"] == "completed", answer.text
    assert router.status("ep", killed) != "idle"


def test_a_stream_whose_worker_is_killed_ends_with_an_error(router: RouterProcess, fleet: Fleet) -> None:
    """A part of it is out, so nobody else does it; the caller is told."""
    with post(router, "/generate/stream", asked(slow(20.0, color=14)), stream=True) as answer:
        lines = (line for line in answer.iter_lines() if line.startswith(b"data: "))
        events = [json.loads(next(lines)[6:])]
        kill_the_busy_one(router, fleet)
        events += [json.loads(line[6:]) for line in lines]
    assert events[-1]["status"] == "error" and events[-1]["request_id"] == events[0]["request_id"]


def test_a_caller_who_leaves_ends_the_job(router: RouterProcess) -> None:
    """At the worker too, which is free for the next long before it would have been."""
    with ThreadPoolExecutor(1) as pool, pytest.raises(requests.Timeout):
        asking = pool.submit(post, router, "/generate/sync", asked(slow(200.0, color=15)), timeout=4)
        router.until(lambda: busy(router) is not None or asking.done(), "begun")
        asking.result()
    router.until(lambda: busy(router) is None, "idle", 100)


def test_large_bodies_do_not_add_up_in_memory(router: RouterProcess) -> None:
    """Four of fifty megabytes at a time: one after the other is decoded (three times its size), all wait on disk."""
    process = psutil.Process(router.pid)
    body = json.dumps(asked(picture(16), padding="x" * (50 * MEGABYTE))).encode()

    def send(_: int) -> int:
        headers = {**KEY, "Content-Type": "application/json"}
        return requests.post(f"{router.url}/generate/sync", data=body, headers=headers, timeout=240).status_code

    before, most, over = process.memory_info().rss, 0, threading.Event()

    def look() -> None:
        nonlocal most
        while not over.wait(0.02):
            most = max(most, process.memory_info().rss)

    watcher = threading.Thread(target=look)
    watcher.start()
    with ThreadPoolExecutor(4) as pool:
        statuses = list(pool.map(send, range(4)))
    over.set()
    watcher.join()
    assert statuses == [200] * 4
    assert most - before < 3.5 * len(body), f"{(most - before) / MEGABYTE:.0f} MiB more"


def test_a_stock_worker_is_served_in_its_envelope(tmp_path: Path) -> None:
    """Its model's answer comes back as it gave it; what it can't do nobody asks of it."""
    with router_process(tmp_path, "ep") as router, stock_worker(sdk_python(), router, tmp_path):
        body = asked(picture(17))
        answer = post(router, "/generate/sync", body)
        assert (answer.status_code, answer.json()) == (200, body)
        with pytest.raises(requests.Timeout):
            post(router, "/generate/stream", body, timeout=1)
