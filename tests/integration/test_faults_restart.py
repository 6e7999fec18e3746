"""kill -9 of the worker, with jobs at every stage at once; what its next life makes of each. ComfyUI is the real one.

The worker dies twice: in the midst of everything, and frozen while ComfyUI finishes a prompt behind its back.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.comfyui_fixture import RealComfyUI
from tests.integration.faults import (
    Elsewhere,
    MortalWorker,
    Sync,
    counted,
    elsewhere,
    events,
    in_queue,
    mortal,
    runs_of,
    tally,
    wait_until,
)
from tests.integration.harness import START_TIMEOUT_S

pytestmark = pytest.mark.comfyui
KEY = {"Authorization": "Bearer key-of-the-fault-tests"}
IN_LINE = ("running", "first", "second", "acknowledged")


@dataclass(slots=True, kw_only=True)
class Scene:
    """A worker in its second life, the jobs of its first one, and those who asked for them."""

    worker: MortalWorker
    comfyui: RealComfyUI
    host: Elsewhere
    jobs: dict[str, dict[str, Any]]
    caller: Sync
    last_event: dict[str, Any]
    last_event_id: str


@pytest.fixture(scope="module")
def scene(real_comfyui: RealComfyUI, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with (
        elsewhere() as host,
        mortal(
            tmp_path_factory.mktemp("restart"),
            headers=KEY,
            COMFYUI_API_BASE=real_comfyui.base_url,
            FETCH_ALLOW_HOSTS="127.0.0.1",
            API_KEYS="tests:key-of-the-fault-tests",
            API_KEYS_REQUIRED="true",
        ) as worker,
    ):
        gate = tmp_path_factory.mktemp("gate") / "gate"
        yield _killed_in_the_midst(worker, real_comfyui, host, gate)


def _killed_in_the_midst(worker: MortalWorker, comfyui: RealComfyUI, host: Elsewhere, gate: Path) -> Scene:
    """One job at each stage, then the end, and the start of the next life; what runs is over some time after that."""
    jobs: dict[str, dict[str, Any]] = {}
    hook = {"url": f"{host.url}/held/hook", "scheme": "standard", "secret": "whsec_dGVzdHMtb3duLXNlY3JldC1vZi0yNA=="}
    jobs["told"] = worker.submit(counted("told"), webhook=hook)
    jobs["uploading"] = worker.submit(counted("uploading"), upload={"put_urls": [f"{host.url}/held/put"]})
    jobs["keyed"] = worker.submit(counted("keyed"), request_id="keyed", headers={"Idempotency-Key": "k-1"})
    wait_until(lambda: bool(host.asked("/held/hook") and host.asked("/held/put")), "told and uploading")
    worker.ended(jobs["keyed"])
    fetched = {"class_type": "LoadImage", "inputs": {"image": f"{host.url}/held/input.png"}}
    jobs["fetching"] = worker.submit(counted("fetching", source=fetched))
    jobs["running"] = worker.submit(counted("running", until=gate))
    wait_until(lambda: bool(host.asked("/held/input.png")), "fetching")
    worker.wait_for(lambda: worker.running(jobs["running"]["job_id"]), "running")
    caller = Sync(worker, counted("waited for"), request_id="waited-for")
    worker.wait_for(lambda: worker.ask("GET", "/result/waited-for").status_code == 200, "accepted")
    for mark in ("first", "second"):
        jobs[mark] = worker.submit(counted(mark))
    waited_for = worker.ask("GET", "/jobs/waited-for").json()["job_id"]
    wait_until(lambda: in_queue(comfyui, waited_for) == "pending", "posted behind it")
    event_id, event = _some_progress(worker, jobs["running"])
    jobs["acknowledged"] = worker.submit(counted("acknowledged"))
    worker.kill()
    host.gate.set()
    worker.start()
    wait_until(lambda: in_queue(comfyui, waited_for) is None, "withdrawn", START_TIMEOUT_S)
    gate.touch()
    return Scene(
        worker=worker,
        comfyui=comfyui,
        host=host,
        jobs=jobs,
        caller=caller,
        last_event=event,
        last_event_id=event_id,
    )


def _some_progress(worker: MortalWorker, job: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Read a job's stream until it has come some way; leave it."""
    with worker.ask("GET", f"/generate/stream/{job['job_id']}", stream=True) as stream:
        for event_id, event in events(stream):
            if event.get("percent", 0) > 5:
                return event_id, event
    raise AssertionError("the stream ended early")


def test_a_running_prompt_is_followed_again(scene: Scene) -> None:
    """ComfyUI worked on: the next life finds its prompt, which is not posted a second time."""
    result = scene.worker.ended(scene.jobs["running"])
    assert result["status"] == "completed", result
    assert "warnings" not in result
    assert len(runs_of(scene.comfyui, "running")) == 1
    assert scene.worker.show(scene.jobs["running"]["job_id"])["attempts"] == 1


def test_an_event_stream_goes_on_where_it_was(scene: Scene) -> None:
    """A reader who comes back with Last-Event-ID hears newer events only, percent never goes back, and the result."""
    path = f"/generate/stream/{scene.jobs['running']['job_id']}"
    with scene.worker.ask("GET", path, stream=True, headers={"Last-Event-ID": scene.last_event_id}) as stream:
        heard = list(events(stream))
    assert all(int(event_id) > int(scene.last_event_id) for event_id, _ in heard[:-1])
    assert heard[-1][0] == "final"
    assert heard[-1][1]["result"]["status"] == "completed"
    again = scene.worker.ask("GET", path, headers={"Last-Event-ID": "final"})
    assert again.status_code == 204


def test_waiting_jobs_run_in_their_order(scene: Scene) -> None:
    """What waited, and what was acknowledged a moment before the end, runs once, in the order of acceptance."""
    for mark in IN_LINE:
        assert scene.worker.ended(scene.jobs[mark])["status"] == "completed"
    order = [mark for mark, _ in tally(scene.comfyui.folder / "user") if mark in IN_LINE]
    assert order == list(IN_LINE)


def test_an_input_is_fetched_anew(scene: Scene) -> None:
    """A job that fetched its input fetches it again, and runs once."""
    assert scene.worker.ended(scene.jobs["fetching"])["status"] == "completed"
    assert len(scene.host.asked("/held/input.png")) == 2
    assert len(runs_of(scene.comfyui, "fetching")) == 1


def test_an_upload_is_done_again(scene: Scene) -> None:
    """A job whose upload was under way is delivered again without another run."""
    result = scene.worker.ended(scene.jobs["uploading"])
    assert result["status"] == "completed"
    bodies = {body for _, body in scene.host.asked("/held/put")}
    assert len(scene.host.asked("/held/put")) == 2
    assert len(bodies) == 1
    assert len(runs_of(scene.comfyui, "uploading")) == 1


def test_a_webhook_is_told_again(scene: Scene) -> None:
    """A message whose delivery is not on record goes out again: the same id, the same body."""
    wait_until(lambda: len(scene.host.asked("/held/hook")) > 1, "told again")
    (before, body), (after, again) = scene.host.asked("/held/hook")[:2]
    assert before["webhook-id"] == after["webhook-id"]
    assert body == again
    assert json.loads(body)["type"] == "job.completed"


def test_a_waiting_caller_is_gone(scene: Scene) -> None:
    """The connection of a synchronous caller died with the worker: its job ends cancelled and never runs."""
    scene.caller.join(60)
    assert scene.caller.broken
    scene.worker.wait_for(
        lambda: scene.worker.ask("GET", "/result/waited-for").json()["status"] == "cancelled", "cancelled"
    )
    assert runs_of(scene.comfyui, "waited for") == []


def test_links_of_the_first_life_work(scene: Scene) -> None:
    """The link of a 202 and the token in it are good in the next life, without a key; a file's signed link too."""
    job = scene.jobs["told"]
    assert requests.get(job["status_url"], timeout=60).json()["status"] == "completed"
    assert requests.get(job["status_url"].replace("job_token=", "job_token=0"), timeout=60).status_code == 401
    (output,) = scene.worker.ended(scene.jobs["keyed"])["output"]
    assert requests.get(output["url"], timeout=60).content.startswith(b"\x89PNG")


def test_an_idempotency_key_is_remembered(scene: Scene) -> None:
    """The same key and body are answered with the first life's job, nothing runs; another body is refused."""
    body = {"input": {"workflow_json": counted("keyed"), "request_id": "keyed"}}
    headers = {"Idempotency-Key": "k-1"}
    reply = scene.worker.ask("POST", "/generate", json=body, headers=headers)
    assert reply.status_code == 202, reply.text
    assert reply.headers["Idempotency-Replayed"] == "true"
    assert reply.json()["job_id"] == scene.jobs["keyed"]["job_id"]
    assert reply.json()["status"] == "completed"
    other = {"input": {"workflow_json": counted("other"), "request_id": "keyed"}}
    assert scene.worker.ask("POST", "/generate", json=other, headers=headers).status_code == 422
    assert len(runs_of(scene.comfyui, "keyed")) == 1


def test_a_finished_request_id_runs_anew(scene: Scene) -> None:
    """A request id of the first life is its second run now: another job, another random number."""
    scene.worker.wait_ready()
    again = scene.worker.submit(counted("keyed"), request_id="keyed")
    assert again["job_id"] != scene.jobs["keyed"]["job_id"]
    assert scene.worker.ended(again)["status"] == "completed"
    assert scene.worker.show(again["job_id"])["run"] == 2
    assert len(set(runs_of(scene.comfyui, "keyed"))) == 2


def test_what_comfyui_finished_meanwhile_is_harvested(scene: Scene, gate: Path) -> None:
    """Frozen, then killed: a prompt that ended without a witness is taken from ComfyUI's history, and not run again;
    one that a synchronous caller waited for is taken off the GPU."""
    worker, comfyui = scene.worker, scene.comfyui
    worker.wait_ready()
    ended = worker.submit(counted("unseen", until=gate))
    worker.wait_for(lambda: worker.running(ended["job_id"]), "running")
    caller = Sync(worker, counted("abandoned", seconds=240.0), request_id="abandoned")
    worker.wait_for(lambda: worker.ask("GET", "/result/abandoned").status_code == 200, "accepted")
    abandoned = worker.ask("GET", "/jobs/abandoned").json()
    wait_until(lambda: in_queue(comfyui, abandoned["job_id"]) == "pending", "posted behind it")
    worker.freeze()
    gate.touch()
    wait_until(lambda: in_queue(comfyui, abandoned["job_id"]) == "running", "running")
    worker.kill()
    caller.join(60)
    worker.start()
    result = worker.ended(ended)
    assert result["status"] == "completed", result
    assert result["output"]
    assert result["comfyui_response"]
    assert len(runs_of(comfyui, "unseen")) == 1
    assert worker.ended(abandoned)["status"] == "cancelled"
    wait_until(lambda: in_queue(comfyui, abandoned["job_id"]) is None, "off the GPU")
    worker.wait_ready()
