"""RunPod's API over plain HTTP, for what its clients don't reach; and graphs to send there."""

import itertools
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import requests

from tests.comfyui_fixture import RealComfyUI
from tests.integration.harness import WorkerProcess, picture, slow, worker

FINAL = ("COMPLETED", "FAILED", "CANCELLED", "TIMED_OUT")
JSON = {"Content-Type": "application/json"}
Answer = dict[str, Any]
T = TypeVar("T")
_COLORS = itertools.count(0x100000)


class Endpoint:
    """A worker as an endpoint. ``prefix``: "" or ``/v2/<any id>``."""

    def __init__(self, process: WorkerProcess, *, prefix: str = "/v2/any", key: str | None = None) -> None:
        self.process = process
        self.prefix = prefix
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}

    def at(self, prefix: str) -> "Endpoint":
        """The same worker by another path."""
        return Endpoint(self.process, prefix=prefix)

    def ask(self, method: str, path: str, *, timeout: float = 150, **options: Any) -> requests.Response:
        """One request; of what it answers no number but those of an output is a float."""
        headers = {**self._headers, **options.pop("headers", {})}
        url = f"{self.process.api}{self.prefix}{path}"
        reply = requests.request(method, url, headers=headers, timeout=timeout, **options)
        if reply.headers["Content-Type"].startswith("application/json"):
            answer = reply.json()
            if self.prefix + path == "/health":  # everybody's document; RunPod's part of it counts
                answer = {key: answer[key] for key in ("jobs", "workers")}
            assert floats(answer) == [], f"{method} {path}"
        return reply

    def get(self, path: str, **options: Any) -> Answer:
        """A GET that is answered with 200."""
        return good(self.ask("GET", path, **options))

    def post(self, path: str, body: Mapping[str, Any] | None = None, **options: Any) -> Answer:
        """A POST that is answered with 200; without ``body`` as Python's client sends it: a type and no content."""
        return good(
            self.ask("POST", path, headers=JSON) if body is None else self.ask("POST", path, json=body, **options)
        )

    def run(self, graph: Mapping[str, Any], **top: Any) -> str:
        """Submit; give the id."""
        accepted = self.post("/run", request(graph, **top))
        assert set(accepted) == {"id", "status"}
        assert accepted["status"] == "IN_QUEUE"
        return str(accepted["id"])

    def run_sync(self, graph: Mapping[str, Any], **top: Any) -> Answer:
        """Submit and wait for the end."""
        return self.post("/runsync", request(graph, **top))

    def output(self, graph: Mapping[str, Any], **top: Any) -> Answer:
        """What a job that is completed gives."""
        answer = self.run_sync(graph, **top)
        assert answer["status"] == "COMPLETED", answer
        return dict(answer["output"])

    def status(self, job_id: str) -> str:
        return str(self.get(f"/status/{job_id}")["status"])

    def final(self, job_id: str, *, wait_s: float = 85) -> Answer:
        """The job when it is over."""
        answer = self.get(f"/status-sync/{job_id}?wait={int(wait_s * 1000)}")
        assert answer["status"] in FINAL, answer
        return answer

    def until(self, job_id: str, status: str, timeout_s: float = 120) -> None:
        self.process.wait_for(lambda: self.status(job_id) == status, f"{job_id} {status}", timeout_s)


def good(reply: requests.Response) -> Answer:
    assert reply.status_code == 200, f"{reply.status_code} {reply.text[:2000]}"
    return dict(reply.json())


def request(graph: Mapping[str, Any], *, images: Any = None, **top: Any) -> dict[str, Any]:
    """A body: the workflow, its ``images``, and keys beside ``input``."""
    return {"input": {"workflow": dict(graph), **({"images": images} if images is not None else {})}, **top}


def floats(value: Any, place: str = "$") -> list[str]:
    """Where numbers are no integers, which RunPod's Go client can't read; an output it takes as it is."""
    match value:
        case float():
            return [place]
        case dict():
            return [found for key, item in value.items() if key != "output" for found in floats(item, f"{place}.{key}")]
        case list():
            return [found for item in value for found in floats(item, f"{place}[]")]
        case _:
            return []


def wait_idle(comfyui: RealComfyUI, timeout_s: float = 50) -> None:
    """Return when ComfyUI neither runs nor holds anything."""
    until = time.monotonic() + timeout_s
    while any(requests.get(f"{comfyui.base_url}/queue", timeout=60).json().values()):
        assert time.monotonic() < until, "ComfyUI still works"
        time.sleep(0.05)


def quickest(ask: Callable[[], T], most_s: float) -> tuple[T, float]:
    """What ``ask`` gives, and in how many seconds: those of the first that is in time, since a machine may be busy once
    or twice, or of the third."""
    for _ in range(3):
        begun = time.monotonic()
        answer = ask()
        if (took_s := time.monotonic() - begun) < most_s:
            break
    return answer, took_s


def files_with(folder: Path, secret: bytes) -> list[Path]:
    """Files of a worker that have these bytes; some go while it is looked."""
    found = []
    for path in (Path(place) / name for place, _, names in os.walk(folder) for name in names):
        with suppress(FileNotFoundError):
            if secret in path.read_bytes():
                found.append(path)
    return found


def busy(seconds: float) -> dict[str, Any]:
    """A picture that takes so long each time: ComfyUI has no cached part of it."""
    return slow(seconds, color=next(_COLORS))


def failing(prefix: str = "runpod/fails") -> dict[str, Any]:
    """A node that fails at run time, before anything is saved."""
    return {
        "1": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": 3}},
        "3": {"class_type": "HWFail", "inputs": {"image": ["1", 0], "kind": "value"}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["3", 0], "filename_prefix": prefix}},
    }


def loading(name: str, prefix: str = "runpod/loaded") -> dict[str, Any]:
    """A picture of the request's, saved again."""
    return {
        "1": {"class_type": "LoadImage", "inputs": {"image": name}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": prefix}},
    }


@contextmanager
def endpoint(folder: Path, comfyui: str, **env: str) -> Iterator[Endpoint]:
    """A worker on a ComfyUI that runs; what it measures at its start is a tiny picture."""
    measured = folder / "measured.json"
    measured.write_text(json.dumps(picture(prefix="measured/__RANDOM_INT__")))
    settings = {"COMFYUI_API_BASE": comfyui, "BENCHMARK_JSON_PATH": str(measured), "FETCH_ALLOW_HOSTS": "127.0.0.1"}
    with worker(folder, **settings, **env) as process:
        yield Endpoint(process)
