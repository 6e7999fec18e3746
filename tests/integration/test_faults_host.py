"""A host in trouble: disks that are full, a clock that is set. The real ComfyUI; what a caller sees, what is kept."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.comfyui_fixture import RealComfyUI
from tests.integration.faults import (
    Elsewhere,
    MortalWorker,
    Sync,
    counted,
    elsewhere,
    mortal,
    runs_of,
    tally,
    wait_until,
)
from tests.integration.harness import START_TIMEOUT_S
from tests.integration.mishaps import metric

pytestmark = pytest.mark.comfyui
DAY_S = 86400
MANY = 1_000_000
RETRY_MAX_S = 60.0
"""The longest wait between two attempts of a webhook."""
FULL = "the disk of STATE_DIR is full"


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    worker: MortalWorker
    comfyui: RealComfyUI
    host: Elsewhere
    trouble: Path

    @contextmanager
    def full_disk(self) -> Iterator[None]:
        """The job store's disk has no room meanwhile."""
        (self.trouble / "full").touch()
        try:
            yield
        finally:
            (self.trouble / "full").unlink()

    def set_clock(self, ahead_s: float) -> None:
        """Somebody sets the host's wall clock."""
        moved = self.trouble / "ahead.new"
        moved.write_text(str(ahead_s))
        moved.rename(self.trouble / "ahead")

    def restart(self) -> None:
        self.worker.kill()
        self.worker.start()
        self.worker.wait_ready()


@pytest.fixture(scope="module")
def world(real_comfyui: RealComfyUI, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    trouble = tmp_path_factory.mktemp("trouble")
    with (
        elsewhere() as host,
        mortal(
            tmp_path_factory.mktemp("host"),
            COMFYUI_API_BASE=real_comfyui.base_url,
            FETCH_ALLOW_HOSTS="127.0.0.1",
            WEBHOOK_ATTEMPTS="100",
            PYWORKER_TEST_TROUBLE=str(trouble),
        ) as worker,
    ):
        yield World(worker=worker, comfyui=real_comfyui, host=host, trouble=trouble)


@contextmanager
def no_files_above(pid: int, size_bytes: int) -> Iterator[None]:
    """A process may write no file beyond this size, as on a disk without room."""
    before, most = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (size_bytes, most))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (before, most))


def refused(worker: MortalWorker) -> tuple[requests.Response, list[dict[str, Any]]]:
    """The first answer that is no acceptance, and the jobs that used up what was left of the database's pages."""
    accepted: list[dict[str, Any]] = []
    for _ in range(30):
        graph = counted("refused") | {"9": {"class_type": "Note", "inputs": {"text": "x" * 100_000}}}
        reply = worker.ask("POST", "/generate", json={"input": {"workflow_json": graph}})
        if reply.status_code != 202:
            return reply, accepted
        accepted.append(reply.json())
    raise AssertionError("there was always room")


def delivered(worker: MortalWorker) -> float:
    """How many messages were taken, and are on record as such."""
    return metric(worker, "pyworker_webhook_attempts_total", result="delivered")


def hook(world: World, path: str) -> dict[str, Any]:
    return {"url": world.host.url + path}


def test_the_disk_of_the_job_store_is_full(world: World, gate: Path) -> None:
    """New jobs are refused with 503, the reason and a time to come back, and never run; what was accepted ends and is
    told. Admission opens by itself when there is room again, and nothing is missing then, nor after a kill."""
    worker = world.worker
    job = worker.submit(counted("accepted", until=gate), webhook=hook(world, "/told-late"))
    caller = Sync(worker, counted("waited"), request_id="waited")
    worker.wait_for(lambda: worker.get("/jobs/waited").status_code == 200, "accepted")
    with world.full_disk():
        first, accepted = refused(worker)
        assert (first.status_code, first.json()["retryable"]) == (503, True)
        assert FULL in first.json()["message"]
        assert int(first.headers["Retry-After"]) > 0
        assert FULL in worker.get("/ready").text
        second = worker.ask("POST", "/generate", json={"input": {"workflow_json": counted("refused")}})
        assert (second.status_code, second.json()["error"]) == (503, "not_ready")
        assert FULL in second.json()["message"]
        gate.touch()
        assert {worker.ended(one)["status"] for one in (job, *accepted)} == {"completed"}
        assert caller.answer().json()["status"] == "completed"
        assert worker.get(f"/result/{job['job_id']}").json()["status"] == "completed"
    worker.wait_for(lambda: worker.get("/ready").status_code == 200, "ready again")
    assert len(runs_of(world.comfyui, "refused")) == len(accepted)
    wait_until(lambda: bool(world.host.asked("/told-late")), "told")
    wait_until(lambda: delivered(worker) == 1, "on record")
    assert worker.ended(worker.submit(counted("roomy")))["status"] == "completed"
    world.restart()
    assert worker.get(f"/result/{job['job_id']}").json()["status"] == "completed"
    assert worker.get("/result/waited").json()["output"]
    assert [len(runs_of(world.comfyui, mark)) for mark in ("accepted", "waited")] == [1, 1]
    assert len(world.host.asked("/told-late")) == 1


def test_the_disk_of_the_outputs_is_full(world: World) -> None:
    """ComfyUI can't write the picture: that job fails with its words, the next one is completed when there is room."""
    assert world.comfyui.process is not None
    with no_files_above(world.comfyui.process.pid, 10):
        result = world.worker.ended(world.worker.submit(counted("no room")))
    assert result["status"] == "failed"
    assert result["error"] == "execution_failed"
    assert "File too large" in result["message"]
    assert world.worker.ended(world.worker.submit(counted("room again")))["status"] == "completed"


def test_the_disk_of_the_inputs_is_full(world: World) -> None:
    """An input that finds no room fails its job with the reason and leaves nothing behind; next time it is fetched."""
    source = {"class_type": "LoadImage", "inputs": {"image": f"{world.host.url}/large"}}
    inputs = world.worker.workspace / "inputs"
    with no_files_above(world.worker.pid, 8 << 20):
        result = world.worker.ended(world.worker.submit(counted("large", source=source)))
        assert result["status"] == "failed"
        assert "File too large" in result["message"]
        assert not [path for path in inputs.rglob("*") if path.is_file() and path.stat().st_size > 4 << 20]
    assert world.worker.ended(world.worker.submit(counted("large", source=source)))["status"] == "completed"


@pytest.mark.parametrize("days", [2, -2])
def test_the_clock_is_set(world: World, gate: Path, days: int) -> None:
    """While jobs run, and a message waits for its retry: nothing ends early or late, results and streams stay, no time
    is negative."""
    worker, mark = world.worker, f"set {days}"
    done = worker.submit(counted(f"{mark} done"))
    worker.ended(done)
    told, world.host.failures = delivered(worker), MANY
    worker.ended(worker.submit(counted(f"{mark} told"), webhook=hook(world, f"/set{days}")))
    running = worker.submit(counted(f"{mark} running", until=gate))
    worker.wait_for(lambda: worker.running(running["job_id"]), "running")
    waiting = worker.submit(counted(f"{mark} waiting"))
    wait_until(lambda: bool(world.host.asked(f"/set{days}")), "refused")
    world.set_clock(days * DAY_S)
    world.host.failures = 0
    gate.touch()
    try:
        for job in (running, waiting):
            result = worker.ended(job)
            assert result["status"] == "completed"
            assert min(result["timings"].values()) >= 0
        assert worker.get(f"/result/{done['job_id']}").json()["status"] == "completed"
        wait_until(lambda: delivered(worker) == told + 1, "told", 2 * RETRY_MAX_S)
        assert worker.ended(worker.submit(counted(f"{mark} new")))["status"] == "completed"
    finally:
        world.set_clock(0)
        world.host.failures = 0
    assert worker.ended(worker.submit(counted(f"{mark} back")))["status"] == "completed"


def test_the_clock_is_set_back_between_two_lives(world: World, gate: Path) -> None:
    """What the earlier life stamped lies in the future: it counts as of now; waiting jobs keep their order."""
    worker = world.worker
    world.set_clock(2 * DAY_S)
    world.restart()
    done = worker.submit(counted("future done"), request_id="future")
    worker.ended(done)
    marks = [f"future {number}" for number in range(4)]
    jobs = [worker.submit(counted(marks[0], until=gate))]
    worker.wait_for(lambda: worker.running(jobs[0]["job_id"]), "running")
    jobs += [worker.submit(counted(mark)) for mark in marks[1:3]]
    worker.kill()
    world.set_clock(0)
    worker.start()
    worker.wait_for(lambda: worker.running(jobs[0]["job_id"]), "alive", START_TIMEOUT_S)
    gate.touch()
    worker.wait_ready()
    jobs.append(worker.submit(counted(marks[3])))
    for job in jobs:
        result = worker.ended(job)
        assert result["status"] == "completed"
        assert result["timings"]["total_ms"] >= 0
    assert [mark for mark, _ in tally(world.comfyui.folder / "user") if mark in marks] == marks
    assert worker.get("/result/future").json()["status"] == "completed"
    assert worker.show(worker.submit(counted("future done"), request_id="future")["job_id"])["run"] == 2
