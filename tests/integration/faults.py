"""What fault tests do to a worker and its callers, and the host that holds jobs up where a test wants them."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psutil
import requests

from tests.comfyui_fixture import REPOSITORY, RealComfyUI
from tests.fakes.http_hosts import png
from tests.integration.harness import START_TIMEOUT_S, WorkerProcess, picture

TOKEN = "__RANDOM_INT__"


@dataclass(slots=True)
class Elsewhere:
    """A host on loopback. Requests below ``/held/`` wait until ``gate`` is set; GET answers a picture, one of 12 MB at
    ``/large``, everything else 200, after so many ``failures`` (503). ``seen`` is all that arrived: method, path,
    headers, body."""

    gate: threading.Event = field(default_factory=threading.Event)
    seen: list[tuple[str, str, dict[str, str], bytes]] = field(default_factory=list)
    url: str = ""
    failures: int = 0

    def asked(self, path: str) -> list[tuple[dict[str, str], bytes]]:
        """Headers and body of each request for a path so far."""
        return [(headers, body) for _, seen, headers, body in list(self.seen) if seen == path]


@contextmanager
def elsewhere() -> Iterator[Elsewhere]:
    """A host for inputs (GET), files (PUT) and webhooks (POST)."""
    host = Elsewhere()

    class Answer(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            host.seen.append((self.command, self.path, dict(self.headers), body))
            if self.path.startswith("/held/"):
                host.gate.wait(240)
            content = png(8, 8) if self.command == "GET" else b""
            content += bytes(12 << 20 if self.path == "/large" else 0)
            self.send_response(503 if host.failures else 200)
            host.failures = max(host.failures - 1, 0)
            self.send_header("Content-Type", "image/png")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_PUT = do_POST = do_GET

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: Any, client_address: Any) -> None:
            """A worker that was killed leaves its requests."""

    server = Server(("127.0.0.1", 0), Answer)
    host.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield host
    finally:
        host.gate.set()
        server.shutdown()
        thread.join()
        server.server_close()


class MortalWorker(WorkerProcess):
    """A worker that is killed, frozen and started again; ``headers`` go with each of its test's requests."""

    headers: Mapping[str, str] = {}

    def start(self) -> None:
        """Start it; in a host's trouble where its settings name some."""
        if "PYWORKER_TEST_TROUBLE" not in self.env:
            super().start()
            return
        with self.log.open("ab") as log:
            command = [sys.executable, "-m", "tests.fakes.troubled_worker"]
            self.process = subprocess.Popen(command, env=self.env, cwd=REPOSITORY, stdout=log, stderr=log)

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def kill(self) -> None:
        """End it as the kernel's OOM killer does."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def freeze(self) -> None:
        """Stop it where it stands; return once it does."""
        os.kill(self.pid, signal.SIGSTOP)
        wait_until(lambda: psutil.Process(self.pid).status() == psutil.STATUS_STOPPED, "stopped")

    def ask(self, method: str, path: str, **options: Any) -> requests.Response:
        """Any request, with our headers and further ones."""
        headers = {**self.headers, **options.pop("headers", {})}
        url = path if path.startswith("http") else self.api + path
        return requests.request(method, url, headers=headers, timeout=240, **options)

    def submit(self, graph: Mapping[str, Any], *, headers: Mapping[str, str] | None = None, **fields: Any) -> Any:
        """``POST /generate``; return the 202's body."""
        body = {"input": {"workflow_json": graph, **fields}}
        reply = self.ask("POST", "/generate", json=body, headers=headers or {})
        assert reply.status_code == 202, reply.text
        return reply.json()

    def show(self, job_id: str) -> dict[str, Any]:
        """Our own view of a job."""
        return dict(self.ask("GET", f"/jobs/{job_id}").json())

    def running(self, job_id: str) -> bool:
        return bool(self.show(job_id)["status"] == "running")

    def ended(self, job: Mapping[str, Any], timeout_s: float = START_TIMEOUT_S) -> dict[str, Any]:
        """The result of a job that was submitted, once it is over; asked for by the link of its 202."""
        result: dict[str, Any] = {}

        def over() -> bool:
            result.update(self.ask("GET", f"/result/{job['job_id']}", params={"wait": 5}).json())
            return result["status"] in ("completed", "failed", "cancelled")

        self.wait_for(over, f"the end of {job['job_id']}", timeout_s)
        return result


@contextmanager
def mortal(workspace: Path, *, headers: Mapping[str, str] | None = None, **env: str) -> Iterator[MortalWorker]:
    """A ready worker, scored by a tiny picture; whatever a test left of it ends here."""
    measured = workspace / "measured.json"
    measured.write_text(json.dumps(picture(prefix=f"measured/{TOKEN}")))
    process = MortalWorker(workspace, {"BENCHMARK_JSON_PATH": str(measured), **env})
    process.headers = headers or {}
    process.start()
    try:
        process.wait_ready()
        yield process
    finally:
        assert process.process is not None
        if process.process.poll() is None:
            os.kill(process.pid, signal.SIGCONT)
        process.stop()


class Sync(threading.Thread):
    """A caller who waits on ``/generate/sync``; ``leave`` hangs up."""

    def __init__(self, process: MortalWorker, graph: Mapping[str, Any], **fields: Any) -> None:
        super().__init__(daemon=True)
        self.process = process
        self.fields = {"workflow_json": graph, **fields}
        self.reply: requests.Response | None = None
        self.broken = False
        self.start()

    def run(self) -> None:
        try:
            self.reply = self.process.ask("POST", "/generate/sync", json={"input": self.fields})
        except (requests.ConnectionError, requests.Timeout):
            self.broken = True

    def answer(self, timeout_s: float = 240.0) -> requests.Response:
        """What it was told."""
        self.join(timeout_s)
        assert self.reply is not None, f"no answer within {timeout_s:g} s:\n{self.process.tail()}"
        return self.reply


def alive(pid: int) -> bool:
    """Whether it runs; one that ended and that nobody asked after (a zombie) does not."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def wait_until(condition: Callable[[], bool], what: str, timeout_s: float = 60.0) -> None:
    """Ask until ``condition`` holds."""
    until = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < until, f"not {what} within {timeout_s:g} s"
        time.sleep(0.02)


def counted(
    mark: str, *, seconds: float = 0.0, until: Path | None = None, source: dict[str, Any] | None = None
) -> dict[str, Any]:
    """A picture whose execution leaves a line in ComfyUI's tally, ``mark`` and a random number; it takes so many
    ``seconds``, or goes on ``until`` a file is there."""
    first = source or {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": 5}}
    graph = {
        "1": first,
        "2": {"class_type": "HWTally", "inputs": {"image": ["1", 0], "text": f"{mark} {TOKEN}"}},
        "3": {"class_type": "HWTicks", "inputs": {"image": ["2", 0], "seconds": seconds, "ticks": 40}},
        "4": {"class_type": "SaveImage", "inputs": {"images": ["3", 0], "filename_prefix": f"f/{mark}"}},
    }
    if until is not None:
        graph["3"] = {"class_type": "HWHold", "inputs": {"image": ["2", 0], "until": str(until)}}
    elif not seconds:
        del graph["3"]
        graph["4"]["inputs"]["images"] = ["2", 0]
    return graph


def tally(user_folder: Path) -> list[tuple[str, str]]:
    """Mark and random number of every execution, in their order."""
    path = user_folder / "tally.log"
    if not path.exists():
        return []
    return [(mark, number) for mark, _, number in (line.rpartition(" ") for line in path.read_text().splitlines())]


def runs_of(comfyui: RealComfyUI, mark: str) -> list[str]:
    """The random number of each execution of a graph, by its mark."""
    return [number for found, number in tally(comfyui.folder / "user") if found == mark]


def in_queue(comfyui: RealComfyUI, job_id: str) -> str | None:
    """Where ComfyUI has a job's prompt now: ``running``, ``pending``, ``None`` for nowhere."""
    queue = requests.get(f"{comfyui.base_url}/queue", timeout=60).json()
    for place in ("running", "pending"):
        if job_id in json.dumps([entry[1] for entry in queue[f"queue_{place}"]]):
            return place
    return None


def events(stream: requests.Response) -> Iterator[tuple[str, dict[str, Any]]]:
    """Id and data of each event."""
    event_id = ""
    for line in stream.iter_lines():
        name, _, value = line.decode().partition(": ")
        if name == "id":
            event_id = value
        elif name == "data":
            yield event_id, json.loads(value)
