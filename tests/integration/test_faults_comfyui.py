"""ComfyUI breaks: what callers, log and metrics say, and that the next job is well.

A worker with a ComfyUI of its own for what the real one can be made to do (its loss under a job, its dead executor and
deaf nodes are in ``test_standalone_worker``), and one attached to a fake for what it can't.
"""

import json
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.comfyui_fixture import NODES
from tests.integration.harness import START_TIMEOUT_S, WorkerProcess, held, launching, picture, slow, worker
from tests.integration.mishaps import Aside, ServicedFake, aside, care_told, cared, logged, metric
from tests.integration.test_standalone_worker import Call, comfyui_pid, running

RECYCLE_AFTER_JOBS = 80


def failing(kind: str, color: int) -> dict[str, Any]:
    """A picture behind a node that fails in this way."""
    graph = picture(color) | {"3": {"class_type": "HWFail", "inputs": {"image": ["1", 0], "kind": kind}}}
    graph["2"]["inputs"]["images"] = ["3", 0]
    return graph


def measured(folder: Path) -> str:
    """The file of a boot benchmark that takes no time."""
    path = folder / "measured.json"
    path.write_text(json.dumps(picture(prefix="measured/__RANDOM_INT__")))
    return str(path)


def completed(process: WorkerProcess, graph: dict[str, Any]) -> dict[str, Any]:
    reply = process.generate({"workflow_json": graph})
    assert reply.status_code == 200, reply.text
    assert reply.json()["status"] == "completed"
    return dict(reply.json())


# -- the real one ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerProcess]:
    """A worker with a ComfyUI of its own, that notices soon."""
    workspace = tmp_path_factory.mktemp("faults")
    paths = workspace / "extra_paths.yaml"
    paths.write_text(f"tests:\n    custom_nodes: {NODES}\n")
    with worker(
        workspace,
        **launching(),
        COMFYUI_ARGS=f"--extra-model-paths-config {paths}",
        COMFYUI_RESTART_BACKOFF_S="0.2",
        COMFYUI_HISTORY_POLL_S="0.5",
        COMFYUI_REQUEST_TIMEOUT_S="2",
        BENCHMARK_JSON_PATH=measured(workspace),
        LOG_FORMAT="json",
    ) as process:
        yield process


@pytest.mark.comfyui
def test_out_of_memory_twice(real: WorkerProcess) -> None:
    """Models are unloaded after each time, the job runs once more, then fails as what it is; its neighbour is well."""
    reply = real.generate({"workflow_json": failing("oom", 1)})
    assert reply.status_code == 500
    body = reply.json()
    assert (body["status"], body["error"]) == ("failed", "out_of_memory")
    assert "Node 3 (HWFail) ran out of memory" in body["message"]
    assert [text for text in body["warnings"] if "resubmitted" in text]
    assert real.get(f"/jobs/{body['id']}").json()["attempts"] == 2
    assert cared(real) == {"freed": 2}
    assert care_told(real) == [("freed", "a job ran out of memory")] * 2
    completed(real, picture(2))


@pytest.mark.comfyui
def test_out_of_memory_once(real: WorkerProcess) -> None:
    """What fits into the memory that was freed is completed; a warning says that it took two runs."""
    before = cared(real).get("freed", 0)
    result = completed(real, failing("oom_once", 3))
    assert "ran out of memory" in result["warnings"][0]
    assert cared(real)["freed"] == before + 1


@pytest.mark.comfyui
def test_comfyui_hangs_for_a_moment(real: WorkerProcess, gate: Path) -> None:
    """Stopped and continued under a job: nothing is restarted, the job is completed by its first run."""
    pid, before = comfyui_pid(real), cared(real)
    call = Call(real, {"workflow_json": held(gate, color=5), "request_id": "moment"})
    real.wait_for(lambda: running(real), "running")
    os.kill(pid, signal.SIGSTOP)
    try:
        with pytest.raises(requests.Timeout):  # it hangs indeed
            requests.get(f"{comfyui_url(real)}/queue", timeout=1)
    finally:
        os.kill(pid, signal.SIGCONT)
    gate.touch()
    assert call.result().json()["status"] == "completed"
    assert real.get("/jobs/moment").json()["attempts"] == 1
    assert (comfyui_pid(real), cared(real)) == (pid, before)


@pytest.mark.comfyui
def test_comfyui_hangs_for_good(real: WorkerProcess, gate: Path) -> None:
    """ComfyUI is restarted; the job that ran is run once more there, the one that waited is completed too."""
    pid = comfyui_pid(real)
    first = Call(real, {"workflow_json": held(gate, color=6), "request_id": "hung"})
    real.wait_for(lambda: running(real), "running")
    waiting = Call(real, {"workflow_json": picture(7)})
    os.kill(pid, signal.SIGSTOP)
    gate.touch()
    result = first.result().json()
    assert result["status"] == "completed"
    assert "did not answer in time" in result["warnings"][0]
    assert real.get("/jobs/hung").json()["attempts"] == 2
    assert waiting.result().json()["status"] == "completed"
    assert comfyui_pid(real) != pid
    assert cared(real)["restarted_stuck"] == 1
    (cause,) = (cause for action, cause in care_told(real) if action == "restarted_stuck")
    assert "does not answer" in cause
    real.wait_ready()


@pytest.mark.comfyui
def test_a_file_that_comfyui_claims_and_never_wrote(real: WorkerProcess) -> None:
    """The history says success and names a file: its entry says that there is none, and has no link."""
    graph = picture(8)
    reported = {"images": [{"filename": "never.png", "subfolder": "", "type": "output"}]}
    graph["3"] = {"class_type": "HWReport", "inputs": {"image": ["1", 0], "ui": json.dumps(reported)}}
    there, missing = completed(real, graph)["output"]
    assert Path(there["local_path"]).exists()
    assert "does not exist" in missing["error"]
    assert "url" not in missing


def comfyui_url(process: WorkerProcess) -> str:
    """Where the ComfyUI of a worker listens."""
    record = json.loads((process.workspace / "run" / "comfyui-1.json").read_text())
    return f"http://127.0.0.1:{record['port']}"


# -- the fake one ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    process: WorkerProcess
    comfyui: Aside[ServicedFake]

    @property
    def fake(self) -> ServicedFake:
        return self.comfyui.server

    def submit(self, graph: dict[str, Any], **fields: Any) -> str:
        body = {"input": {"workflow_json": graph, **fields}}
        reply = requests.post(f"{self.process.api}/generate", json=body, timeout=60)
        assert reply.status_code == 202, reply.text
        return str(reply.json()["job_id"])

    def ended(self, job_id: str) -> dict[str, Any]:
        """The result of a job, once it is over."""
        result: dict[str, Any] = {}

        def over() -> bool:
            result.update(self.process.get(f"/result/{job_id}", params={"wait": 25}).json())
            return result["status"] in ("completed", "failed", "cancelled")

        self.process.wait_for(over, f"the end of {job_id}", START_TIMEOUT_S)
        return result


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("fake-faults")
    with (
        aside(ServicedFake(tmp_path_factory.mktemp("fake"))) as comfyui,
        worker(
            folder,
            COMFYUI_API_BASE=comfyui.server.base_url,
            COMFYUI_RESTART_CMD=comfyui.server.restart_cmd,
            COMFYUI_HISTORY_POLL_S="0.2",
            COMFYUI_REQUEST_TIMEOUT_S="3",
            COMFYUI_RECYCLE_AFTER_JOBS=str(RECYCLE_AFTER_JOBS),
            BENCHMARK_JSON_PATH=measured(folder),
            LOG_FORMAT="json",
        ) as process,
    ):
        yield World(process=process, comfyui=comfyui)


def test_a_socket_that_tells_nothing(world: World) -> None:
    """Open, and silent: the history has to do, and nothing is restarted."""
    world.comfyui.call(world.fake.stall_events)
    try:
        completed(world.process, slow(0.3, color=20))
    finally:
        world.comfyui.call(lambda: world.fake.stall_events(stalled=False))
    assert cared(world.process) == {}
    completed(world.process, picture(21))


def test_a_history_that_is_cut_short(world: World) -> None:
    """Half a JSON object, then the whole: completed, run once."""
    posted = len(world.fake.posted)
    world.fake.wrong.cut_short = {"history": 2}
    completed(world.process, picture(22))
    assert world.fake.wrong.cut_short == {"history": 0}
    assert len(world.fake.posted) == posted + 1


def test_a_hung_comfyui_and_a_time_limit(world: World) -> None:
    """No call is answered and no event comes: the job ends soon after its limit, as what it is."""
    call = Call(world.process, {"workflow_json": slow(30, color=23), "timeout_s": 5})
    world.process.wait_for(lambda: running(world.process), "running")
    world.comfyui.call(world.fake.stall_events)
    world.fake.wrong.hung = True
    reply = call.result()
    assert (reply.status_code, reply.json()["error"]) == (500, "job_timeout")
    assert "5 s" in reply.json()["message"]
    world.fake.wrong.hung = False
    world.comfyui.do(world.fake.kill())
    world.comfyui.call(lambda: world.fake.stall_events(stalled=False))
    world.comfyui.do(world.fake.start())
    world.process.wait_ready()
    completed(world.process, picture(24))


def without_outputs(entry: dict[str, Any]) -> dict[str, Any]:
    return entry | {"prompt": [*entry["prompt"][:4], []], "outputs": {}}


UNREADABLE: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "outputs are a list": (lambda entry: entry | {"outputs": []}, "can't be read"),
    "no status": (lambda entry: {**entry, "status": None}, "can't be read"),
    "success without its outputs": (without_outputs, "did not run output node 2"),
}


@pytest.mark.parametrize("case", UNREADABLE)
def test_a_history_that_makes_no_sense(world: World, case: str) -> None:
    """The job fails and says so, whatever the socket claimed; it is not run again, and the next one is well."""
    spoil, told = UNREADABLE[case]
    posted = len(world.fake.posted)
    world.fake.wrong.spoil = spoil
    try:
        reply = world.process.generate({"workflow_json": picture(30)})
    finally:
        world.fake.wrong.spoil = dict
    assert (reply.status_code, reply.json()["error"]) == (500, "execution_failed")
    assert told in reply.json()["message"]
    assert len(world.fake.posted) == posted + 1
    completed(world.process, picture(31))


@pytest.mark.parametrize("stage", ["executed", "collected"])
def test_the_end_of_comfyui_while_a_job_is(world: World, gate: Path, stage: str) -> None:
    """It ends under one job with a second one pending: not ready meanwhile, then both are completed, the second
    without a word."""
    world.fake.deaths_while_collected = int(stage == "collected")
    first = world.submit(held(gate, color=40))
    world.process.wait_for(lambda: running(world.process), "running")
    second = world.submit(picture(41))
    world.process.wait_for(lambda: len(world.fake.executor.pending) == 1, "pending behind it")
    if stage == "executed":
        world.comfyui.do(world.fake.kill())
    gate.touch()
    world.process.wait_for(lambda: world.process.get("/ready").status_code == 503, "not ready")
    assert metric(world.process, "pyworker_engine_up") == 0
    world.comfyui.do(world.fake.start())
    assert world.ended(first)["status"] == "completed"
    assert [text for text in world.ended(first)["warnings"] if text.startswith("resubmitted")]
    assert world.ended(second)["status"] == "completed"
    assert len(logged(world.process, "job.resubmitted")) >= 1
    world.process.wait_ready()


def test_a_gpu_that_is_lost(world: World) -> None:
    """A fault that leaves ComfyUI without its GPU: it is restarted, and the job runs once more."""
    restarts = world.fake.restarts
    result = completed(world.process, failing("cuda_once", 45))
    assert "illegal memory access" in result["warnings"][0]
    assert world.fake.restarts == restarts + 1
    assert cared(world.process)["restarted_gpu"] == 1
    assert ("restarted_gpu", "the GPU can't be used any more: illegal memory access") in care_told(world.process)


def test_a_job_that_loses_the_gpu_each_time(world: World) -> None:
    """Run once more, then failed with the cause; its neighbour is well."""
    reply = world.process.generate({"workflow_json": failing("cuda", 46)})
    assert (reply.status_code, reply.json()["error"]) == (500, "engine_died")
    assert "CUDA error" in reply.json()["message"]
    world.process.wait_ready()
    completed(world.process, picture(47))


def test_an_executor_that_dies_under_a_job(world: World) -> None:
    """HTTP still answers, nothing runs: ComfyUI's log gives it away, and it is restarted."""
    reply = world.process.generate({"workflow_json": failing("executor", 48)})
    assert (reply.status_code, reply.json()["error"]) == (500, "engine_died")
    assert cared(world.process)["restarted_executor"] == 2
    told = [cause for action, cause in care_told(world.process) if action == "restarted_executor"]
    assert told == ["its executor died under a prompt"] * 2
    world.process.wait_ready()
    completed(world.process, picture(49))


def test_memory_runs_low(world: World) -> None:
    """ComfyUI is asked to unload its models; when there is memory again nothing more is done."""
    plenty, world.fake.ram_free = world.fake.ram_free, 1 << 20
    try:
        completed(world.process, picture(50))
        world.process.wait_for(lambda: cared(world.process).get("freed") == 1, "freed")
    finally:
        world.fake.ram_free = plenty
    assert world.fake.executor.freed == [{"unload_models": True, "free_memory": True}]
    action, cause = care_told(world.process)[-1]
    assert action == "freed"
    assert "of memory is free (COMFYUI_MIN_FREE_MEMORY=0.03)" in cause


def test_a_planned_restart_costs_no_job(world: World) -> None:
    """After so many jobs ComfyUI is restarted between two of them: none is refused, lost, repeated or told of it."""
    troubles, restarts = logged(world.process, "worker.trouble"), world.fake.restarts
    jobs = [world.submit(picture(100 + n)) for n in range(RECYCLE_AFTER_JOBS)]
    while world.fake.restarts == restarts:
        jobs.append(world.submit(slow(0.3, color=len(jobs))))
        world.ended(jobs[-2])
    jobs.append(world.submit(picture(99)))
    results = [world.ended(job) for job in jobs]
    assert {result["status"] for result in results} == {"completed"}
    assert not [result for result in results if "warnings" in result]
    assert world.fake.restarts == restarts + 1
    assert logged(world.process, "worker.trouble") == troubles
    assert cared(world.process)["recycled"] == 1
    (cause,) = (cause for action, cause in care_told(world.process) if action == "recycled")
    assert f"COMFYUI_RECYCLE_AFTER_JOBS={RECYCLE_AFTER_JOBS}" in cause
