"""A worker that launches its own ComfyUI: what it survives. One process serves the file; faults need restarts."""

import base64
import json
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.comfyui_fixture import NODES
from tests.integration.faults import alive
from tests.integration.harness import WorkerProcess, calling, held, launching, picture, worker
from tests.integration.mishaps import cared

pytestmark = pytest.mark.comfyui


@pytest.fixture(scope="module")
def standalone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerProcess]:
    """Standalone, its own ComfyUI with the test nodes, quick to restart."""
    workspace = tmp_path_factory.mktemp("standalone")
    paths = workspace / "extra_paths.yaml"
    paths.write_text(f"tests:\n    custom_nodes: {NODES}\n")
    with worker(
        workspace,
        **launching(),
        COMFYUI_ARGS=f"--extra-model-paths-config {paths}",
        COMFYUI_RESTART_BACKOFF_S="0.2",
        COMFYUI_INTERRUPT_TIMEOUT_S="4",
        DRAIN_TIMEOUT_S="100",
    ) as process:
        yield process


def comfyui_pid(process: WorkerProcess) -> int:
    """The ComfyUI that this worker launched, by its run record."""
    return int(json.loads((process.workspace / "run" / "comfyui-1.json").read_text())["pid"])


class Call(threading.Thread):
    """A request under way."""

    def __init__(self, process: WorkerProcess, fields: dict[str, Any]) -> None:
        super().__init__(daemon=True)
        self.process, self.fields = process, fields
        self.reply: requests.Response | None = None
        self.start()

    def run(self) -> None:
        self.reply = self.process.generate(self.fields, timeout=240)

    def result(self, timeout_s: float = 240) -> requests.Response:
        self.join(timeout_s)
        assert self.reply is not None, f"no answer within {timeout_s:g} s:\n{self.process.tail()}"
        return self.reply


def running(process: WorkerProcess) -> bool:
    return bool(process.health()["queues"]["running"])


def test_the_summary_names_what_a_person_needs(standalone: WorkerProcess) -> None:
    """Addresses, score, docs page and a line to paste; the pasted line works."""
    standalone.wait_for(lambda: "Paste this" in standalone.log.read_text(), "summarised")
    text = standalone.log.read_text()
    assert f"{standalone.api}/docs" in text
    assert "Score" in text
    line = next(line.strip() for line in text.splitlines() if line.strip().startswith("curl -s"))
    output = subprocess.run(["bash", "-c", line], capture_output=True, check=True).stdout
    result = json.loads(output)
    assert result["status"] == "completed"
    assert Path(result["output"][0]["local_path"]).read_bytes().startswith(b"\x89PNG")


def test_a_job_that_nobody_knows_is_told_in_the_wrappers_words(standalone: WorkerProcess) -> None:
    """On the paths that several APIs have, too: a failed result, and for cancel an error text."""
    result = standalone.get("/result/nobody")
    assert (result.status_code, result.json()["message"]) == (404, "Request ID not found")
    cancelled = requests.post(f"{standalone.api}/cancel/nobody", timeout=60)
    assert (cancelled.status_code, cancelled.json()) == (404, {"error": "Request nobody not found"})


def test_base64_is_the_file(standalone: WorkerProcess) -> None:
    """What is inlined is byte for byte what lies on disk; names are the caller's own."""
    fields = {"request_id": "inline", "workflow_json": picture(9, prefix="a/b"), "return_outputs_as_base64": True}
    (output,) = standalone.generate(fields).json()["output"]
    assert (output["filename"], output["subfolder"]) == ("b_00001_.png", "a")
    assert base64.b64decode(output["data"]) == Path(output["local_path"]).read_bytes()
    assert output["mimetype"] == "image/png"


def test_kill_of_comfyui_during_a_job(standalone: WorkerProcess, gate: Path) -> None:
    """kill -9 while a job runs and another is pending: both are completed after the restart."""
    first = Call(standalone, {"workflow_json": held(gate)})
    standalone.wait_for(lambda: running(standalone), "running")
    second = Call(standalone, {"workflow_json": picture(10)})
    standalone.wait_for(lambda: standalone.health()["queues"]["generation"] == 1, "queued behind it")
    os.kill(comfyui_pid(standalone), signal.SIGKILL)
    standalone.wait_for(lambda: standalone.get("/ready").status_code == 503, "not ready")
    gate.touch()
    for call in (first, second):
        reply = call.result()
        assert reply.status_code == 200, reply.text
        assert reply.json()["status"] == "completed"
    standalone.wait_ready()
    assert cared(standalone) == {"restarted_died": 1}
    assert "restarted_died" in standalone.log.read_text()


def test_a_job_that_kills_comfyui_twice_is_failed_with_the_cause(standalone: WorkerProcess) -> None:
    """Resubmitted once, then failed; its neighbours and the worker live on."""
    graph = picture(11) | {"3": {"class_type": "HWFail", "inputs": {"image": ["1", 0], "kind": "crash"}}}
    graph["2"]["inputs"]["images"] = ["3", 0]
    reply = standalone.generate({"workflow_json": graph}, timeout=240)
    assert reply.status_code == 500
    assert reply.json()["error"] == "engine_died"
    assert "134" in reply.json()["message"]
    standalone.wait_ready()
    assert standalone.generate({"workflow_json": picture(12)}).status_code == 200


def test_a_dead_executor_is_noticed(standalone: WorkerProcess) -> None:
    """A node that ends ComfyUI's only worker thread: HTTP still answers, the watchdog restarts it."""
    graph = picture(13) | {"3": {"class_type": "HWFail", "inputs": {"image": ["1", 0], "kind": "sysexit"}}}
    graph["2"]["inputs"]["images"] = ["3", 0]
    before = comfyui_pid(standalone)
    call = Call(standalone, {"workflow_json": graph})
    standalone.wait_for(lambda: running(standalone), "running")
    neighbour = Call(standalone, {"workflow_json": picture(14)})
    assert neighbour.result().status_code == 200
    assert call.result().json()["status"] == "failed"
    assert comfyui_pid(standalone) != before
    standalone.wait_ready()
    assert cared(standalone)["restarted_executor"] >= 1
    assert "restarted_executor" in standalone.log.read_text()


def test_a_node_that_ignores_the_interrupt_costs_a_restart(standalone: WorkerProcess) -> None:
    """The client leaves, the node goes on: after the time allowed ComfyUI is restarted."""
    graph = picture(15) | {"3": {"class_type": "HWStubborn", "inputs": {"image": ["1", 0], "seconds": 300.0}}}
    graph["2"]["inputs"]["images"] = ["3", 0]
    before = comfyui_pid(standalone)
    with calling(f"{standalone.api}/generate/sync", {"input": {"workflow_json": graph, "request_id": "deaf"}}):
        standalone.wait_for(
            lambda: standalone.get("/jobs/deaf").json().get("progress", {}).get("node_id") == "3", "at it"
        )
    assert standalone.generate({"workflow_json": picture(16)}, timeout=240).status_code == 200
    assert comfyui_pid(standalone) != before
    standalone.wait_ready()
    assert cared(standalone)["restarted_stuck"] == 1
    assert "a node ignored the interrupt" in standalone.log.read_text()


def test_a_killed_worker_finds_its_comfyui_again(standalone: WorkerProcess) -> None:
    """kill -9 of the worker: the next one takes the running ComfyUI over instead of starting a second."""
    before = comfyui_pid(standalone)
    measured = standalone.health()["benchmark"]
    assert standalone.process is not None
    standalone.process.kill()
    standalone.process.wait()
    assert alive(before)
    standalone.start()
    standalone.wait_ready()
    assert comfyui_pid(standalone) == before
    assert standalone.generate({"workflow_json": picture(17)}).status_code == 200
    score = standalone.health()["benchmark"]
    assert score["cached"] is not measured["from_warmup"]  # on a very slow host only the warm-up was measured


def test_sigterm_drains(standalone: WorkerProcess, gate: Path) -> None:
    """A running job ends, new ones are refused, nothing of ours is left; runs last, it ends the worker."""
    pid = comfyui_pid(standalone)
    call = Call(standalone, {"workflow_json": held(gate, color=18)})
    standalone.wait_for(lambda: running(standalone), "running")
    assert standalone.process is not None
    standalone.process.send_signal(signal.SIGTERM)
    standalone.wait_for(lambda: "shutting down" in standalone.get("/ready").text, "draining")
    assert standalone.generate({"workflow_json": picture(19)}).status_code == 503
    gate.touch()
    assert call.result().json()["status"] == "completed"
    assert standalone.process.wait(120) == 0
    assert not alive(pid)
