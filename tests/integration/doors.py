"""Both doors of a worker under test (the API listener and the signed envelope), and the hosts it is sent to."""

import asyncio
import itertools
import json
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import requests

from tests.comfyui_fixture import REPOSITORY, RealComfyUI, free_port
from tests.fakes.http_hosts import WebHost
from tests.integration.harness import WorkerProcess, autoscaler, picture, worker

Door = Literal["api", "public"]
DOORS: tuple[Door, ...] = ("api", "public")
ROUTE = "/generate/sync"
_NUMBERS = itertools.count(700_000)
"""Router ids; each request has its own, else the worker would answer a second one with the first one's result."""


class Doors:
    """Sends bare requests to the API listener, and the same ones in signed envelopes to the public listener."""

    def __init__(self, process: WorkerProcess, router: str) -> None:
        self.process = process
        self.router = router
        ticket = {"endpoint": "ep", "api_key": "endpoint-key", "cost": 100, "request_idx": 0}
        process.wait_for(lambda: any(report["loadtime"] for report in reports(router)), "reported as loaded")
        self.auth: dict[str, Any] = requests.post(f"{router}/route/", json=ticket, timeout=60).json()

    def send(self, door: Door, body: Mapping[str, Any] | bytes, *, timeout_s: float = 240) -> requests.Response:
        """POST ``{"input": ...}``, or bytes that stand in its place, through a door."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        if door == "public":
            auth = json.dumps(self.ticket()).encode()
            data = b'{"auth_data": ' + auth + b', "session_id": null, "payload": ' + data + b"}"
        return self.post(door, data, timeout_s=timeout_s)

    def post(self, door: Door, data: Any, *, timeout_s: float = 60, **headers: str) -> requests.Response:
        """POST a whole body as it is."""
        base = self.process.api if door == "api" else self.process.public
        headers = {"Content-Type": "application/json", **headers}
        return requests.post(base + ROUTE, data=data, headers=headers, timeout=timeout_s)

    def ticket(self) -> dict[str, Any]:
        """A signed ``auth_data`` with a number of its own; the signature covers the URL alone."""
        return self.auth | {"request_idx": next(_NUMBERS)}


def fleet_settings(folder: Path, router: str) -> dict[str, str]:
    """Serverless, no TLS; the score is of a tiny picture."""
    measured = folder / "measured.json"
    measured.write_text(json.dumps(picture(prefix="measured/__RANDOM_INT__")))
    return {
        "SERVERLESS": "true",
        "REPORT_ADDR": router,
        "CONTAINER_ID": "7",
        "MASTER_TOKEN": "master-token",
        "PUBLIC_IPADDR": "127.0.0.1",
        "WORKER_PORT": str(free_port()),
        "WORKER_HOST": "127.0.0.1",
        "USE_SSL": "false",
        "BENCHMARK_JSON_PATH": str(measured),
    }


@contextmanager
def fleet(folder: Path, comfyui: str, **env: str) -> Iterator[Doors]:
    """A worker on one or more running ComfyUIs (comma list), with an autoscaler of its own."""
    with autoscaler() as router:
        settings = fleet_settings(folder, router) | {"COMFYUI_BACKENDS": comfyui} | env
        with worker(folder, **settings) as process:
            process.public = f"http://127.0.0.1:{settings['WORKER_PORT']}"
            yield Doors(process, router)


def reports(router: str) -> list[dict[str, Any]]:
    """What an autoscaler was told so far, oldest first."""
    return list(requests.get(f"{router}/recorded/", timeout=60).json()["statuses"])


class FakeEngine:
    """The fake ComfyUI as a process; ``kill`` and ``start`` end it and bring it back on its port."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.base_url = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "tests.fakes.comfyui", "--port", str(self.port), "--folder", str(self.folder)]
        self.process = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE)
        assert self.process.stdout is not None
        assert self.process.stdout.readline()

    def kill(self) -> None:
        if self.process is not None and self.process.stdout is not None:
            self.process.kill()
            self.process.wait()
            self.process.stdout.close()


@contextmanager
def fake_engines(*folders: Path) -> Iterator[list[FakeEngine]]:
    """Fake ComfyUIs, one a folder."""
    engines = [FakeEngine(folder) for folder in folders]
    try:
        for engine in engines:
            engine.start()
        yield engines
    finally:
        for engine in engines:
            engine.kill()


@contextmanager
def foreign_host() -> Iterator[WebHost]:
    """A web host with an event loop in a thread of its own, for tests that block."""
    host, started, loop = WebHost(), threading.Event(), asyncio.new_event_loop()
    ending = asyncio.Event()

    async def serve() -> None:
        async with host:
            started.set()
            await ending.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()), daemon=True)
    thread.start()
    assert started.wait(60)
    try:
        yield host
    finally:
        loop.call_soon_threadsafe(ending.set)
        thread.join(60)
        loop.close()


def posted_count(comfyui: RealComfyUI) -> int:
    """How many prompts this ComfyUI was ever sent, refused ones and this question itself included."""
    graph = {
        "1": {"class_type": "PrimitiveString", "inputs": {"value": "x"}},
        "2": {"class_type": "PreviewAny", "inputs": {"source": ["1", 0]}},
    }
    body = {"prompt": graph, "prompt_id": str(uuid.uuid4()), "client_id": "counting"}
    return int(requests.post(f"{comfyui.base_url}/prompt", json=body, timeout=60).json()["number"])
