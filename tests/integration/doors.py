"""Both doors of a worker under test (the API listener and the signed envelope), and the hosts it is sent to."""

import asyncio
import itertools
import json
import threading
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import requests

from tests.comfyui_fixture import RealComfyUI, free_port
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
        self.auth: dict[str, Any] = requests.post(f"{router}/route/", json=ticket, timeout=10).json()

    def send(self, door: Door, body: Mapping[str, Any] | bytes, *, timeout_s: float = 60) -> requests.Response:
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


@contextmanager
def fleet(folder: Path, comfyui: str, **env: str) -> Iterator[Doors]:
    """A serverless worker on a running ComfyUI, with an autoscaler of its own; its score is of a tiny picture."""
    public = free_port()
    measured = folder / "measured.json"
    measured.write_text(json.dumps(picture(prefix="measured/__RANDOM_INT__")))
    with (
        autoscaler() as router,
        worker(
            folder,
            COMFYUI_API_BASE=comfyui,
            SERVERLESS="true",
            REPORT_ADDR=router,
            CONTAINER_ID="7",
            MASTER_TOKEN="master-token",
            PUBLIC_IPADDR="127.0.0.1",
            WORKER_PORT=str(public),
            WORKER_HOST="127.0.0.1",
            USE_SSL="false",
            BENCHMARK_JSON_PATH=str(measured),
            **env,
        ) as process,
    ):
        process.public = f"http://127.0.0.1:{public}"
        yield Doors(process, router)


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
    assert started.wait(10)
    try:
        yield host
    finally:
        loop.call_soon_threadsafe(ending.set)
        thread.join(10)
        loop.close()


def posted_count(comfyui: RealComfyUI) -> int:
    """How many prompts this ComfyUI was ever sent, refused ones and this question itself included."""
    graph = {
        "1": {"class_type": "PrimitiveString", "inputs": {"value": "x"}},
        "2": {"class_type": "PreviewAny", "inputs": {"source": ["1", 0]}},
    }
    body = {"prompt": graph, "prompt_id": str(uuid.uuid4()), "client_id": "counting"}
    return int(requests.post(f"{comfyui.base_url}/prompt", json=body, timeout=10).json()["number"])
