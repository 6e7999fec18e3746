"""Relayed jobs on real processes: a router, two of our workers on fake ComfyUIs, and clients who don't wait."""

import time
from collections.abc import Iterator
from typing import Any

import pytest
import requests

from tests.integration.harness import picture, slow
from tests.integration.router_fleet import Fleet, all_idle, two_workers
from tests.integration.router_process import ACCOUNT_KEY, RouterProcess

KEY = {"Authorization": f"Bearer {ACCOUNT_KEY}"}
PNG = b"\x89PNG\r\n\x1a\n"
V2 = "/v2/ep"
LONG_S = "150"
"""So long a worker may need for its start on a busy machine."""
KEPT_BYTES = 65_536


@pytest.fixture(scope="module")
def router(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RouterProcess]:
    """Tests kill it, and start it again."""
    limits = {"ROUTER_LEASE_S": "3", "ROUTER_PATIENCE_S": LONG_S, "ROUTER_MAX_RESULT_BYTES": str(KEPT_BYTES)}
    process = RouterProcess(tmp_path_factory.mktemp("router"), "ep", **limits)
    process.start()
    yield process
    assert process.stop() == 0
    assert "Traceback" not in process.log.read_text()


@pytest.fixture(scope="module")
def fleet(router: RouterProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Two workers."""
    with two_workers(router, tmp_path_factory.mktemp("workers")) as workers:
        yield workers


@pytest.fixture(autouse=True)
def _all_ready(router: RouterProcess, fleet: Fleet) -> None:
    """Each test begins with two workers that are idle; who was killed comes back."""
    all_idle(router, fleet)


def post(router: RouterProcess, path: str, body: Any = None, **headers: str) -> requests.Response:
    return requests.post(router.url + path, json=body, headers=KEY | headers, timeout=150)


def get(router: RouterProcess, path: str) -> requests.Response:
    return requests.get(router.url + path, headers=KEY, timeout=150)


def submitted(router: RouterProcess, graph: dict[str, Any], **fields: Any) -> dict[str, Any]:
    answer = post(router, "/generate", {"input": {"workflow_json": graph, **fields}})
    assert answer.status_code == 202, answer.text
    return dict(answer.json())


def result(router: RouterProcess, job: dict[str, Any], *, within_s: float = 200.0) -> requests.Response:
    until = time.monotonic() + within_s
    while time.monotonic() < until:
        try:
            answer = get(router, f"/result/{job['job_id']}?wait=10")
        except requests.RequestException:
            time.sleep(0.1)
            continue
        if answer.json()["status"] in ("completed", "failed", "cancelled"):
            return answer
    raise AssertionError(router.log.read_text()[-3000:])


def attempts(router: RouterProcess, job: dict[str, Any]) -> tuple[int, int]:
    """How often it was tried, and the worker that had it last."""
    (row,) = [one for one in get(router, "/jobs").json()["jobs"] if one["job_id"] == job["job_id"]]
    return row["attempts"], int(row["worker"].partition("/")[2] or 0)


def running_on(router: RouterProcess, job: dict[str, Any]) -> int:
    """Wait until a worker executes it; its number."""
    router.until(lambda: get(router, f"/result/{job['job_id']}").json()["status"] == "generating", "running")
    return attempts(router, job)[1]


def test_a_job_and_its_files(router: RouterProcess) -> None:
    """Progress while it runs, the worker's answer at the end, and files through the router."""
    job = submitted(router, slow(4.0, color=31), request_id="mine")
    running_on(router, job)
    answer = result(router, job)
    told = answer.json()
    assert (answer.status_code, told["id"], told["status"]) == (200, "mine", "completed"), told
    (output,) = told["output"]
    assert output["url"].startswith(f"{router.url}/w/ep/")
    assert requests.get(output["url"], timeout=60).content.startswith(PNG)


def test_a_result_that_is_too_large_comes_from_its_worker(router: RouterProcess) -> None:
    """The job is done, and no dead letter; who asks for it gets all of it."""
    graph = picture(41)
    graph["1"]["inputs"]["batch_size"] = 200
    asked = {"input": {"workflow_json": graph, "request_id": "large"}}
    job = post(router, "/generate", asked, **{"X-Return-Outputs-As-Base64": "1"}).json()
    answer = result(router, job)
    told = answer.json()
    assert (answer.status_code, told["id"], told["status"], len(told["output"])) == (200, "large", "completed", 200)
    assert len(answer.content) > KEPT_BYTES and all(one["data"] for one in told["output"])
    assert attempts(router, job)[0] == 1
    assert get(router, "/relay/dead").json() == {"dead": []}


def test_what_comfyui_refuses_is_passed_on(router: RouterProcess) -> None:
    """With ComfyUI's own words, after one attempt."""
    graph = picture(1)
    graph["2"]["inputs"]["images"] = ["77", 0]
    answer = result(router, job := submitted(router, graph))
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_workflow"), answer.text
    assert attempts(router, job)[0] == 1


def test_cancel_reaches_the_worker(router: RouterProcess, fleet: Fleet) -> None:
    """It stops there."""
    job = submitted(router, slow(200.0, color=32))
    number = running_on(router, job)
    assert post(router, f"/cancel/{job['job_id']}").json()["status"] == "cancelled"
    assert result(router, job).status_code == 499
    router.until(lambda: router.workers("ep")[number]["reqs_working"] == 0, "idle", 100)


def test_runpod_as_its_clients_use_it(router: RouterProcess) -> None:
    """Run, stream, status, runsync, cancel, health, purge."""
    body = {"input": {"workflow": slow(4.0, color=33)}}
    accepted = post(router, f"{V2}/run", body).json()
    name, pieces = accepted["id"], []
    while True:
        told = get(router, f"{V2}/stream/{name}").json()
        pieces += told["stream"]
        if told["status"] == "COMPLETED" and not told["stream"]:
            break
    assert pieces[-1]["output"]["images"][0]["filename"] and len(pieces) > 1
    final = get(router, f"{V2}/status/{name}").json()
    assert (final["id"], final["status"], final["output"]) == (name, "COMPLETED", pieces[-1]["output"])
    assert type(final["delayTime"]) is int and type(final["executionTime"]) is int
    done = post(router, f"{V2}/runsync", {"input": {"workflow": picture(34)}}).json()
    assert done["status"] == "COMPLETED" and done["id"].startswith("sync-")
    bad = post(router, f"{V2}/runsync", {"input": {"workflow": None}}).json()
    assert (bad["status"], bad["error"]) == ("FAILED", "Missing 'workflow' parameter")
    assert post(router, f"{V2}/retry/{bad['id']}").json() == {"id": bad["id"], "status": "IN_QUEUE"}
    assert get(router, f"{V2}/health").json()["workers"]["ready"] >= 1
    assert post(router, f"{V2}/purge-queue").json()["status"] == "completed"


def test_salad_with_a_webhook(router: RouterProcess) -> None:
    """202 at once, the result by its id."""
    accepted = post(router, "/prompt", {"prompt": picture(35), "webhook_v2": "https://example.com/hook"})
    assert accepted.status_code == 202, accepted.text
    name = accepted.json()["id"]
    router.until(lambda: get(router, f"/result/{name}?wait=5").json().get("status") == "completed", "done")
    assert get(router, f"/result/{name}").json()["images"]


def test_a_killed_worker_that_comes_back_goes_on(router: RouterProcess, fleet: Fleet) -> None:
    """It has its jobs on disk, and its ComfyUI went on: no attempt is lost."""
    job = submitted(router, slow(8.0, color=36))
    number = running_on(router, job)
    process = fleet[number].process
    assert process is not None
    process.kill()
    process.wait()
    fleet[number].start()
    answer = result(router, job)
    assert answer.status_code == 200 and answer.json()["status"] == "completed", answer.text
    assert attempts(router, job) == (1, number)


@pytest.fixture
def hasty(router: RouterProcess, fleet: Fleet) -> Iterator[RouterProcess]:
    """The router, with little patience for who is away."""
    router.restart(ROUTER_PATIENCE_S="5")
    all_idle(router, fleet)
    yield router
    router.restart(ROUTER_PATIENCE_S=LONG_S)


def test_a_killed_worker_that_stays_away_costs_an_attempt(hasty: RouterProcess, fleet: Fleet) -> None:
    """The other one does the job."""
    router = hasty
    job = submitted(router, slow(6.0, color=37))
    number = running_on(router, job)
    process = fleet[number].process
    assert process is not None
    process.kill()
    process.wait()
    answer = result(router, job)
    assert answer.status_code == 200 and answer.json()["status"] == "completed", answer.text
    assert attempts(router, job) == (2, 3 - number)


def test_a_killed_router_follows_on(router: RouterProcess, fleet: Fleet) -> None:
    """What runs is not run again; what waits is done."""
    jobs = [submitted(router, slow(3.0, color=40 + number)) for number in range(4)]
    running_on(router, jobs[0])
    router.kill()
    router.start()
    for job in jobs:
        assert result(router, job).json()["status"] == "completed"
        assert attempts(router, job)[0] == 1
