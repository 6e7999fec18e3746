"""Getting files to the caller when the world does not cooperate: stores that are down, names that clash, full disks.

The operator's store is Swift with the bucket in the host name; requests bring a nanio of their own.
"""

import base64
import hashlib
import hmac
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import requests
from standardwebhooks import Webhook
from standardwebhooks.webhooks import WebhookVerificationError

from tests.comfyui_fixture import RealComfyUI
from tests.fakes.http_hosts import Seen, WebHost, png
from tests.integration.doors import DOORS, Door, Doors, fleet, foreign_host
from tests.integration.harness import calling, picture, slow
from tests.s3_fixture import S3Server, free_ports, running, swift_server  # noqa: F401 - a fixture by import

pytestmark = pytest.mark.comfyui
BASE64_MAX_BYTES = 1000
EXPIRES_S = 20
OPERATORS_SECRET = "operators-webhook-secret"
PNG = b"\x89PNG\r\n\x1a\n"
BIG_BYTES = 64 << 20
RESOLVER = """
import socket
_look_up = socket.getaddrinfo
def getaddrinfo(host, *rest, **more):
    known = isinstance(host, str) and host.endswith("s3.test")
    return _look_up("127.0.0.1" if known else host, *rest, **more)
socket.getaddrinfo = getaddrinfo
"""
"""A name server that knows the store's virtual hosts, for the worker's process alone."""


@dataclass(slots=True, kw_only=True)
class OwnStore:
    """A caller's S3 that can be switched off and on; it keeps its port and its objects."""

    folder: Path
    server: S3Server
    _stack: ExitStack = field(default_factory=ExitStack)

    def on(self) -> None:
        command = [str(Path(sys.executable).parent / "nanio"), "serve", "--data-dir", str(self.folder / "data")]
        command += ["--host", "127.0.0.1", "--port", str(self.server.port), "--no-access-log", "--log-level", "error"]
        env = {"NANIO_ACCESS_KEY": self.server.access_key_id, "NANIO_SECRET_KEY": self.server.secret_access_key}
        self._stack.enter_context(running(command, port=self.server.port, env=env, log=self.folder / "log"))

    def off(self) -> None:
        self._stack.close()

    def block(self, bucket: str = "mine", **changes: Any) -> dict[str, Any]:
        """The ``s3`` block of a request."""
        return {
            "access_key_id": self.server.access_key_id,
            "secret_access_key": self.server.secret_access_key,
            "endpoint_url": self.server.endpoint_url,
            "bucket_name": bucket,
            "connect_attempts": 1,
            **changes,
        }

    def keys(self, bucket: str = "mine", prefix: str = "") -> set[str]:
        listed = self.server.client().list_objects_v2(Bucket=bucket, Prefix=prefix)
        return {item["Key"] for item in listed.get("Contents", [])}


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    doors: Doors
    host: WebHost
    store: OwnStore
    swift: S3Server
    comfyui: RealComfyUI

    def run(self, graph: dict[str, Any], *, door: Door = "api", **fields: Any) -> dict[str, Any]:
        reply = self.doors.send(door, {"input": {"workflow_json": graph, **fields}})
        assert reply.status_code == 200, reply.text
        assert reply.json()["status"] == "completed"
        return dict(reply.json())

    def told(self, path: str, count: int = 1) -> list[Seen]:
        """What the host was sent at a path, once there are so many."""
        process = self.doors.process
        process.wait_for(lambda: len(self._seen(path)) >= count, f"{count} posts to {path}")
        return self._seen(path)

    def _seen(self, path: str) -> list[Seen]:
        return [seen for seen in list(self.host.seen) if seen.path == path]


@pytest.fixture(scope="module")
def world(
    real_comfyui: RealComfyUI,
    swift_server: S3Server,  # noqa: F811 - the fixture
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[World]:
    names = tmp_path_factory.mktemp("names")
    (names / "sitecustomize.py").write_text(RESOLVER)
    folder = tmp_path_factory.mktemp("own-store")
    server = S3Server(port=free_ports(1)[0], access_key_id="caller", secret_access_key="callers-secret")
    store = OwnStore(folder=folder, server=server)
    with foreign_host() as host, ExitStack() as stack:
        store.on()
        stack.callback(store.off)
        for bucket in ("mine", "other"):
            server.client().create_bucket(Bucket=bucket)
        doors = stack.enter_context(
            fleet(
                tmp_path_factory.mktemp("delivering"),
                real_comfyui.base_url,
                PYTHONPATH=str(names),
                FETCH_ALLOW_HOSTS="127.0.0.1",
                S3_ACCESS_KEY_ID=swift_server.access_key_id,
                S3_SECRET_ACCESS_KEY=swift_server.secret_access_key,
                S3_BUCKET_NAME="outputs",
                S3_ENDPOINT_URL=f"http://s3.test:{swift_server.port}",
                S3_ADDRESSING_STYLE="virtual",
                S3_URL_EXPIRES_S=str(EXPIRES_S),
                OUTPUT_BASE64_MAX_BYTES=str(BASE64_MAX_BYTES),
                WEBHOOK_URL=host.url("/hook/operator"),
                WEBHOOK_SECRET=OPERATORS_SECRET,
                DISCONNECT_GRACE_S="0",
            )
        )
        yield World(doors=doors, host=host, store=store, swift=swift_server, comfyui=real_comfyui)


def download(url: str) -> tuple[int, bytes, str]:
    """With plain curl, which is told where the virtual hosts are."""
    port = urlsplit(url).port
    command = ["curl", "-s", "-w", "\n%{http_code} %{content_type}", url]
    command += ["--resolve", f"outputs.s3.test:{port}:127.0.0.1"]
    body, _, facts = subprocess.run(command, capture_output=True, check=True).stdout.rpartition(b"\n")
    status, kind = facts.decode().split(" ", 1)
    return int(status), body, kind


def two(first: str, second: str) -> dict[str, Any]:
    """A red and a blue picture under two prefixes."""
    graph = picture(0xFF0000, prefix=first)
    blue = picture(0x0000FF, prefix=second)
    blue["2"]["inputs"]["images"] = ["3", 0]
    return graph | {"3": blue["1"], "4": blue["2"]}


# -- stores -------------------------------------------------------------------------------------------------------


def test_virtual_hosts_and_the_life_of_a_url(world: World) -> None:
    """The operator's bucket stands in the host name; the URL works with plain curl, and ends when it should."""
    urls = []
    for door in DOORS:
        (entry,) = world.run(picture(door == "api"), door=door)["output"]
        assert urlsplit(entry["url"]).netloc == f"outputs.s3.test:{world.swift.port}"
        assert parse_qs(urlsplit(entry["url"]).query)["X-Amz-Expires"] == [str(EXPIRES_S)]
        status, body, kind = download(entry["url"])
        assert (status, body[:8], kind) == (200, PNG, "image/png")
        assert body == Path(entry["local_path"]).read_bytes()
        urls.append(entry["url"])
    for url in urls:
        world.doors.process.wait_for(lambda url=url: download(url)[0] == 403, "the end of the URL")


@pytest.mark.parametrize("door", DOORS)
def test_a_store_that_is_down_loses_nothing(world: World, door: Door) -> None:
    """Completed; the entry says why and carries the file another way; when the store is back so are the URLs."""
    (before,) = world.run(picture(1), door=door, s3=world.store.block())["output"]
    assert download(before["url"])[0] == 200
    world.store.off()
    try:
        (entry,) = world.run(picture(2), door=door, s3=world.store.block())["output"]
    finally:
        world.store.on()
    assert "no connection" in entry["upload_error"]
    assert "callers-secret" not in json.dumps(entry)
    assert base64.b64decode(entry["data"]) == Path(entry["local_path"]).read_bytes()
    assert entry["mimetype"] == "image/png"
    own_link(entry, door)
    (after,) = world.run(picture(3), door=door, s3=world.store.block())["output"]
    assert download(after["url"])[0] == 200


def own_link(entry: dict[str, Any], door: Door) -> None:
    """A signed URL of the worker's own: the file whole or in parts; changed, it opens nothing to strangers."""
    content = Path(entry["local_path"]).read_bytes()
    assert urlsplit(entry["url"]).path.startswith("/outputs/")
    assert download(entry["url"]) == (200, content, "image/png")
    part = requests.get(entry["url"], headers={"Range": "bytes=1-3"}, timeout=60)
    assert (part.status_code, part.content) == (206, b"PNG")
    later = entry["url"].replace("expires=", "expires=1")
    assert requests.get(later, timeout=60).status_code == (403 if door == "public" else 200)  # loopback is no stranger


@pytest.mark.parametrize("door", DOORS)
def test_another_format_and_a_thumbnail(world: World, door: Door) -> None:
    """Converted as asked, beside a small copy; both go where the caller said, as what they are now."""
    asked = {"convert_output": {"format": "webp", "options": {"Q": 70}}, "thumbnail": {"width": 32, "format": "jpeg"}}
    request_id = f"finished-{door}"
    result = world.run(picture(7), door=door, request_id=request_id, s3=world.store.block(), **asked)
    (entry,) = result["output"]
    assert (entry["filename"], entry["mimetype"]) == ("w1_00001_.webp", "image/webp")
    assert (entry["width"], entry["height"]) == (64, 64)
    assert world.store.keys(prefix=f"{request_id}/") == {
        f"{request_id}/w1_00001_.webp",
        f"{request_id}/thumb_w1_00001_.jpg",
    }
    status, body, kind = download(entry["url"])
    assert (status, body[:4], body[8:12], kind) == (200, b"RIFF", b"WEBP", "image/webp")
    assert len(body) == entry["size_bytes"]
    status, body, kind = download(entry["thumbnail_url"])
    assert (status, body[:3], kind) == (200, b"\xff\xd8\xff", "image/jpeg")


def test_a_format_that_cannot_be(world: World) -> None:
    """A wrong option is a wrong request; no picture is made for it."""
    asked = {"convert_output": {"format": "webp", "options": {"Q": 700}}}
    reply = world.doors.send("api", {"input": {"workflow_json": picture(7), **asked}})
    assert reply.status_code == 422
    assert reply.json()["detail"][0]["loc"] == ["body", "input", "convert_output", "options", "Q"]


@pytest.mark.parametrize("door", DOORS)
def test_a_presigned_put(world: World, door: Door) -> None:
    """The caller's own presigned URL takes the file, and comes back without its signature."""
    keys = [f"put/{door}-{number}.png" for number in range(2)]
    client = world.store.server.client()
    urls = [client.generate_presigned_url("put_object", Params={"Bucket": "mine", "Key": key}) for key in keys]
    entries = world.run(two("put/a", "put/b"), door=door, upload={"put_urls": urls})["output"]
    assert [entry["url"] for entry in entries] == [f"{world.store.server.endpoint_url}/mine/{key}" for key in keys]
    for entry, key in zip(entries, keys, strict=True):
        stored = client.get_object(Bucket="mine", Key=key)
        assert stored["Body"].read() == Path(entry["local_path"]).read_bytes()
        assert stored["ContentType"] == "image/png"


def test_what_is_too_large_to_inline_names_its_place(world: World) -> None:
    """A store that refuses and a file over the base64 limit: the local path is what is left, and it is true."""
    graph = picture(5)
    graph["1"]["inputs"] |= {"width": 1024, "height": 1024}
    (entry,) = world.run(graph, s3=world.store.block(secret_access_key="wrong"))["output"]
    assert "SignatureDoesNotMatch" in entry["upload_error"]
    assert "data" not in entry
    assert Path(entry["local_path"]).read_bytes().startswith(PNG)
    assert Path(entry["local_path"]).stat().st_size > BASE64_MAX_BYTES


def test_base64_has_a_limit_per_file(world: World) -> None:
    """The small file is inlined, the large one says why not; both are uploaded all the same."""
    graph = two("cap/small", "cap/large")
    graph["3"]["inputs"] |= {"width": 1024, "height": 1024}
    small, large = world.run(graph, return_outputs_as_base64=True)["output"]
    assert base64.b64decode(small["data"]).startswith(PNG)
    assert "data" not in large
    assert "exceeds OUTPUT_BASE64_MAX_BYTES (1000)" in large["error"]
    assert small["url"]
    assert large["url"]


def test_a_request_chooses_its_bucket(world: World) -> None:
    """Its own keys, endpoint and bucket: there and nowhere else, under ``<request_id>/<filename>``."""
    result = world.run(picture(6, prefix="sub/own"), request_id="chosen", s3=world.store.block("other"))
    (entry,) = result["output"]
    assert urlsplit(entry["url"]).path == "/other/chosen/own_00001_.png"
    assert world.store.keys("other", "chosen/") == {"chosen/own_00001_.png"}
    assert world.store.keys("mine", "chosen/") == set()
    assert "Contents" not in world.swift.client().list_objects_v2(Bucket="outputs", Prefix="chosen/")
    head = world.store.server.client().head_object(Bucket="other", Key="chosen/own_00001_.png")
    assert head["ContentType"] == "image/png"


def test_outputs_of_one_name_do_not_overwrite_each_other(world: World) -> None:
    """Two folders, one file name: two keys, two pictures, and entries that tell them apart."""
    first, second = world.run(two("a/same", "b/same"), request_id="twins", s3=world.store.block())["output"]
    assert (first["filename"], second["filename"]) == ("same_00001_.png", "same_00001_.png")
    assert (first["subfolder"], second["subfolder"]) == ("a", "b")
    assert world.store.keys(prefix="twins/") == {"twins/2_same_00001_.png", "twins/4_same_00001_.png"}
    for entry in (first, second):
        assert download(entry["url"])[1] == Path(entry["local_path"]).read_bytes()
    assert download(first["url"])[1] != download(second["url"])[1]


def test_a_request_id_used_again_overwrites_nothing(world: World) -> None:
    """From the second run on its number is in the key; what was handed out first still downloads."""
    runs = [world.run(picture(color), request_id="again", s3=world.store.block()) for color in (10, 11, 12)]
    assert world.store.keys(prefix="again/") == {
        "again/w1_00001_.png",
        "again/2/w1_00001_.png",
        "again/3/w1_00001_.png",
    }
    files = [download(run["output"][0]["url"])[1] for run in runs]
    assert len(set(files)) == 3
    assert {run["output"][0]["filename"] for run in runs} == {"w1_00001_.png"}


def test_a_large_output_streams(world: World) -> None:
    """64 MB go up in parts, byte for byte, and the worker grows by less than the file."""
    data = os.urandom(1 << 20) * (BIG_BYTES >> 20)
    path = world.comfyui.output / "big.bin"
    path.write_bytes(data)
    reported = {"files": [{"filename": "big.bin", "subfolder": "", "type": "output"}]}
    graph = picture(1)
    graph["2"] = {"class_type": "HWReport", "inputs": {"image": ["1", 0], "ui": json.dumps(reported)}}
    process = world.doors.process
    before = process.health()["host"]["worker_rss_bytes"]
    (entry,) = world.run(graph, request_id="big", s3=world.store.block())["output"]
    grown = process.health()["host"]["worker_rss_bytes"] - before
    try:
        assert "upload_error" not in entry
        reply = requests.get(entry["url"], timeout=240)
        assert hashlib.sha256(reply.content).digest() == hashlib.sha256(data).digest()
        assert grown < BIG_BYTES, f"{grown >> 20} MiB"
    finally:
        path.unlink()


# -- webhooks -------------------------------------------------------------------------------------------------------


def signature(body: bytes, secret: str) -> str:
    return "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


def completes(world: World, fields: dict[str, Any]) -> None:
    world.run(picture(20), **fields)


def fails(world: World, fields: dict[str, Any]) -> None:
    graph = {"1": {"class_type": "SaveImage", "inputs": {"images": "oops", "filename_prefix": "x"}}}
    assert world.doors.send("api", {"input": {"workflow_json": graph, **fields}}).status_code == 500


def is_cancelled(world: World, fields: dict[str, Any]) -> None:
    process = world.doors.process
    with calling(f"{process.api}/generate/sync", {"input": {"workflow_json": slow(60, color=21), **fields}}):
        process.wait_for(lambda: process.get(f"/jobs/{fields['request_id']}").status_code == 200, "accepted")


@pytest.mark.parametrize("run", [completes, fails, is_cancelled])
def test_the_webhook_tells_every_end(world: World, run: Callable[[World, dict[str, Any]], None]) -> None:
    """Completed, failed, cancelled: one signed POST of the wrapper's body to the caller's own URL."""
    path = f"/hook/{run.__name__}"
    hook = {"url": world.host.url(path), "secret": "mine", "extra_params": {"user": 7, "tags": ["a"]}}
    run(world, {"request_id": f"hook-{run.__name__}", "webhook": hook})
    (seen,) = world.told(path)
    assert seen.method == "POST"
    assert seen.headers["Content-Type"] == "application/json"
    assert seen.headers["X-Webhook-Signature"] == signature(seen.body, "mine")
    body = json.loads(seen.body)
    assert set(body) == {"id", "status", "message", "output", "timings", "extra"}
    assert body["id"] == f"hook-{run.__name__}"
    assert body["status"] == {"completes": "completed", "fails": "failed"}.get(run.__name__, "cancelled")
    assert body["extra"] == {"user": 7, "tags": ["a"]}
    assert bool(body["output"]) is (run is completes)
    assert body["timings"]["total_ms"] >= 0


def test_the_operators_webhook_is_the_default(world: World) -> None:
    """Signed with the operator's secret; a caller's URL never is, else anybody could have things signed."""
    world.run(picture(22), request_id="default-hook", webhook={"url": "", "extra_params": {"n": 1}})
    process = world.doors.process

    def mine() -> list[Seen]:
        return [seen for seen in list(world.host.seen) if b'"default-hook"' in seen.body]

    process.wait_for(mine, "told")
    (seen,) = mine()
    assert seen.path == "/hook/operator"
    assert seen.headers["X-Webhook-Signature"] == signature(seen.body, OPERATORS_SECRET)
    assert json.loads(seen.body)["extra"] == {"n": 1}
    world.run(picture(23), webhook={"url": world.host.url("/hook/unsigned")})
    (unsigned,) = world.told("/hook/unsigned")
    assert "X-Webhook-Signature" not in unsigned.headers


@pytest.mark.parametrize("door", DOORS)
def test_a_standard_webhook(world: World, door: Door) -> None:
    """Signed as Standard Webhooks ask, with an id and a time; the body is thin and links to the files."""
    secret = "whsec_" + base64.b64encode(os.urandom(24)).decode()
    path = f"/hook/standard-{door}"
    hook = {"url": world.host.url(path), "secret": secret, "scheme": "standard", "extra_params": {"user": 7}}
    result = world.run(picture(25), door=door, request_id=f"standard-{door}", webhook=hook)
    (seen,) = world.told(path)
    told = Webhook(secret).verify(seen.body, seen.headers)
    assert told["type"] == "job.completed"
    assert (told["data"]["id"], told["data"]["status"]) == (f"standard-{door}", "completed")
    assert told["data"]["outputs"][0]["url"] == result["output"][0]["url"]
    assert told["data"]["extra"] == {"user": 7}
    assert seen.headers["webhook-id"].startswith("msg_")
    with pytest.raises(WebhookVerificationError):
        Webhook(secret).verify(seen.body + b" ", seen.headers)


def test_a_webhook_is_tried_again(world: World) -> None:
    """A target that is down for a moment is told all the same, with the same body."""
    world.host.failures = 1
    world.run(picture(24), webhook={"url": world.host.url("/flaky"), "secret": "mine"})
    first, second = world.told("/flaky", 2)
    assert first.body == second.body
    assert second.headers["X-Webhook-Signature"] == signature(second.body, "mine")


# -- disks ------------------------------------------------------------------------------------------------------


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[None]:
    """A file system of its own, soon full."""
    folder.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(folder)], capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip(f"no file system can be mounted here, so no disk can be full: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_no_room_for_outputs(world: World) -> None:
    """ComfyUI can't write: the job fails with the cause and no host path, the next one is well."""
    graph = picture("__RANDOM_INT__")
    graph["1"]["inputs"] |= {"width": 1024, "height": 1024, "batch_size": 8, "color": 1}
    with small_disk(world.comfyui.output / "full-disk", "8k"):
        reply = world.doors.send("api", {"input": {"request_id": "full-disk", "workflow_json": graph}})
    assert reply.status_code == 500
    assert reply.json()["status"] == "failed"
    assert "No space left on device" in reply.json()["message"]
    assert str(world.comfyui.folder) not in reply.text
    world.run(picture(30))


@pytest.mark.parametrize("door", DOORS)
def test_no_room_for_inputs(world: World, door: Door) -> None:
    """Our own disk is full: the job fails as such, no half file stays, and it works when there is room again."""
    world.host.files["/large.png"] = (png(700, 700) + os.urandom(400_000), "image/png")
    graph = {
        "1": {"class_type": "LoadImage", "inputs": {"image": world.host.url(f"/large.png?{door}")}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "in"}},
    }
    inputs = world.doors.process.workspace / "inputs"
    with small_disk(inputs, "128k"):
        reply = world.doors.send(door, {"input": {"workflow_json": graph}})
        world.doors.process.wait_for(lambda: not [*inputs.rglob("*.part")], "tidied up")
        left = [path for path in inputs.rglob("*") if path.is_file()]
    assert reply.status_code == (500 if door == "api" else 422)
    assert reply.json()["error"] == "storage_failed"
    assert "No space left on device" in reply.json()["message"]
    assert left == []
    world.run(graph, door=door)
