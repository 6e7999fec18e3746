"""``python -m router`` as an operator starts it, and a worker of few words that reports to it."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import requests

from lib.serving.keyring import digest
from tests.comfyui_fixture import REPOSITORY, free_port

ACCOUNT_KEY = "account-key"
"""The one that ``tests/peers/vast/driver.py`` has; too short for the router's taste, so it gets the hash."""
TOKEN = "worker-token-0123456789"
START_TIMEOUT_S = 30.0


@dataclass
class RouterProcess:
    """A router that runs."""

    url: str
    log: Path

    def logs(self, endpoint: str) -> dict[str, str]:
        """What it tells of an endpoint."""
        return dict(self.call("/get_endpoint_logs/", endpoint=endpoint, tail=-1))

    def workers(self, endpoint: str) -> dict[int, dict[str, Any]]:
        return {one["id"]: one for one in self.call("/get_endpoint_workers/", endpoint=endpoint)}

    def given(self, endpoint: str, worker_id: int) -> int:
        """How often a worker was named to somebody."""
        return self.logs(endpoint)["info1"].count(f"-> {endpoint}/{worker_id} ")

    def tell(self, endpoint: str, path: str, **fields: Any) -> None:
        """Speak as a worker."""
        self.call(f"/e/{endpoint}{path}", mtoken=TOKEN, **fields)

    def call(self, path: str, **fields: Any) -> Any:
        body = {"api_key": ACCOUNT_KEY, **fields}
        reply = requests.post(self.url + path, json=body, timeout=10)
        assert reply.status_code == 200, reply.text
        return reply.json()


@contextmanager
def router_process(folder: Path, *endpoints: str) -> Iterator[RouterProcess]:
    """A router with these endpoints."""
    port = free_port()
    url, log = f"http://127.0.0.1:{port}", folder / "router.log"
    env = {
        **{name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ},
        "ROUTER_PORT": str(port),
        "ROUTER_STATE_DIR": str(folder / "state"),
        "ROUTER_ACCOUNT_KEYS": f"sha256:{digest(ACCOUNT_KEY).hex()}",
        "ROUTER_WORKER_TOKENS": TOKEN,
        "ROUTER_ENDPOINTS": json.dumps([{"name": name} for name in endpoints]),
    }
    with log.open("ab") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "router"], cwd=REPOSITORY, env=env, stdout=out, stderr=subprocess.STDOUT
        )
    try:
        _wait(process, url, log)
        yield RouterProcess(url=url, log=log)
    finally:
        process.send_signal(signal.SIGTERM)
        status = process.wait(START_TIMEOUT_S)
    assert status == 0, log.read_text()


def _wait(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    until = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < until and process.poll() is None:
        try:
            if requests.get(f"{url}/ready", timeout=5).status_code == 200:
                return
        except requests.ConnectionError:
            time.sleep(0.05)
    raise AssertionError(f"the router did not start:\n{log.read_text()}")


@dataclass
class TerseWorker:
    """Answers each call with the next of ``statuses`` (the last one for ever), and tells its router as a stock worker
    does: a 429 is ``Rejected``."""

    router: RouterProcess
    endpoint: str
    number: int
    statuses: list[int]
    calls: list[dict[str, Any]] = field(default_factory=list)
    url: str = ""

    def report(self, **changes: Any) -> None:
        fields = {"id": self.number, "version": "1.1.0", "loadtime": 1.0, "max_perf": 100.0, "cur_load": 0.0}
        self.router.tell(self.endpoint, "/worker_status/", **fields | {"url": self.url} | changes)

    def answer(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        self.calls.append(body)
        status = self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]
        said = "Rejected" if status == 429 else "Success" if status == 200 else "Error"
        item = {"request_idx": body["auth_data"]["request_idx"], "success": said == "Success", "status": said}
        self.router.tell(self.endpoint, "/delete_requests/", worker_id=self.number, requests=[item])
        self.report()
        return status, {"said": said}


@contextmanager
def terse_worker(router: RouterProcess, endpoint: str, number: int, *statuses: int) -> Iterator[TerseWorker]:
    """A worker that has reported."""
    worker = TerseWorker(router=router, endpoint=endpoint, number=number, statuses=list(statuses))

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            status, answer = worker.answer(body)
            data = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *said: object) -> None:
            """Not on the terminal."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        worker.url = f"http://127.0.0.1:{server.server_address[1]}"
        worker.report()
        yield worker
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
