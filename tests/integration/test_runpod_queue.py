"""The worker inside RunPod: the official SDK takes jobs from a recorded platform, and a real ComfyUI does them."""

import asyncio
import base64
import json
import re
import subprocess
import sys
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest
import requests

from tests.comfyui_fixture import REPOSITORY, RealComfyUI
from tests.fakes.http_hosts import png
from tests.fakes.runpod_platform import HOLD_S, KEY, RunPodPlatform
from tests.integration.doors import fake_engines, foreign_host
from tests.integration.harness import WorkerProcess, held, picture, slow
from tests.peers.environment import peer_python

pytestmark = pytest.mark.comfyui
T = TypeVar("T")
MOST_BYTES = 20_000


class Platform:
    """The platform with an event loop in a thread of its own, for tests that block."""

    def __init__(self, *, hold_s: float = HOLD_S) -> None:
        self.platform = RunPodPlatform(hold_s=hold_s)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> "Platform":
        self._thread.start()
        self._call(self.platform.__aenter__())
        return self

    def __exit__(self, *exc: object) -> None:
        self._call(self.platform.__aexit__())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(60)
        self._loop.close()

    def give(self, job_id: str, workflow: Any, **more: Any) -> None:
        job = {"id": job_id, "input": {"workflow": workflow, **more.pop("input", {})}, **more}
        self._loop.call_soon_threadsafe(self.platform.jobs.put_nowait, job)

    def stop(self, job_id: str) -> None:
        self._loop.call_soon_threadsafe(self.platform.stops.put_nowait, job_id)

    def result(self, job_id: str, timeout_s: float = 150.0) -> dict[str, Any]:
        return self._call(self.platform.result(job_id, timeout_s=timeout_s))

    def until(self, condition: Any, timeout_s: float = 150.0) -> None:
        self._call(self.platform.until(condition, timeout_s=timeout_s))

    def _call(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(200)


class QueueWorker(WorkerProcess):
    """A worker in an environment that has RunPod's SDK, as on RunPod."""

    python = Path(sys.executable)

    def start(self, *flags: str) -> None:
        with self.log.open("ab") as log:
            command = [str(self.python), str(REPOSITORY / "workers" / "comfyui-json" / "worker.py"), *flags]
            self.process = subprocess.Popen(command, env=self.env, stdout=log, stderr=log)

    def ended(self, timeout_s: float = 200.0) -> int:
        """Wait for its end; return its exit status."""
        assert self.process is not None
        return self.process.wait(timeout_s)


@pytest.fixture(scope="module")
def python() -> Path:
    return peer_python("runpod-serverless", REPOSITORY / "tests" / "peers" / "runpod" / "serverless_requirements.txt")


@contextmanager
def started(folder: Path, python: Path, platform: Platform, **env: str) -> Iterator[QueueWorker]:
    """A worker that this platform started; ended if it is not by the end."""
    worker = QueueWorker(folder, {**platform.platform.environment, **env})
    worker.python = python
    worker.start()
    try:
        yield worker
    finally:
        worker.stop()


@pytest.fixture(scope="module")
def platform() -> Iterator[Platform]:
    with Platform() as platform:
        yield platform


@pytest.fixture(scope="module")
def worker(
    real_comfyui: RealComfyUI, python: Path, platform: Platform, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[QueueWorker]:
    folder = tmp_path_factory.mktemp("runpod")
    with started(
        folder,
        python,
        platform,
        COMFYUI_API_BASE=real_comfyui.base_url,
        FETCH_ALLOW_HOSTS="127.0.0.1",
        RUNPOD_MAX_RESULT_BYTES=str(MOST_BYTES),
        RUNPOD_STREAM_INTERVAL_S="0.1",
    ) as process:
        process.wait_ready()
        yield process


def test_a_picture(worker: QueueWorker, platform: Platform) -> None:
    """Success as worker-comfyui has it; all calls carry the platform's key; the API is there beside the queue."""
    platform.give("picture-u1", picture(prefix="it/rp"))
    result = platform.result("picture-u1")
    assert set(result) == {"output"}
    (image,) = result["output"]["images"]
    assert set(image) == {"filename", "type", "data"}
    assert (image["filename"], image["type"]) == ("rp_00001_.png", "base64")
    assert base64.b64decode(image["data"]).startswith(b"\x89PNG")
    assert platform.platform.keys == {KEY}
    assert worker.get("/health").json()["status"] == "healthy"


@pytest.mark.parametrize(
    ("job", "said"),
    [
        ({"workflow": None}, "Missing 'workflow' parameter"),
        ({"workflow": {}, "input": {"images": [1]}}, "'images' must be a list of objects with 'name' and 'image' keys"),
    ],
)
def test_what_worker_comfyui_refuses(worker: QueueWorker, platform: Platform, job: dict[str, Any], said: str) -> None:
    """Its texts, as the job's error."""
    job_id = f"refused-{len(said)}"
    platform.give(job_id, job["workflow"], **{name: job[name] for name in ("input",) if name in job})
    assert platform.result(job_id)["error"].startswith(said)


def test_a_failed_node(worker: QueueWorker, platform: Platform) -> None:
    """The error says which node and why; details and code come as output."""
    failing = {
        "1": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": 3}},
        "7": {"class_type": "HWFail", "inputs": {"image": ["1", 0], "kind": "value"}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["7", 0], "filename_prefix": "it/no"}},
    }
    platform.give("node-u1", failing)
    result = platform.result("node-u1")
    assert "Node Type: HWFail, Node ID: 7" in result["error"]
    assert result["output"]["details"]
    assert "stopPod" not in result


def test_a_picture_by_url(worker: QueueWorker, platform: Platform) -> None:
    """What worker-comfyui would take for base64 is fetched."""
    graph = {
        "1": {"class_type": "LoadImage", "inputs": {"image": "mine.png"}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "it/url"}},
    }
    with foreign_host() as host:
        host.files["/mine"] = (png(), "image/png")
        images = [{"name": "mine.png", "image": host.url("/mine")}]
        platform.give("url-u1", graph, input={"images": images})
        assert platform.result("url-u1")["output"]["images"][0]["filename"] == "url_00001_.png"


def test_progress_is_in_order_and_never_after_the_end(worker: QueueWorker, platform: Platform) -> None:
    """As the dialect tells it; the heartbeat names the job meanwhile."""
    platform.give("slow-u1", slow(6.0, color=11))
    platform.result("slow-u1")
    told = platform.platform.progress("slow-u1")
    assert len(told) >= 3
    assert all(news["type"] == "progress" for news in told)
    assert [news["percent"] for news in told] == sorted(news["percent"] for news in told)
    platform.give("after-u1", picture(5, prefix="it/after"))
    platform.result("after-u1")
    posts = [post for post in platform.platform.posted if post.job_id == "slow-u1"]
    assert not posts[-1].progress
    assert any("slow-u1" in ping.get("job_id", "") for ping in platform.platform.pings)


def test_two_jobs_are_in_hand_at_once(worker: QueueWorker, platform: Platform, gate: Path) -> None:
    """One runs while the next is taken and prepared; a third stays with the platform."""
    for number in range(3):
        platform.give(f"two-{number}", held(gate, color=20 + number))
    platform.until(lambda it: it.jobs.qsize() == 1)
    assert platform.platform.results("two-0") == []
    gate.touch()
    for number in range(3):
        assert "output" in platform.result(f"two-{number}")


def test_a_stop_interrupts_comfyui(worker: QueueWorker, platform: Platform, real_comfyui: RealComfyUI) -> None:
    """The GPU is free at once, no result is posted, and the worker goes on."""
    platform.give("long-u1", slow(60.0, color=31))
    platform.until(lambda it: it.progress("long-u1"))
    platform.stop("long-u1")
    platform.give("next-u1", picture(32, prefix="it/next"))
    assert "output" in platform.result("next-u1", 50)
    assert requests.get(f"{real_comfyui.base_url}/queue", timeout=60).json()["queue_running"] == []
    assert platform.platform.results("long-u1") == []


def test_a_result_that_the_platform_would_refuse(worker: QueueWorker, platform: Platform) -> None:
    """It is an error that says what to set, and not a job without an end."""
    graph = picture(40, prefix="it/large")
    graph["1"]["inputs"] |= {"width": 3000, "height": 3000}
    platform.give("large-u1", graph)
    result = platform.result("large-u1")
    assert f"{MOST_BYTES} at most" in result["error"]
    assert "BUCKET_ENDPOINT_URL" in result["error"]


def test_each_job_may_end_in_a_new_worker(
    real_comfyui: RealComfyUI, python: Path, platform: Platform, tmp_path: Path
) -> None:
    """REFRESH_WORKER: the platform hears it with the result, no second job is taken, and the worker ends well."""
    with (
        Platform() as own,
        started(tmp_path, python, own, COMFYUI_API_BASE=real_comfyui.base_url, REFRESH_WORKER="true") as worker,
    ):
        own.give("only-u1", picture(50, prefix="it/only"))
        own.give("second-u1", picture(51, prefix="it/second"))
        result = own.result("only-u1")
        assert result["stopPod"] is True
        assert result["output"]["images"]
        assert worker.ended() == 0, worker.tail()
        assert own.platform.results("second-u1") == []


def test_sigterm_lets_jobs_in_hand_end(real_comfyui: RealComfyUI, python: Path, tmp_path: Path) -> None:
    """Their results are posted before the worker is gone, and the reason of one that took too long; nothing of the
    worker stays, no heartbeat either."""
    with (
        Platform() as own,
        started(tmp_path, python, own, COMFYUI_API_BASE=real_comfyui.base_url, DRAIN_TIMEOUT_S="15") as worker,
    ):
        own.give("last-u1", slow(3.0, color=61))
        own.until(lambda it: it.progress("last-u1"))
        own.give("long-u1", slow(60.0, color=62))
        own.until(lambda it: it.jobs.qsize() == 0)
        assert worker.stop() == 0, worker.tail()
        assert own.platform.results("last-u1")[0]["output"]["images"]
        assert "shut" in own.platform.results("long-u1")[0]["error"]
        pings = len(own.platform.pings)
        with pytest.raises(TimeoutError):
            own.until(lambda it: len(it.pings) > pings + 1, timeout_s=3.5)  # one may still have been on its way


def test_a_worker_without_comfyui_is_unfit(python: Path, tmp_path: Path) -> None:
    """The platform is told the check and the reason, no job is taken, and the worker ends with status 1."""
    with (
        Platform() as own,
        started(tmp_path, python, own, COMFYUI_API_BASE="http://127.0.0.1:9", COMFYUI_STARTUP_TIMEOUT_S="2") as worker,
    ):
        own.give("never-u1", picture())
        assert worker.ended() == 1
        (ping,) = own.platform.pings
        assert (ping["status"], ping["check"]) == ("unhealthy", "comfyui")
        assert re.search(r"ComfyUI .* answer", ping["reason"])
        assert own.platform.jobs.qsize() == 1


def test_no_job_is_taken_while_comfyui_is_down(python: Path, tmp_path: Path) -> None:
    """One that was asked for before waits in hand; the next stays with the platform until ComfyUI is back."""
    with (
        Platform(hold_s=85) as own,
        fake_engines(tmp_path / "engine") as (engine,),
        started(tmp_path, python, own, COMFYUI_API_BASE=engine.base_url, RUNPOD_CONCURRENCY="1") as worker,
    ):
        worker.wait_ready()
        own.until(lambda it: it.taking == 1)
        engine.kill()
        worker.wait_for(lambda: worker.get("/ready").status_code == 503, "without ComfyUI")
        own.give("held-u1", picture(70, prefix="it/held"))
        own.give("waiting-u1", picture(71, prefix="it/waiting"))
        own.until(lambda it: it.jobs.qsize() == 1)
        with pytest.raises(TimeoutError):
            own.until(lambda it: it.jobs.qsize() == 0 or it.posted, timeout_s=3)
        engine.start()
        assert "output" in own.result("held-u1")
        assert "output" in own.result("waiting-u1")


def test_the_missing_sdk_is_named_with_its_command(tmp_path: Path) -> None:
    """An environment without it stops the start."""
    with (
        Platform() as own,
        started(tmp_path, Path(sys.executable), own, COMFYUI_API_BASE="http://127.0.0.1:9") as worker,
    ):
        assert worker.ended() == 1
        assert "-m pip install -r requirements-runpod.txt" in worker.tail()


def test_one_job_of_a_test(real_comfyui: RealComfyUI, tmp_path: Path) -> None:
    """Through the whole worker, without RunPod and its SDK: the result on stdout, and how it went as the status.
    Nothing else is run, no warm-up either. Without a value it is the repository's own job."""
    bad = tmp_path / "bad.json"
    bad.write_text(json.dumps({"input": {"workflow": {"1": {"class_type": "Absent", "inputs": {}}}}}))
    status, result = try_job(real_comfyui, tmp_path / "bad", str(bad))
    assert (status, "Absent" in result["error"]) == (1, True)
    before = posted(real_comfyui)
    status, result = try_job(real_comfyui, tmp_path / "good")
    assert status == 0
    (image,) = result["output"]["images"]
    assert base64.b64decode(image["data"]).startswith(b"\x89PNG")
    assert posted(real_comfyui) - before == 1


def try_job(real_comfyui: RealComfyUI, folder: Path, *job: str) -> tuple[int, dict[str, Any]]:
    """Run the worker with ``--test_input``."""
    folder.mkdir()
    environ = WorkerProcess(folder, {"COMFYUI_API_BASE": real_comfyui.base_url}).env
    command = [sys.executable, str(REPOSITORY / "workers" / "comfyui-json" / "worker.py"), "--test_input", *job]
    done = subprocess.run(command, cwd=folder, env=environ, capture_output=True, timeout=250)
    assert done.stdout, done.stderr.decode()
    return done.returncode, json.loads(done.stdout)


def posted(real_comfyui: RealComfyUI) -> int:
    """How many prompts ComfyUI has got."""
    return real_comfyui.log.read_text(encoding="utf-8", errors="replace").count("got prompt")
