"""Salad's lifecycle on a real ComfyUI: CMD, the warm-up by URL, both protocols, probes, ends and restarts, a drain."""

import base64
import json
import os
import shlex
import signal
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests

from lib.comfy.restarts import is_taken
from provisioning.later import note
from provisioning.manifest import parse_manifest
from tests.comfyui_fixture import NODES, RealComfyUI, free_port, install_record
from tests.integration.harness import START_TIMEOUT_S, WorkerProcess
from tests.provisioning.servers import FileServer, serve

pytestmark = pytest.mark.comfyui

UNWELL, WELL = {"status": "not healthy"}, {"status": "healthy"}
NOT_READY, READY = {"status": "not ready"}, {"status": "ready"}


def graph(*, prefix: str, seconds: float = 0.0, color: int = 3368703) -> dict[str, Any]:
    """One small picture; with ``seconds`` it takes so long."""
    picture: list[object] = ["1", 0]
    nodes: dict[str, Any] = {
        "1": {"class_type": "EmptyImage", "inputs": {"width": 32, "height": 32, "batch_size": 1, "color": color}},
    }
    if seconds:
        nodes["3"] = {"class_type": "HWTicks", "inputs": {"image": picture, "seconds": seconds, "ticks": 10}}
        picture = ["3", 0]
    nodes["2"] = {"class_type": "SaveImage", "inputs": {"images": picture, "filename_prefix": prefix}}
    return nodes


@pytest.fixture(scope="module")
def files() -> Iterator[FileServer]:
    with serve() as server:
        server.add("/warm.json", json.dumps(graph(prefix="warm")).encode())
        server.add("/late.bin", b"abc")
        yield server


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory, files: FileServer) -> Iterator[WorkerProcess]:
    """A worker as a Salad user sets it up; just started, not ready."""
    workspace = tmp_path_factory.mktemp("salad")
    record, port = install_record(), free_port()
    models = [
        {"url": f"{files.url}/late.bin", "local_path": str(workspace / "late.bin")},
        {"url": f"{files.url}/gone.bin", "local_path": str(workspace / "gone.bin")},
    ]
    note(workspace, parse_manifest(json.dumps({"models": {"after_start": models}}), name="m.json").parted()[1])
    own = dict(record["env"] or {})  # type: ignore[call-overload]
    told = [f"{name}={value}" for name, value in own.items()]
    folders = [f"--{kind}-directory={workspace / kind}" for kind in ("output", "input", "temp", "user")]
    (workspace / "user").mkdir()
    (workspace / "extra.yaml").write_text(f"tests:\n    custom_nodes: {NODES}\n")
    words = ["env", *told, str(record["python"]), "main.py", "--cpu", "--disable-auto-launch", f"--port={port}"]
    extra = f" --disable-api-nodes --extra-model-paths-config '{workspace}/extra.yaml'"
    worker = WorkerProcess(
        workspace,
        {
            "CMD": shlex.join([*words, *folders, f"--database-url=sqlite:///{workspace}/comfyui.db"]) + extra,
            "COMFY_HOME": str(record["root"]),
            "COMFYUI_PORT_HOST": str(port),
            "COMFYUI_INSTALL_RECORD": str(workspace / "none.json"),
            "OUTPUT_DIR": str(workspace / "output"),
            "INPUT_DIR": str(workspace / "input"),
            "HOST": "::",
            "API_ALLOW_OPEN": "true",
            "PRIMARY_DIALECT": "salad",
            "MAX_QUEUE_DEPTH": "2",
            "WARMUP_PROMPT_URL": f"{files.url}/warm.json",
            "HTTP_AUTH_HEADER_NAME": "X-Key",
            "HTTP_AUTH_HEADER_VALUE": "s3cret",
            "FETCH_ALLOW_HOSTS": "127.0.0.1",
            "LOG_LEVEL": "trace",
            "DRAIN_TIMEOUT_S": "20",
            "SALAD_MACHINE_ID": "m-1",
            "SALAD_METADATA_URL": files.url,
        },
    )
    worker.start()
    yield worker
    worker.stop()


def test_a_warm_up_that_fails_keeps_it_unready(tmp_path: Path, real_comfyui: RealComfyUI) -> None:
    """The operator named it, so no job is taken before it completes; why is said, and it is tried again."""
    path = tmp_path / "warm.json"
    path.write_text(json.dumps({"1": {"class_type": "NoSuchNode", "inputs": {}}}))
    worker = WorkerProcess(
        tmp_path,
        {
            "COMFYUI_API_BASE": real_comfyui.base_url,
            "PRIMARY_DIALECT": "salad",
            "WARMUP_PROMPT_FILE": str(path),
            "BENCHMARK_RETRY_S": "0.2",
        },
    )
    worker.start()
    try:
        worker.wait_for(
            lambda: "The warm-up" in worker.get("/ready").json().get("reason", ""), "refused", START_TIMEOUT_S
        )
        assert probes(worker) == (500, UNWELL, 503, NOT_READY)
        assert "NoSuchNode" in worker.get("/ready").json()["reason"]
    finally:
        assert worker.stop() == 0


def test_a_warm_up_that_can_not_be_read_stops_the_start(tmp_path: Path) -> None:
    """Before ComfyUI is looked for; the variable is named."""
    worker = WorkerProcess(tmp_path, {"WARMUP_PROMPT_URL": f"http://127.0.0.1:{free_port()}/warm?token=s3cret"})
    worker.start()
    assert worker.process is not None and worker.process.wait(START_TIMEOUT_S) == 1
    assert "WARMUP_PROMPT_URL could not be fetched" in worker.tail() and "s3cret" not in worker.tail()


def probes(process: WorkerProcess) -> tuple[int, dict[str, Any], int, dict[str, Any]]:
    """Both, without the version and what only people read."""
    health, ready = process.get("/health"), process.get("/ready")
    seen = []
    for answer in (health, ready):
        body = answer.json()
        assert body["version"]
        seen.append({"status": body["status"]})
    return health.status_code, seen[0], ready.status_code, seen[1]


def prompts(process: WorkerProcess) -> int:
    """How many ComfyUI was given, by its log."""
    return sum(path.read_text(errors="replace").count("got prompt") for path in (process.workspace / "logs").iterdir())


def test_until_the_warm_up_it_is_neither_healthy_nor_ready(process: WorkerProcess) -> None:
    """It listens from the start, on both protocols; balancers of IPv4 and IPv6 hear the same."""
    process.wait_for(lambda: process.get("/ready").status_code, "up", START_TIMEOUT_S)
    assert probes(process) == (500, UNWELL, 503, NOT_READY)
    port = process.env["API_PORT"]
    if socket.has_dualstack_ipv6():
        assert requests.get(f"http://[::1]:{port}/health", timeout=120).status_code == 500
    for host in ("10.1.2.3:80", "lamp-post.salad.cloud"):  # an address of ours, and SaladCloud's gateway
        assert requests.get(f"{process.api}/ready", headers={"Host": host}, timeout=120).status_code == 503


def test_the_warm_up_comes_from_its_url_and_leaves_nothing(process: WorkerProcess, files: FileServer) -> None:
    """With the operator's header, before ComfyUI starts; then it is healthy and ready."""
    process.wait_ready()
    assert probes(process) == (200, WELL, 200, READY)
    (asked,) = files.seen("/warm.json")
    assert asked.headers["X-Key"] == "s3cret"
    assert [path.name for path in (process.workspace / "output").rglob("*") if path.is_file()] == []


def test_a_job_runs_on_what_the_command_started(process: WorkerProcess) -> None:
    """In its folders, which were found; the picture comes back."""
    answer = requests.post(f"{process.api}/prompt", json={"id": "a", "prompt": graph(prefix="ComfyUI")}, timeout=120)
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert body["filenames"] == ["a_ComfyUI_00001_.png"]
    assert base64.b64decode(body["images"][0]).startswith(b"\x89PNG")


def test_what_comes_after_the_start_is_brought_and_told(process: WorkerProcess) -> None:
    """What failed is at /health, and nothing else happens."""
    process.wait_for(lambda: process.health().get("after_start", {}).get("done"), "brought")
    assert "/gone.bin answered 404" in process.health()["after_start"]["error"]
    assert (process.workspace / "late.bin").read_bytes() == b"abc"
    assert process.get("/ready").status_code == 200


def test_a_full_queue_is_not_ready(process: WorkerProcess) -> None:
    """From MAX_QUEUE_DEPTH jobs on, and again when there is room."""
    with ThreadPoolExecutor(2) as pool:
        jobs = [
            pool.submit(
                requests.post,
                f"{process.api}/prompt",
                json={"prompt": graph(prefix="x", seconds=6.0, color=number)},
                timeout=60,
            )
            for number in range(2)
        ]
        process.wait_for(lambda: process.get("/ready").status_code == 503, "full")
        assert probes(process) == (200, WELL, 503, NOT_READY)
        assert [job.result().status_code for job in jobs] == [200, 200]
    process.wait_for(lambda: process.get("/ready").status_code == 200, "ready again")


def test_a_comfyui_that_ends_well_counts_as_ended(process: WorkerProcess) -> None:
    """Exit code 0: not ready, healthy all the same, and then ready with another process, which was warmed up too."""
    before, ran = json.loads((process.workspace / "run" / "comfyui-1.json").read_bytes())["pid"], prompts(process)
    os.kill(before, signal.SIGINT)
    process.wait_for(lambda: process.get("/ready").status_code == 503, "down")
    assert probes(process)[:2] == (200, WELL)
    process.wait_ready()
    after = json.loads((process.workspace / "run" / "comfyui-1.json").read_bytes())["pid"]
    assert after != before and prompts(process) == ran + 1
    assert not [path for path in (process.workspace / "output").rglob("warm*") if path.is_file()]
    answer = requests.post(f"{process.api}/prompt", json={"prompt": graph(prefix="again", color=5)}, timeout=120)
    assert answer.status_code == 200


def test_sigterm_drains_and_takes_the_command_along(process: WorkerProcess, files: FileServer) -> None:
    """Not ready at once; what runs is finished and answered; of the rest the webhooks are told, since nobody starts
    again on the disk of an instance of SaladCloud; the whole family of the command is gone."""
    pid = json.loads((process.workspace / "run" / "comfyui-1.json").read_bytes())["pid"]
    assert process.process is not None
    with ThreadPoolExecutor(1) as pool:
        body = {"prompt": graph(prefix="last", seconds=6.0, color=77)}
        job = pool.submit(requests.post, f"{process.api}/prompt", json=body, timeout=120)
        process.wait_for(lambda: process.health()["queues"]["running"] == 1, "running")
        late = {"id": "late", "prompt": graph(prefix="late", seconds=60.0), "webhook_v2": f"{files.url}/hook"}
        assert requests.post(f"{process.api}/prompt", json=late, timeout=120).status_code == 202
        ended = threading.Thread(target=process.process.wait)
        process.process.send_signal(signal.SIGTERM)
        ended.start()
        process.wait_for(lambda: process.get("/ready").status_code == 503, "draining", 15)
        assert job.result().status_code == 200
    ended.join(150)
    (told,) = files.seen("/hook")
    assert (told.json["type"], told.json["id"]) == ("prompt.failed", "late")
    assert process.process.returncode == 0
    assert not psutil.pid_exists(pid)
    assert not is_taken(int(process.env["COMFYUI_PORT_HOST"]), host="127.0.0.1")
