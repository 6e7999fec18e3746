"""The whole worker as a process, as an operator starts it, and the peers it talks to."""

import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests

from tests.comfyui_fixture import REPOSITORY, free_port, install_record

START_TIMEOUT_S = 180.0
INHERITED = ("PATH", "HOME", "LANG", "OMP_WAIT_POLICY")
BENCHMARK = {
    "BENCHMARK_TEST_WIDTH": "64",
    "BENCHMARK_TEST_HEIGHT": "64",
    "BENCHMARK_TEST_STEPS": "1",
    "BENCHMARK_BUDGET_S": "8",
}
"""The boot benchmark of workers under test: real, and as small as it gets."""


class WorkerProcess:
    """``workers/comfyui-json/worker.py`` in a workspace of its own; standalone unless ``env`` says otherwise."""

    def __init__(self, workspace: Path, env: Mapping[str, str]) -> None:
        self.workspace = workspace
        self.api = f"http://127.0.0.1:{free_port()}"
        self.public = f"http://127.0.0.1:{free_port()}"
        self.plain = f"http://127.0.0.1:{free_port()}"
        self.log = workspace / "worker.log"
        self.env = {
            **{name: os.environ[name] for name in INHERITED if name in os.environ},
            "PYTHONUNBUFFERED": "1",
            "PYWORKER_HOST_READY": "1",
            "WORKSPACE_DIR": str(workspace),
            "API_PORT": self.api.rsplit(":", 1)[1],
            "WORKER_PORT": self.public.rsplit(":", 1)[1],
            "WORKER_HTTP_PORT": self.plain.rsplit(":", 1)[1],
            **BENCHMARK,
            **env,
        }
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it; return at once."""
        with self.log.open("ab") as log:
            command = [sys.executable, str(REPOSITORY / "workers" / "comfyui-json" / "worker.py")]
            self.process = subprocess.Popen(command, env=self.env, stdout=log, stderr=log)

    def wait_ready(self, timeout_s: float = START_TIMEOUT_S) -> None:
        """Return when ``/ready`` is 200."""
        self.wait_for(lambda: self.get("/ready").status_code == 200, "ready", timeout_s)

    def wait_for(self, condition: Any, what: str, timeout_s: float = 60.0) -> None:
        """Ask until ``condition`` holds; fail with the log when the process ends or the time is over."""
        until = time.monotonic() + timeout_s
        while time.monotonic() < until:
            assert self.process is not None
            assert self.process.poll() is None, f"the worker ended with {self.process.returncode}:\n{self.tail()}"
            try:
                if condition():
                    return
            except (requests.ConnectionError, requests.Timeout):
                pass
            time.sleep(0.05)
        raise AssertionError(f"not {what} within {timeout_s:g} s:\n{self.tail()}")

    def stop(self, timeout_s: float = 120.0) -> int:
        """SIGTERM, as a supervisor does; return the exit status."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise

    def get(self, path: str, **options: Any) -> requests.Response:
        return requests.get(self.api + path, timeout=60, **options)

    def generate(self, fields: Mapping[str, Any], *, timeout: float = 240, **options: Any) -> requests.Response:
        """``POST /generate/sync`` on the API listener."""
        return requests.post(f"{self.api}/generate/sync", json={"input": dict(fields)}, timeout=timeout, **options)

    def health(self) -> dict[str, Any]:
        return dict(self.get("/health").json())

    def tail(self, lines: int = 60) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


def calling(
    url: str, body: Mapping[str, Any], *, headers: Mapping[str, str] | None = None
) -> closing[http.client.HTTPConnection]:
    """POST JSON and wait for nothing; closing what this returns is hanging up."""
    place = urlsplit(url)
    connection = http.client.HTTPConnection(place.netloc, timeout=60)
    connection.request("POST", place.path, json.dumps(body), {"Content-Type": "application/json", **(headers or {})})
    return closing(connection)


@contextmanager
def worker(workspace: Path, **env: str) -> Iterator[WorkerProcess]:
    """A ready worker; whatever it launched ends with it."""
    process = WorkerProcess(workspace, env)
    process.start()
    try:
        process.wait_ready()
        yield process
    finally:
        process.stop()


def launching() -> dict[str, str]:
    """Settings of a worker that launches a ComfyUI of its own, with the test nodes."""
    record = Path(os.environ.get("COMFYUI_TEST_DIR") or REPOSITORY / ".comfyui") / "comfyui.json"
    install_record()
    return {"COMFYUI_INSTALL_RECORD": str(record), "COMFYUI_PORT": "0"}


@contextmanager
def autoscaler(*options: str) -> Iterator[str]:
    """The recording autoscaler as a process; gives its URL."""
    port = free_port()
    command = [sys.executable, "-m", "tests.fakes.autoscaler", "--port", str(port), *options]
    process = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        yield str(json.loads(process.stdout.readline())["url"])
    finally:
        process.terminate()
        process.wait(60)
        process.stdout.close()


def picture(color: int | str = 255, *, prefix: str = "it/w1", **extra: Any) -> dict[str, Any]:
    """The smallest workflow: one 64x64 PNG, no model."""
    return {
        "1": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": color}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": prefix}},
        **extra,
    }


def slow(seconds: float, *, color: int = 7) -> dict[str, Any]:
    """A picture that takes ``seconds``, interruptible at each of its ticks (test node ``HWTicks``)."""
    return {
        "1": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": color}},
        "2": {"class_type": "HWTicks", "inputs": {"image": ["1", 0], "seconds": seconds, "ticks": 50}},
        "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "it/slow"}},
    }


def held(gate: Path, *, color: int = 7) -> dict[str, Any]:
    """A picture that is worked on until the file ``gate`` is there, interruptible meanwhile (test node ``HWHold``)."""
    graph = slow(0, color=color)
    graph["2"] = {"class_type": "HWHold", "inputs": {"image": ["1", 0], "until": str(gate)}}
    return graph
