"""Callers who hang up at every stage, and callers who ask twice. The real ComfyUI, the operator's S3."""

import http.client
import json
import socket
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests

from tests.comfyui_fixture import RealComfyUI
from tests.integration.faults import (
    Elsewhere,
    MortalWorker,
    counted,
    elsewhere,
    events,
    in_queue,
    mortal,
    runs_of,
    wait_until,
)
from tests.integration.harness import calling
from tests.s3_fixture import S3Server

pytestmark = pytest.mark.comfyui


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    worker: MortalWorker
    comfyui: RealComfyUI
    host: Elsewhere
    bucket: S3Server

    def runs(self, mark: str) -> int:
        return len(runs_of(self.comfyui, mark))

    def accepted(self, request_id: str) -> dict[str, Any]:
        """A job, once it is there, by the name that its caller gave it."""
        self.worker.wait_for(lambda: self.worker.get(f"/jobs/{request_id}").status_code == 200, "accepted")
        return self.worker.show(request_id)

    def busy(self, mark: str, until: Path) -> dict[str, Any]:
        """A job that runs, so that others wait."""
        job: dict[str, Any] = self.worker.submit(counted(mark, until=until))
        self.worker.wait_for(lambda: self.worker.running(job["job_id"]), "running")
        return job

    def call(
        self, path: str, graph: Mapping[str, Any], *, headers: Mapping[str, str] | None = None, **fields: Any
    ) -> closing[http.client.HTTPConnection]:
        """Send a request and wait for nothing; closing what this returns is hanging up."""
        return calling(self.worker.api + path, {"input": {"workflow_json": graph, **fields}}, headers=headers)


@pytest.fixture(scope="module")
def world(
    real_comfyui: RealComfyUI, nanio_server: S3Server, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[World]:
    with (
        elsewhere() as host,
        mortal(
            tmp_path_factory.mktemp("clients"),
            COMFYUI_API_BASE=real_comfyui.base_url,
            FETCH_ALLOW_HOSTS="127.0.0.1",
            S3_ACCESS_KEY_ID=nanio_server.access_key_id,
            S3_SECRET_ACCESS_KEY=nanio_server.secret_access_key,
            S3_BUCKET_NAME="outputs",
            S3_ENDPOINT_URL=nanio_server.endpoint_url,
            S3_REGION="us-east-1",
            S3_KEY_PREFIX="faults/",
        ) as worker,
    ):
        yield World(worker=worker, comfyui=real_comfyui, host=host, bucket=nanio_server)


# -- callers who leave ---------------------------------------------------------------------------------------------


def test_a_body_that_breaks_off(world: World) -> None:
    """Half a body and a closed connection: no job, and the next caller is served."""
    before = world.worker.get("/jobs").json()["jobs"]
    netloc = urlsplit(world.worker.api)
    with socket.create_connection((netloc.hostname or "", netloc.port or 0)) as connection:
        head = f"POST /generate/sync HTTP/1.1\r\nHost: {netloc.netloc}\r\nContent-Type: application/json\r\n"
        connection.sendall(f'{head}Content-Length: 100000\r\n\r\n{{"input": {{'.encode())
    assert world.worker.ended(world.worker.submit(counted("after half a body")))["status"] == "completed"
    assert len(world.worker.get("/jobs").json()["jobs"]) == len(before) + 1


def test_leaving_while_an_input_is_fetched(world: World) -> None:
    """The fetch is given up, the job ends cancelled and never runs."""
    source = {"class_type": "LoadImage", "inputs": {"image": f"{world.host.url}/held/left.png"}}
    with world.call("/generate/sync", counted("left fetching", source=source), request_id="left-fetching"):
        job = world.accepted("left-fetching")
        wait_until(lambda: bool(world.host.asked("/held/left.png")), "fetching")
    assert world.worker.ended(job)["status"] == "cancelled"
    assert world.runs("left fetching") == 0


def test_leaving_while_the_job_waits(world: World, gate: Path) -> None:
    """It ends cancelled and never runs."""
    busy = world.busy("before the one who left", gate)
    with world.call("/generate/sync", counted("left in line"), request_id="left-in-line"):
        job = world.accepted("left-in-line")
    assert world.worker.ended(job)["status"] == "cancelled"
    gate.touch()
    assert world.worker.ended(busy)["status"] == "completed"
    assert world.runs("left in line") == 0


def test_leaving_while_the_job_runs(world: World) -> None:
    """The GPU is free again at once; the next job runs."""
    with world.call("/generate/sync", counted("left running", seconds=60), request_id="left-running"):
        job = world.accepted("left-running")
        world.worker.wait_for(lambda: world.worker.running(job["job_id"]), "running")
    assert world.worker.ended(job)["status"] == "cancelled"
    assert in_queue(world.comfyui, job["job_id"]) is None
    assert world.worker.ended(world.worker.submit(counted("next")))["status"] == "completed"


def test_leaving_while_the_job_is_delivered(world: World) -> None:
    """The upload is broken off, the job ends cancelled."""
    upload = {"put_urls": [f"{world.host.url}/held/left"]}
    with world.call("/generate/sync", counted("left at the door"), request_id="left-at-the-door", upload=upload):
        wait_until(lambda: bool(world.host.asked("/held/left")), "uploading")
        job = world.accepted("left-at-the-door")
    result = world.worker.ended(job)
    assert result["status"] == "cancelled"
    assert all(entry.get("url") is None for entry in result["output"])


def test_one_of_two_callers_leaves(world: World, gate: Path) -> None:
    """Both asked for the same job: it goes on for the one who stayed."""
    graph = counted("shared", until=gate)
    with world.call("/generate/sync", graph, request_id="shared") as first:
        job = world.accepted("shared")
        with world.call("/generate/sync", graph, request_id="shared") as other:
            world.worker.submit(counted("after both"))  # through the same door, behind them
            world.worker.wait_for(lambda: world.worker.running(job["job_id"]), "running")
            first.close()
            world.worker.submit(counted("after one"))  # and behind his leaving
            gate.touch()
            assert json.loads(other.getresponse().read())["status"] == "completed"
    assert world.runs("shared") == 1


def test_leaving_a_stream(world: World) -> None:
    """Who stops reading events leaves his job alone."""
    body = {"input": {"workflow_json": counted("streamed", seconds=0.5)}}
    with world.worker.ask("POST", "/generate/stream", json=body, stream=True) as stream:
        _, first = next(events(stream))
    assert world.worker.ended(first)["status"] == "completed"
    assert world.runs("streamed") == 1


def test_leaving_a_long_poll(world: World, gate: Path) -> None:
    """Who asked with ?wait= and left changes nothing."""
    job = world.worker.submit(counted("polled", until=gate))
    with pytest.raises(requests.ReadTimeout):
        requests.get(f"{job['status_url']}&wait=30", timeout=0.5)
    gate.touch()
    assert world.worker.ended(job)["status"] == "completed"


def test_leaving_with_an_idempotency_key(world: World, gate: Path) -> None:
    """Who sent a key means to ask again: the job goes on without him, and he gets its result."""
    headers = {"Idempotency-Key": "left"}
    graph = counted("left with a key", until=gate)
    with world.call("/generate/sync", graph, request_id="left-with-a-key", headers=headers):
        job = world.accepted("left-with-a-key")
        world.worker.wait_for(lambda: world.worker.running(job["job_id"]), "running")
    world.worker.submit(counted("after the one with a key"))  # through the same door, behind his leaving
    gate.touch()
    assert world.worker.ended(job)["status"] == "completed"
    body = {"input": {"workflow_json": graph, "request_id": "left-with-a-key"}}
    again = world.worker.ask("POST", "/generate/sync", json=body, headers=headers)
    assert again.status_code == 200
    assert again.headers["Idempotency-Replayed"] == "true"
    assert again.json() == world.worker.ended(job)
    assert world.runs("left with a key") == 1


# -- callers who ask twice -----------------------------------------------------------------------------------------


def test_the_same_request_twice(world: World, gate: Path) -> None:
    """While it lives the second one is the first one; another body under its id is refused, with where to ask."""
    graph = counted("twice", until=gate)
    first = world.worker.submit(graph, request_id="twice")
    second = world.worker.submit(graph, request_id="twice")
    assert second["job_id"] == first["job_id"]
    other = {"input": {"workflow_json": counted("thrice"), "request_id": "twice"}}
    refused = world.worker.ask("POST", "/generate", json=other)
    assert refused.status_code == 409
    assert refused.json()["error"] == "job_conflict"
    assert refused.json()["status_url"] == first["status_url"]
    gate.touch()
    assert world.worker.ended(first)["status"] == "completed"
    assert (world.runs("twice"), world.runs("thrice")) == (1, 0)


def test_a_finished_request_runs_again(world: World) -> None:
    """As its second run, with a random number and storage keys of its own: what was handed out stays as it was."""
    graph = counted("anew")
    results = [world.worker.ended(world.worker.submit(graph, request_id="anew")) for _ in range(2)]
    urls = [result["output"][0]["url"] for result in results]
    names = [result["output"][0]["filename"] for result in results]
    paths = [urlsplit(url).path.rpartition("/outputs/")[2] for url in urls]
    assert paths == [f"faults/anew/{names[0]}", f"faults/anew/2/{names[1]}"]
    assert all(requests.get(url, timeout=60).content.startswith(b"\x89PNG") for url in urls)
    assert len(set(runs_of(world.comfyui, "anew"))) == 2
    assert world.worker.ask("GET", "/result/anew").json() == results[1]


def test_an_idempotency_key_twice(world: World, gate: Path) -> None:
    """While its job runs 409, once it is over the same answer again, with another body 422; one run in all."""
    headers = {"Idempotency-Key": "asked-twice"}
    graph = counted("keyed twice", until=gate)
    job = world.worker.submit(graph, headers=headers)
    body = {"input": {"workflow_json": graph}}
    running = world.worker.ask("POST", "/generate", json=body, headers=headers)
    assert running.status_code == 409
    assert running.json()["status_url"] == job["status_url"]
    gate.touch()
    result = world.worker.ended(job)
    again = world.worker.submit(graph, headers=headers)
    assert (again["job_id"], again["status"], again["output"]) == (job["job_id"], "completed", result["output"])
    other = world.worker.ask(
        "POST", "/generate", json={"input": {"workflow_json": counted("another")}}, headers=headers
    )
    assert other.status_code == 422
    assert other.json()["error"] == "idempotency_mismatch"
    assert world.runs("keyed twice") == 1
