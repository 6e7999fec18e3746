"""RunPod's own clients, unmodified, against a worker on a real ComfyUI: ``runpod`` of PyPI, ``runpod-sdk`` of npm."""

import base64
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.comfyui_fixture import RealComfyUI
from tests.integration import runpod
from tests.integration.harness import WorkerProcess, picture
from tests.integration.runpod import busy, failing
from tests.peers.runpod.clients import Told, drive_node, drive_python, one, sdk_node, sdk_python

pytestmark = pytest.mark.comfyui
PNG = b"\x89PNG\r\n\x1a\n"
KEY = "a-key-of-the-tests-clients"
UUID = "[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"
LONG_S = 10.0
"""What the clients allow for run, status and stream; for health, cancel and purge (JavaScript: for all) 3 s."""
LANGUAGES = ("python", "javascript")
HEALTH = {
    "jobs": {"completed", "failed", "inProgress", "inQueue", "retried"},
    "workers": {"idle", "initializing", "ready", "running", "throttled", "unhealthy"},
}


@pytest.fixture(scope="module")
def python() -> Path:
    return sdk_python()


@pytest.fixture(scope="module")
def node() -> Path:
    return sdk_node()


@pytest.fixture(scope="module")
def endpoint(real_comfyui: RealComfyUI, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerProcess]:
    """A worker with a key, so that a wrong one can be shown."""
    settings = {"API_KEYS": f"tests:{KEY}", "RUNPOD_STREAM_INTERVAL_S": "0.2"}
    with runpod.endpoint(tmp_path_factory.mktemp("runpod-clients"), real_comfyui.base_url, **settings) as made:
        yield made.process


@pytest.fixture(params=LANGUAGES)
def language(request: pytest.FixtureRequest) -> str:
    """Each client in turn."""
    return str(request.param)


class Clients:
    """Both clients, pointed at the worker."""

    def __init__(self, endpoint: WorkerProcess, request: pytest.FixtureRequest) -> None:
        self._endpoint = endpoint
        self._request = request

    def drive(self, language: str, scenario: str, graph: Mapping[str, Any], **options: Any) -> Told:
        options = {"key": KEY, **options}
        if language == "python":
            return drive_python(
                self._request.getfixturevalue("python"), scenario, self._endpoint.api, body(graph), **options
            )
        return drive_node(self._request.getfixturevalue("node"), scenario, self._endpoint.api, body(graph), **options)


@pytest.fixture
def clients(endpoint: WorkerProcess, request: pytest.FixtureRequest) -> Clients:
    return Clients(endpoint, request)


@pytest.fixture(autouse=True)
def nothing_is_left(endpoint: WorkerProcess, real_comfyui: RealComfyUI) -> Iterator[None]:
    """Whatever a client did, soon neither the worker nor ComfyUI has anything to do."""
    yield
    endpoint.wait_for(lambda: idle(endpoint, real_comfyui), "idle", 50)


def idle(endpoint: WorkerProcess, comfyui: RealComfyUI) -> bool:
    queue = requests.get(f"{comfyui.base_url}/queue", timeout=60).json()
    jobs = endpoint.get("/v2/x/health").json()["jobs"]
    return not queue["queue_running"] and not queue["queue_pending"] and jobs["inProgress"] == jobs["inQueue"] == 0


def body(graph: Mapping[str, Any]) -> dict[str, Any]:
    """What is posted; without a graph an input that has none."""
    return {"input": {"workflow": dict(graph)} if graph else {"images": []}}


def check_picture(output: Mapping[str, Any], filename: str) -> None:
    """The output of worker-comfyui 5: its keys and no other, the picture in it."""
    assert set(output) == {"images"}
    (image,) = output["images"]
    assert {key: image[key] for key in ("filename", "type")} == {"filename": filename, "type": "base64"}
    assert base64.b64decode(image["data"], validate=True).startswith(PNG)


def check_progress(value: Mapping[str, Any]) -> None:
    assert value["type"] == "progress"
    assert set(value) == {"type", "value", "max", "percent", "node"}
    assert 0 <= value["value"] <= value["max"]
    assert 0 <= value["percent"] <= 100


# -- success ------------------------------------------------------------------------------------------------------


def test_run_status_output(clients: Clients) -> None:
    """Submitted, polled, fetched, and fetched again; the id has the form that RunPod's have."""
    told = clients.drive("python", "run", picture(21, prefix="clients/run"))
    job_id = one(told, "submitted")["id"]
    assert re.fullmatch(f"{UUID}-[a-z][0-9]", job_id)
    statuses = one(told, "statuses")["value"]
    assert statuses[-1] == "COMPLETED"
    assert set(statuses) <= {"IN_QUEUE", "IN_PROGRESS", "COMPLETED"}
    output = one(told, "output")["value"]
    check_picture(output, "run_00001_.png")
    assert one(told, "again")["value"] == output
    raw = one(told, "raw")["value"]
    assert (raw["id"], raw["status"], raw["output"]) == (job_id, "COMPLETED", output)
    assert type(raw["delayTime"]) is type(raw["executionTime"]) is int
    assert raw["workerId"]


def test_run_and_status_in_javascript(clients: Clients) -> None:
    """The same with the other client, which adds what it makes of the status."""
    told = clients.drive("javascript", "run", picture(22, prefix="clients/js"))
    submitted = one(told, "submitted")["value"]
    assert submitted == {"id": submitted["id"], "status": "IN_QUEUE"}
    status = one(told, "status")["value"]
    assert (status["started"], status["completed"], status["succeeded"]) == (True, True, True)
    check_picture(status["output"], "js_00001_.png")


def test_run_sync(clients: Clients) -> None:
    """One call, and the output."""
    check_picture(
        one(clients.drive("python", "run_sync", picture(23, prefix="clients/s")), "output")["value"], "s_00001_.png"
    )


def test_run_sync_in_javascript(clients: Clients) -> None:
    """One call and one request, since the job is over before the wait is."""
    result = one(clients.drive("javascript", "runSync", picture(24, prefix="clients/s")), "result")
    assert result["requests"] == 1
    value = result["value"]
    assert (value["status"], value["completed"], value["succeeded"]) == ("COMPLETED", True, True)
    assert value["id"].startswith("sync-")
    check_picture(value["output"], "s_00001_.png")


def test_run_sync_longer_than_the_wait_in_javascript(clients: Clients) -> None:
    """The first answer is not final; the package asks status-sync then, a second each time, without a pause. Requests
    are held: some, not hundreds; and the job goes on between them. The package gives up 10 s after the first answer."""
    result = one(clients.drive("javascript", "runSync", busy(11), timeout=10_000), "result")
    assert result["value"]["status"] == "COMPLETED"
    assert 2 <= result["requests"] <= result["seconds"] - 10 + 3
    assert result["seconds"] < 60


# -- following ----------------------------------------------------------------------------------------------------


def test_stream(clients: Clients) -> None:
    """Progress while it runs, then the output as the last chunk, then the end of the loop."""
    told = clients.drive("python", "stream", busy(5))
    chunks = [item["value"] for item in told if item["kind"] == "chunk"]
    assert len(chunks) >= 2
    for chunk in chunks[:-1]:
        check_progress(chunk)
    steps = [chunk["percent"] for chunk in chunks[:-1]]
    assert steps == sorted(steps)
    check_picture(chunks[-1], "slow_00001_.png")
    assert one(told, "status")["value"] == "COMPLETED"
    assert one(told, "output")["value"] == chunks[-1]


def test_stream_does_not_spin_in_javascript(clients: Clients) -> None:
    """This client asks again without a pause. Held requests make that one or two a piece of news."""
    told = clients.drive("javascript", "stream", busy(3))
    streamed = one(told, "streamed")
    chunks = [item["output"] for item in streamed["value"]]
    for chunk in chunks[:-1]:
        check_progress(chunk)
    check_picture(chunks[-1], "slow_00001_.png")
    assert streamed["requests"] <= len(chunks) + 3 + streamed["seconds"] / 4
    assert len(chunks) <= streamed["seconds"] / 0.2 + 4
    assert one(told, "status")["value"]["succeeded"] is True


# -- while it runs ------------------------------------------------------------------------------------------------


def check_health(value: Mapping[str, Any]) -> None:
    """RunPod's document and nothing else; integers, since its Go client takes nothing else."""
    assert {key: set(counters) for key, counters in value.items()} == HEALTH
    assert {type(count) for counters in value.values() for count in counters.values()} == {int}


def test_every_call_within_its_time_while_a_job_runs(clients: Clients, language: str) -> None:
    """The GPU is busy for a minute: health, status, purge and cancel answer at once, and the cancelled job is over.
    Each client itself gives up what takes longer than it waits, and says so."""
    scenario = "while_running" if language == "python" else "whileRunning"
    told = clients.drive(language, scenario, busy(60))
    timed = {item["kind"]: item for item in told if "seconds" in item}
    assert {kind: item["seconds"] for kind, item in timed.items() if item["seconds"] >= LONG_S} == {}
    assert [item for item in timed.values() if "raised" in item] == []
    check_health(timed["health"]["value"])
    assert timed["health"]["value"]["jobs"]["inProgress"] == 1
    assert timed["health"]["value"]["workers"]["running"] == 1
    assert timed["purged"]["value"] == {"removed": 1, "status": "completed"}
    purged, running = timed["status of the purged"]["value"], timed["status"]["value"]
    if language == "javascript":
        purged, running = purged["status"], running["status"]
    assert (purged, running) == ("CANCELLED", "IN_PROGRESS")
    cancelled = timed["cancelled"]["value"]
    assert cancelled["status"] == "CANCELLED"
    assert set(cancelled) <= {"id", "status", "delayTime", "executionTime", "workerId"}
    assert [item["value"][-1] for item in told if item["kind"] == "statuses"] == ["IN_PROGRESS", "CANCELLED"]


def test_a_second_cancel_changes_nothing(clients: Clients) -> None:
    """The state stays, and the answer says it."""
    told = clients.drive("python", "while_running", busy(60))
    assert one(told, "cancelled again")["value"]["status"] == "CANCELLED"


def test_a_client_that_gives_up(clients: Clients) -> None:
    """Its own time is over: it raises, and the job that nobody waits for leaves the GPU (checked at the end)."""
    told = clients.drive("python", "run_sync_impatiently", busy(60), timeout=1)
    assert one(told, "raised")["type"] in ("ReadTimeout", "TimeoutError")
    assert one(told, "health")["seconds"] < LONG_S


def test_output_that_does_not_come_in_time(clients: Clients) -> None:
    """TimeoutError, and cancel still reaches the job."""
    told = clients.drive("python", "output_impatiently", busy(60), timeout=2)
    assert one(told, "raised")["type"] == "TimeoutError"
    assert one(told, "cancelled")["value"]["status"] == "CANCELLED"


# -- failure ------------------------------------------------------------------------------------------------------


def test_a_failed_job_says_why(clients: Clients) -> None:
    """FAILED in an answer that is 200; ``error`` is a text that names the node and what it said."""
    told = clients.drive("python", "run", failing())
    assert one(told, "statuses")["value"][-1] == "FAILED"
    raw = one(told, "raw")["value"]
    assert type(raw["error"]) is str
    assert "HWFail" in raw["error"]
    assert "boom from test node" in raw["error"]


def test_run_sync_of_a_failed_job(clients: Clients) -> None:
    """This client hands on the output alone, so the reason is there too."""
    output = one(clients.drive("python", "run_sync", failing()), "output")["value"]
    assert any("boom from test node" in text for text in output["details"])


def test_a_failed_job_in_javascript(clients: Clients) -> None:
    """Completed and not succeeded, with the reason."""
    value = one(clients.drive("javascript", "runSync", failing()), "result")["value"]
    assert (value["status"], value["completed"], value["succeeded"]) == ("FAILED", True, False)
    assert "boom from test node" in value["error"]


def test_a_request_that_is_refused_is_a_failed_job(clients: Clients, language: str) -> None:
    """No workflow in it: the client gets an id, and under it the text that worker-comfyui's own clients compare."""
    told = clients.drive(language, "run", {})
    if language == "python":
        assert one(told, "raw")["value"]["error"].startswith("Missing 'workflow' parameter")
    else:
        assert one(told, "status")["value"]["error"].startswith("Missing 'workflow' parameter")


def test_a_job_that_nobody_knows_in_javascript(clients: Clients) -> None:
    """404 is raised."""
    told = clients.drive("javascript", "unknown", {})
    for kind in ("status", "cancel"):
        assert one(told, kind)["status"] == 404


def test_a_wrong_key(clients: Clients, language: str) -> None:
    """401, which the Python client turns into its RuntimeError."""
    told = clients.drive(language, "refused", picture(1), key="a-key-that-nobody-here-knows")
    if language == "python":
        assert {item["kind"]: item["raised"] for item in told} == dict.fromkeys(
            ("run", "run_sync", "health"), "RuntimeError"
        )
        assert all("401" in item["text"] for item in told)
    else:
        assert {item["kind"]: item["status"] for item in told} == {"run": 401, "health": 401}


# -- asyncio ------------------------------------------------------------------------------------------------------


def test_the_asyncio_client(clients: Clients) -> None:
    """Run, status, output, stream, cancel. It looks at no HTTP status, so every body says how the job is."""
    told = clients.drive("python", "asyncio_client", picture(51, prefix="clients/a"), slow=body(busy(60)))
    assert one(told, "status")["value"] in ("IN_QUEUE", "IN_PROGRESS", "COMPLETED")
    output = one(told, "output")
    check_picture(output["value"], "a_00001_.png")
    assert output["status"] == "COMPLETED"
    assert one(told, "streamed")
    assert one(told, "cancelled")["value"]["status"] == "CANCELLED"
    assert one(told, "status of the cancelled")["value"] == "CANCELLED"
    assert one(told, "unknown")["value"] == "FAILED"
