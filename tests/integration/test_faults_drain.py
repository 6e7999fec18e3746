"""SIGTERM and SIGINT: what ends, what waits for the next life, what callers are told meanwhile."""

import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.comfyui_fixture import RealComfyUI
from tests.integration.faults import MortalWorker, Sync, counted, events, in_queue, mortal, runs_of

pytestmark = pytest.mark.comfyui
LIMIT_S, NO_LIMIT_S = "1", "200"


@pytest.fixture(scope="module")
def lives(real_comfyui: RealComfyUI, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MortalWorker]:
    folder = tmp_path_factory.mktemp("drain")
    with mortal(folder, COMFYUI_API_BASE=real_comfyui.base_url, DRAIN_TIMEOUT_S=NO_LIMIT_S) as process:
        yield process


@pytest.fixture
def worker(lives: MortalWorker) -> MortalWorker:
    """The worker, ready, whatever the test before left of it."""
    assert lives.process is not None
    if lives.process.poll() is not None:
        lives.start()
    lives.wait_ready()
    return lives


@pytest.fixture
def impatient(lives: MortalWorker) -> Iterator[MortalWorker]:
    """A life of the worker with a short limit."""
    lives.stop()
    lives.env["DRAIN_TIMEOUT_S"] = LIMIT_S
    lives.start()
    lives.wait_ready()
    yield lives
    lives.env["DRAIN_TIMEOUT_S"] = NO_LIMIT_S
    lives.stop()


class Reader(threading.Thread):
    """Reads a job's stream to its end."""

    def __init__(self, process: MortalWorker, job: dict[str, Any]) -> None:
        super().__init__(daemon=True)
        self.stream = process.ask("GET", f"/generate/stream/{job['job_id']}", stream=True)
        self.heard: list[dict[str, Any]] = []
        self.start()

    def run(self) -> None:
        with self.stream:
            self.heard += [event for _, event in events(self.stream)]

    def last(self) -> dict[str, Any]:
        self.join(120)
        return self.heard[-1]


def begin(worker: MortalWorker, mark: str, gate: Path) -> dict[str, Any]:
    """A job that runs until the gate is open."""
    job: dict[str, Any] = worker.submit(counted(mark, until=gate))
    worker.wait_for(lambda: worker.running(job["job_id"]), "running")
    return job


def stop(worker: MortalWorker) -> None:
    """Ask it to stop; return once it says that it does."""
    assert worker.process is not None
    worker.process.send_signal(signal.SIGTERM)
    worker.wait_for(lambda: "shutting down" in worker.get("/ready").text, "draining")


def exit_status(worker: MortalWorker) -> int:
    assert worker.process is not None
    return worker.process.wait(120)


def test_sigterm_ends_what_runs_and_keeps_what_waits(
    worker: MortalWorker, real_comfyui: RealComfyUI, gate: Path
) -> None:
    """Admission closes with a Retry-After; running jobs and callers who wait get their results, the rest is recorded
    and runs in the next life. Streams end with a farewell that says so."""
    running = begin(worker, "ends", gate)
    waiting = [worker.submit(counted(mark)) for mark in ("kept one", "kept two")]
    caller = Sync(worker, counted("answered"), request_id="answered")
    worker.wait_for(lambda: worker.get("/result/answered").status_code == 200, "accepted")
    follows, waits = Reader(worker, running), Reader(worker, waiting[0])
    stop(worker)
    refused = worker.ask("POST", "/generate", json={"input": {"workflow_json": counted("late")}})
    assert refused.status_code == 503
    assert int(refused.headers["Retry-After"]) > 0
    assert refused.json()["error"] == "draining"
    assert worker.show(waiting[0]["job_id"])["status"] == "queued"
    gate.touch()
    assert caller.answer().json()["status"] == "completed"
    assert follows.last()["result"]["status"] == "completed"
    assert waits.last()["status"] == "error"
    assert "shutting down" in waits.last()["message"]
    assert exit_status(worker) == 0
    assert [runs_of(real_comfyui, mark) for mark in ("kept one", "kept two", "late")] == [[], [], []]
    worker.start()
    for job in waiting:
        assert worker.ended(job)["status"] == "completed"
    assert worker.ended(running)["status"] == "completed"
    assert [len(runs_of(real_comfyui, mark)) for mark in ("ends", "kept one", "kept two")] == [1, 1, 1]


def test_what_runs_over_the_limit(impatient: MortalWorker, real_comfyui: RealComfyUI, gate: Path) -> None:
    """After the limit a kept job is taken off the GPU and runs again in the next life; the attempt does not count, its
    random number is the same. A caller who waits is sent away with 503."""
    worker = impatient
    long = begin(worker, "too long", gate)
    caller = Sync(worker, counted("sent away"), request_id="sent-away")
    worker.wait_for(lambda: worker.get("/result/sent-away").status_code == 200, "accepted")
    assert worker.process is not None
    worker.process.send_signal(signal.SIGINT)
    reply = caller.answer()
    assert reply.status_code == 503
    assert reply.json()["retryable"] is True
    assert exit_status(worker) == 0
    assert in_queue(real_comfyui, long["job_id"]) is None
    gate.touch()
    worker.start()
    assert worker.ended(long)["status"] == "completed"
    assert worker.show(long["job_id"])["attempts"] == 1
    first, second = runs_of(real_comfyui, "too long")
    assert first == second
    assert worker.get("/result/sent-away").json()["status"] == "failed"


def test_a_second_sigterm_ends_at_once(worker: MortalWorker, real_comfyui: RealComfyUI, gate: Path) -> None:
    """Who can't wait asks twice: it ends as if killed, and nothing is lost; the prompt is followed in the next life."""
    job = begin(worker, "impatient", gate)
    stop(worker)
    assert worker.process is not None
    worker.process.send_signal(signal.SIGTERM)
    assert exit_status(worker) == -signal.SIGTERM
    assert in_queue(real_comfyui, job["job_id"]) == "running"
    gate.touch()
    worker.start()
    assert worker.ended(job)["status"] == "completed"
    assert len(runs_of(real_comfyui, "impatient")) == 1


def test_a_second_worker_on_the_same_state_ends(worker: MortalWorker) -> None:
    """Two workers on one state folder: the second says who has it, and ends; the first works on."""
    ports = dict.fromkeys(("API_PORT", "WORKER_PORT", "WORKER_HTTP_PORT"), "0")
    second = MortalWorker(worker.workspace, worker.env | ports)
    second.log = worker.workspace / "second.log"
    second.start()
    try:
        assert exit_status(second) == 1
    finally:
        second.kill()
    assert f"is in use by another worker (process {worker.pid})" in second.log.read_text()
    assert worker.ended(worker.submit(counted("undisturbed")))["status"] == "completed"
