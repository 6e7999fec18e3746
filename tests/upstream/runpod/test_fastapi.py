"""The tests of the ``runpod`` package's local server (``test_fastapi.py``): the shapes of its answers."""

from typing import Any

from tests.fakes.workflows import picture, through
from tests.integration.runpod import Endpoint, request

FAILING = through("HWFail", kind="value")


def unknown(here: Endpoint, path: str) -> dict[str, Any]:
    """The answer about a job that is not there. The local server says it with 200, RunPod itself with 404; so do we."""
    reply = here.ask("POST", f"/{path}/test_job_id")
    assert reply.status_code == 404
    return dict(reply.json())


def test_start_serverless_with_realtime(here: Endpoint) -> None:
    """An unfinished, undocumented route of the local server, which nobody can reach by a client: not here."""
    assert here.ask("POST", "/test_endpoint_id/realtime", json={"id": "x", "input": {}}).status_code == 404


def test_run(here: Endpoint) -> None:
    """``id`` and ``status`` and no more. It really runs, so the state is RunPod's IN_QUEUE, not IN_PROGRESS."""
    accepted = here.post("/run", request(picture()))
    assert set(accepted) == {"id", "status"}
    assert accepted["status"] == "IN_QUEUE"
    assert here.final(accepted["id"])["status"] == "COMPLETED"


def test_runsync(here: Endpoint) -> None:
    """The local server's three keys, beside RunPod's times; ``error`` when the workflow fails."""
    done = here.post("/runsync", request(picture()))
    assert done["status"] == "COMPLETED"
    assert (
        {"id", "status", "output"} <= set(done) <= {"id", "status", "output", "delayTime", "executionTime", "workerId"}
    )
    assert "error" in here.post("/runsync", request(FAILING))


def test_stream(here: Endpoint) -> None:
    """A list of ``output``; of a job that is not there, FAILED."""
    job_id = here.run(picture())
    output = here.final(job_id)["output"]
    answer = here.post(f"/stream/{job_id}")
    assert (answer["status"], answer["stream"]) == ("COMPLETED", [{"output": output}])
    nobody = unknown(here, "stream")
    assert (nobody["id"], nobody["status"]) == ("test_job_id", "FAILED")


def test_status(here: Endpoint) -> None:
    """By POST too. It can be asked as often as one likes; the local server forgets the job with its first answer."""
    job_id = here.run(picture())
    done = here.final(job_id)
    assert done["status"] == "COMPLETED"
    assert here.post(f"/status/{job_id}") == here.post(f"/status/{job_id}") == done
    nobody = unknown(here, "status")
    assert (nobody["id"], nobody["status"]) == ("test_job_id", "FAILED")
    assert nobody["error"]
    failed = here.run(FAILING)
    assert "error" in here.final(failed)
