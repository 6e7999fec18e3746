"""What surrounds a job breaks: stores, presigned PUT targets, webhooks, the hosts of inputs.

One worker on the shared ComfyUI, with one delivery at a time, so that what holds one up can be seen. A store that is
down, a full disk and hosts of every bad temper are in ``test_delivery`` and ``test_bad_input``.
"""

import base64
import json
import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests
from standardwebhooks import Webhook

from tests.comfyui_fixture import RealComfyUI, free_port
from tests.fakes.http_hosts import Seen, WebHost
from tests.fakes.put_store import S3Stub
from tests.integration.doors import DOORS, Door, Doors, fleet
from tests.integration.harness import picture
from tests.integration.mishaps import Aside, Line, aside, logged, metric
from tests.s3_fixture import S3Server

pytestmark = pytest.mark.comfyui
SECRET = "callers-own-secret"
DENIED = b"<Error><Code>AccessDenied</Code><Message>not for you</Message></Error>"
BROKEN = b"<Error><Code>InternalError</Code><Message>try again</Message></Error>"
LARGE_BYTES = 24 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    doors: Doors
    store: Aside[S3Stub]
    host: Aside[WebHost]
    line: Aside[Line]
    nanio: S3Server
    comfyui: RealComfyUI

    def run(self, graph: dict[str, Any], *, door: Door = "api", **fields: Any) -> dict[str, Any]:
        reply = self.doors.send(door, {"input": {"workflow_json": graph, **fields}})
        assert reply.status_code == 200, reply.text
        assert reply.json()["status"] == "completed"
        assert SECRET not in reply.text
        return dict(reply.json())

    def submit(self, graph: dict[str, Any], **fields: Any) -> str:
        body = {"input": {"workflow_json": graph, **fields}}
        reply = requests.post(f"{self.doors.process.api}/generate", json=body, timeout=60)
        assert reply.status_code == 202, reply.text
        return str(reply.json()["job_id"])

    def result(self, job_id: str) -> dict[str, Any]:
        return dict(self.doors.process.get(f"/result/{job_id}").json())

    def ended(self, job_id: str) -> dict[str, Any]:
        """The result of a job, once it is completed."""
        self.doors.process.wait_for(lambda: self.result(job_id)["status"] == "completed", f"the end of {job_id}")
        return self.result(job_id)

    def generated(self, job_id: str) -> bool:
        """Whether ComfyUI is done with a job that is not delivered."""
        return bool(self.result(job_id)["status"] == "generated")

    def s3(self, **changes: Any) -> dict[str, Any]:
        """A request's ``s3`` block for the stub."""
        keys = {"access_key_id": "caller", "secret_access_key": SECRET, "bucket_name": "b", "connect_attempts": 1}
        return keys | {"endpoint_url": self.store.server.url} | changes

    def told(self, path: str, count: int = 1) -> list[Seen]:
        """What the host was sent at a path, once there are so many."""
        process = self.doors.process
        process.wait_for(lambda: len(self.seen(path)) >= count, f"{count} posts to {path}")
        return self.seen(path)

    def seen(self, path: str) -> list[Seen]:
        return [seen for seen in list(self.host.server.seen) if seen.path == path]


@pytest.fixture(scope="module")
def world(
    real_comfyui: RealComfyUI, nanio_server: S3Server, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[World]:
    with ExitStack() as stack:
        store = stack.enter_context(aside(S3Stub()))
        host = stack.enter_context(aside(WebHost()))
        line = stack.enter_context(aside(Line(nanio_server.port)))
        doors = stack.enter_context(
            fleet(
                tmp_path_factory.mktemp("surrounded"),
                real_comfyui.base_url,
                FETCH_ALLOW_HOSTS="127.0.0.1",
                WEBHOOK_ATTEMPTS="10",
                POSTPROCESS_WORKERS="1",
                LOG_FORMAT="json",
            )
        )
        yield World(doors=doors, store=store, host=host, line=line, nanio=nanio_server, comfyui=real_comfyui)


def rescued(entry: dict[str, Any]) -> None:
    """A file that was not uploaded arrives all the same: by a link of the worker's own, inline, and on its disk."""
    content = Path(entry["local_path"]).read_bytes()
    assert base64.b64decode(entry["data"]) == content
    assert requests.get(entry["url"], timeout=60).content == content


# -- S3 -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("door", DOORS)
def test_a_store_that_refuses(world: World, door: Door) -> None:
    """403: asked once, completed, the entry says why in S3's words and carries the file another way."""
    stub = world.store.server
    stub.statuses[:], stub.body, stub.asked = [403] * 9, DENIED, 0
    try:
        (entry,) = world.run(picture(1), door=door, s3=world.s3())["output"]
    finally:
        stub.statuses.clear()
    assert "AccessDenied: not for you" in entry["upload_error"]
    assert stub.asked == 1
    rescued(entry)
    assert logged(world.doors.process, "upload.failed")[-1]["reason"] == "AccessDenied"


def test_a_store_that_is_broken_twice(world: World) -> None:
    """500, 500, then well: uploaded, and no word of it."""
    stub = world.store.server
    stub.statuses[:], stub.body, stub.asked = [500, 500], BROKEN, 0
    (entry,) = world.run(picture(2), request_id="thrice", s3=world.s3())["output"]
    assert stub.asked == 3
    assert "upload_error" not in entry
    assert stub.stored["/b/thrice/w1_00001_.png"][0] == Path(entry["local_path"]).read_bytes()
    assert entry["url"].startswith(f"{stub.url}/b/thrice/")


def test_an_upload_that_hangs_holds_up_nobody(world: World) -> None:
    """A store takes the file and says nothing: the GPU goes on with the next jobs, those that need no store are
    answered, and what waits for the same place is delivered when it moves again."""
    stub = world.store.server
    stub.hanging = True
    try:
        stuck = world.submit(picture(3), request_id="stuck", s3=world.s3())
        world.doors.process.wait_for(stub.arrived.is_set, "uploading")
        behind = world.submit(picture(4), request_id="behind", s3=world.s3())
        world.run(picture(5))
        world.doors.process.wait_for(lambda: world.generated(behind), "generated")
        assert world.generated(stuck)
    finally:
        stub.hanging = False
        world.store.call(stub.release.set)
    for job_id, name in ((stuck, "stuck"), (behind, "behind")):
        (entry,) = world.ended(job_id)["output"]
        assert entry["url"].startswith(f"{stub.url}/b/{name}/")
        assert stub.stored[f"/b/{name}/w1_00001_.png"]


def test_a_store_that_dies_in_the_middle_of_a_large_file(world: World) -> None:
    """Parts are on their way when the line breaks, for good: completed, said on the entry; the next one arrives."""
    path = world.comfyui.output / "large.bin"
    path.write_bytes(os.urandom(LARGE_BYTES))
    reported = {"files": [{"filename": "large.bin", "subfolder": "", "type": "output"}]}
    graph = picture(6)
    graph["2"] = {"class_type": "HWReport", "inputs": {"image": ["1", 0], "ui": json.dumps(reported)}}
    keys = {"access_key_id": world.nanio.access_key_id, "secret_access_key": world.nanio.secret_access_key}
    block = world.s3(bucket_name="outputs", endpoint_url=f"http://127.0.0.1:{world.line.server.port}", **keys)
    world.line.server.cut_after = LARGE_BYTES // 2
    try:
        (entry,) = world.run(graph, s3=block)["output"]
        world.line.server.cut_after = None
        (after,) = world.run(picture(7), s3=block)["output"]
    finally:
        path.unlink()
        world.line.server.cut_after = None
    assert "S3 upload failed" in entry["upload_error"]
    assert "data" not in entry  # too large for that
    assert "/outputs/" in entry["url"]
    assert "upload_error" not in after
    assert requests.get(after["url"], timeout=60).status_code == 200


# -- presigned PUT ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "told"), [(403, "status 403, AccessDenied"), (302, "status 302; redirects are not followed")]
)
def test_a_put_that_is_refused(world: World, status: int, told: str) -> None:
    """Tried once; the entry says why, names the host and not the URL, and carries the file another way."""
    stub = world.store.server
    stub.statuses[:], stub.body, stub.asked = [status], DENIED if status == 403 else b"", 0
    upload = {"put_urls": [f"{stub.url}/refused.png?X-Amz-Signature={SECRET}"]}
    (entry,) = world.run(picture(8), upload=upload)["output"]
    assert told in entry["upload_error"]
    assert stub.asked == 1
    assert not {"/refused.png", "/elsewhere"} & set(stub.stored)
    rescued(entry)


def test_a_put_that_fails_twice(world: World) -> None:
    """500, 500, then well."""
    stub = world.store.server
    stub.statuses[:], stub.asked = [500, 500], 0
    (entry,) = world.run(picture(9), upload={"put_urls": [f"{stub.url}/third.png?token={SECRET}"]})["output"]
    assert (stub.asked, entry["url"]) == (3, f"{stub.url}/third.png")
    assert stub.stored["/third.png"] == (Path(entry["local_path"]).read_bytes(), "image/png")


def test_fewer_put_urls_than_files(world: World) -> None:
    """In order; what is left over says so and is not lost."""
    graph = picture(10)
    graph["1"]["inputs"]["batch_size"] = 3
    url = f"{world.store.server.url}/first.png"
    first, *others = world.run(graph, upload={"put_urls": [url]})["output"]
    assert first["url"] == url
    for entry in others:
        assert "no URL is left for this file: 1 were given" in entry["upload_error"]
        rescued(entry)


# -- webhooks -------------------------------------------------------------------------------------------------------


def test_a_webhook_that_is_broken_twice(world: World) -> None:
    """500, 500, then well: the same message, and one attempt more each time; other jobs wait for none of it."""
    world.host.server.statuses[:] = [500, 500]
    failed = metric(world.doors.process, "pyworker_webhook_attempts_total", result="failed")
    world.run(picture(20), webhook={"url": world.host.server.url("/hook/twice")})
    seen = world.told("/hook/twice", 3)
    assert len({one.body for one in seen}) == 1
    process = world.doors.process
    process.wait_for(lambda: len(logged(process, "webhook.delivered")) >= 1, "delivered")
    assert metric(process, "pyworker_webhook_attempts_total", result="failed") == failed + 2


def test_a_webhook_that_is_given_up_and_sent_again_by_hand(world: World) -> None:
    """410: asked once, shown among the dead by host alone, and told when the operator says so."""
    process, host = world.doors.process, world.host.server
    host.statuses[:] = [410]
    secret = "whsec_" + base64.b64encode(os.urandom(24)).decode()
    hook = {"url": host.url(f"/hook/gone?token={SECRET}"), "secret": secret, "scheme": "standard"}
    job = world.submit(picture(21), webhook=hook)
    process.wait_for(lambda: process.get("/webhooks/dead").json()["messages"], "given up")
    (dead,) = process.get("/webhooks/dead").json()["messages"]
    assert (dead["job_id"], dead["event"], dead["attempts"]) == (job, "completed", 1)
    assert (dead["host"], dead["last_error"]) == (f"127.0.0.1:{host.port}", "status 410")
    assert SECRET not in json.dumps(dead)
    process.wait_for(lambda: logged(process, "webhook.dead"), "logged")
    assert logged(process, "webhook.dead")[-1]["message_id"] == dead["message_id"]
    reply = requests.post(f"{process.api}/webhooks/dead/{dead['message_id']}/retry", json={}, timeout=60)
    assert reply.status_code == 202
    first, second = world.told("/hook/gone", 2)
    assert Webhook(secret).verify(second.body, second.headers)["data"]["status"] == "completed"
    assert first.headers["webhook-id"] == second.headers["webhook-id"] == dead["message_id"]
    process.wait_for(lambda: not process.get("/webhooks/dead").json()["messages"], "taken")


def test_each_webhook_is_told_what_it_asked_for(world: World) -> None:
    """Start and end to one, signed as Standard Webhooks are; failures only to another, which hears nothing."""
    secret = "whsec_" + base64.b64encode(os.urandom(24)).decode()
    hooks = [
        {
            "url": world.host.server.url("/hook/both"),
            "secret": secret,
            "scheme": "standard",
            "events": ["started", "completed"],
        },
        {"url": world.host.server.url("/hook/failures"), "events": ["failed"]},
    ]
    result = world.run(picture(22), webhooks=hooks, request_id="told")
    messages = [Webhook(secret).verify(seen.body, seen.headers) for seen in world.told("/hook/both", 2)]
    assert sorted(message["type"] for message in messages) == ["job.completed", "job.started"]
    (completed,) = (message for message in messages if message["type"] == "job.completed")
    assert completed["data"]["id"] == "told"
    assert completed["data"]["outputs"][0]["url"] == result["output"][0]["url"]
    assert len({seen.headers["webhook-id"] for seen in world.seen("/hook/both")}) == 2
    broken = {"1": {"class_type": "SaveImage", "inputs": {"images": "oops", "filename_prefix": "x"}}}
    reply = world.doors.send("api", {"input": {"workflow_json": broken, "webhooks": hooks}})
    assert reply.status_code == 500
    (failed,) = world.told("/hook/failures")
    assert json.loads(failed.body)["status"] == "failed"


def test_a_webhook_outlives_the_worker(world: World) -> None:
    """The target is down and the worker is killed: the next life tells it, with the same message."""
    process, host = world.doors.process, world.host.server
    host.statuses[:], host.stuck = [503], True
    world.run(picture(23), webhook={"url": host.url("/hook/survivor"), "secret": "s", "scheme": "wrapper"})
    world.told("/hook/survivor")
    assert process.process is not None
    process.process.kill()
    process.process.wait()
    refused = len(world.seen("/hook/survivor"))
    host.statuses.clear()
    host.stuck = False
    process.start()
    process.wait_ready()
    *_, first, last = world.told("/hook/survivor", refused + 1)
    assert first.body == last.body
    assert first.headers["X-Webhook-Signature"] == last.headers["X-Webhook-Signature"]


# -- inputs ---------------------------------------------------------------------------------------------------------


def loader(url: str, **fields: Any) -> dict[str, Any]:
    graph = {
        "1": {"class_type": "LoadImage", "inputs": {"image": url}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "in"}},
    }
    return {"input": {"workflow_json": graph, **fields}}


def refused(reply: requests.Response, door: Door, reason: str) -> None:
    """A 4xx that names field and reason, in the words of the API that was asked."""
    assert reply.status_code == 422, reply.text
    answer = reply.json()
    assert (answer["error"], answer["retryable"]) == ("input_fetch_failed", False)
    assert answer["details"]["field"] == "workflow.1.inputs.image"
    assert answer["details"]["reason"] == reason, answer
    assert SECRET not in reply.text
    assert door == "public" or answer["status"] == "failed"


@pytest.mark.parametrize("door", DOORS)
def test_an_input_whose_host_is_down(world: World, door: Door) -> None:
    """Nobody listens."""
    url = f"http://127.0.0.1:{free_port()}/x.png?token={SECRET}"
    refused(world.doors.send(door, loader(url)), door, "unreachable")


UNREADABLE = {
    "secret": "SignatureDoesNotMatch",
    "key": "InvalidAccessKeyId",
    "bucket": "NoSuchBucket",
    "no keys": "no_credentials",
}


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("wrong", UNREADABLE)
def test_an_input_in_s3_that_cannot_be_read(world: World, door: Door, wrong: str) -> None:
    """Wrong keys, no keys, no bucket: S3's own code, and no key of anybody's."""
    credential = {
        "type": "s3",
        "url_pattern": "s3://*",
        "access_key_id": "nobody" if wrong == "key" else world.nanio.access_key_id,
        "secret_access_key": SECRET if wrong == "secret" else world.nanio.secret_access_key,
        "endpoint_url": world.nanio.endpoint_url,
    }
    bucket = "nowhere" if wrong == "bucket" else "outputs"
    body = loader(f"s3://{bucket}/x.png", credentials=[] if wrong == "no keys" else [credential])
    reply = world.doors.send(door, body)
    refused(reply, door, UNREADABLE[wrong])
