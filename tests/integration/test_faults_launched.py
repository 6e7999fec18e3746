"""kill -9 of a worker that launched its ComfyUI: alone, and both together, as when a machine's memory runs out."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.comfyui_fixture import NODES
from tests.integration.faults import MortalWorker, Sync, alive, counted, mortal, tally, wait_until
from tests.integration.harness import START_TIMEOUT_S, launching

pytestmark = pytest.mark.comfyui


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MortalWorker]:
    workspace = tmp_path_factory.mktemp("launched")
    paths = workspace / "extra_paths.yaml"
    paths.write_text(f"tests:\n    custom_nodes: {NODES}\n")
    with mortal(workspace, **launching(), COMFYUI_ARGS=f"--extra-model-paths-config {paths}") as process:
        yield process


def comfyui_pid(worker: MortalWorker) -> int:
    return int(json.loads((worker.workspace / "run" / "comfyui-1.json").read_text())["pid"])


def runs_of(worker: MortalWorker, *marks: str) -> list[tuple[str, str]]:
    return [run for run in tally(worker.workspace / "user" / "comfyui-1") if run[0] in marks]


def test_the_next_life_takes_comfyui_over(worker: MortalWorker, gate: Path) -> None:
    """ComfyUI works on without the worker: the next one finds process and prompt, and starts nothing twice."""
    running = worker.submit(counted("adopted", until=gate))
    worker.wait_for(lambda: worker.running(running["job_id"]), "running")
    waiting = worker.submit(counted("behind it"))
    pid = comfyui_pid(worker)
    worker.kill()
    worker.start()
    worker.wait_for(lambda: worker.running(running["job_id"]), "followed again", START_TIMEOUT_S)
    gate.touch()
    for job in (running, waiting):
        assert worker.ended(job)["status"] == "completed"
    assert comfyui_pid(worker) == pid
    assert [mark for mark, _ in runs_of(worker, "adopted", "behind it")] == ["adopted", "behind it"]
    assert worker.show(running["job_id"])["attempts"] == 1
    worker.wait_ready()


def test_both_are_killed(worker: MortalWorker, gate: Path) -> None:
    """Worker and ComfyUI die together: what ran runs once more, as the same job; what waited runs after it, once; what
    a caller waited for never does."""
    running = worker.submit(counted("lost", until=gate))
    worker.wait_for(lambda: worker.running(running["job_id"]), "running")
    caller = Sync(worker, counted("nobody's"), request_id="nobodys")
    worker.wait_for(lambda: worker.get("/jobs/nobodys").status_code == 200, "accepted")
    waiting = worker.submit(counted("waits"))
    pid = comfyui_pid(worker)
    worker.kill()
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not alive(pid), "gone")
    caller.join(60)
    gate.touch()
    worker.start()
    results = [worker.ended(job) for job in (running, waiting)]
    assert [result["status"] for result in results] == ["completed", "completed"]
    assert comfyui_pid(worker) != pid
    (first, number), (again, same), (last, _) = runs_of(worker, "lost", "waits", "nobody's")
    assert (first, again, last) == ("lost", "lost", "waits")
    assert number == same
    assert worker.show(running["job_id"])["attempts"] == 2
    assert "resubmitted" in results[0]["warnings"][0]
    assert worker.get("/result/nobodys").json()["status"] == "cancelled"
    worker.wait_ready()
