"""Salad's API over plain HTTP, a worker that has every storage and webhook of it, and those storages on loopback."""

import base64
import itertools
import json
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyvips
import requests
from aiohttp import web
from standardwebhooks import Webhook

from tests.comfyui_fixture import REPOSITORY
from tests.fakes.http_hosts import Seen, WebHost
from tests.fakes.hub import TOKEN, FakeHub
from tests.integration.harness import WorkerProcess, picture, worker
from tests.integration.mishaps import Aside, aside
from tests.peers.azure.azurite import CONTAINER, AzureServer
from tests.s3_fixture import S3Server

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
"""As every tool of Standard Webhooks writes one."""
BUCKET = "outputs"
HEADER = ("X-File-Key", "the-operators-header")
SYSTEM = "/hook/system"
PATIENCE_S = 150.0
"""Until something counts as missing; machines that test are busy."""
Answer = dict[str, Any]
Graph = dict[str, Any]
_COLORS = itertools.count(0x200000)


class FileHost(WebHost):
    """Also takes files by PUT, and refuses them with ``refuses`` when it is told to; of the next ``cuts`` files that
    are asked for it sends half, under the length of the whole."""

    refuses = 0
    cuts = 0

    async def _answered(self, request: web.Request) -> web.StreamResponse:
        if self.cuts and request.path in self.files:
            self.cuts -= 1
            return await self._half(request, self.files[request.path][0])
        if request.method != "PUT":
            return await super()._answered(request)
        body = await request.read()
        self.seen.append(Seen(method="PUT", path=request.path, headers=dict(request.headers), body=body))
        if self.refuses:
            return web.Response(status=self.refuses)
        self.files[request.path] = (body, request.content_type)
        return web.Response(status=201)

    async def _half(self, request: web.Request, content: bytes) -> web.StreamResponse:
        self.seen.append(Seen(method="GET", path=request.path, headers=dict(request.headers)))
        response = web.StreamResponse(headers={"Content-Length": str(len(content))})
        await response.prepare(request)
        await response.write(content[: len(content) // 2])
        assert request.transport is not None
        request.transport.close()
        return response

    async def _on_hook(self, request: web.Request) -> web.Response:
        """``statuses`` are for the webhooks of jobs."""
        if request.path == SYSTEM:
            return web.Response()
        return await super()._on_hook(request)

    def told(self, path: str) -> list[Seen]:
        """What was posted there so far."""
        return [seen for seen in self.seen if seen.path == path and seen.method == "POST"]

    def put(self, path: str, data: bytes, mime: str = "application/octet-stream") -> str:
        """Serve a file; give its URL."""
        self.files[path] = (data, mime)
        return self.url(path)


class OpenHub(FakeHub):
    """Serves files from its own address, since nobody here knows its CDN's name."""

    async def _resolve(self, request: web.Request) -> web.Response:
        answer = await super()._resolve(request)
        answer.headers["Location"] = f"{self.endpoint}/cdn/{answer.headers['Location'].rpartition('/')[2]}"
        return answer


@dataclass(frozen=True, slots=True, kw_only=True)
class Storages:
    """Real servers; Hugging Face's is a stand-in."""

    s3: S3Server
    azure: AzureServer
    hub: Aside[OpenHub]
    files: FileHost

    @property
    def settings(self) -> dict[str, str]:
        """A worker's accounts there, and who is told of what it does."""
        return {
            "FETCH_ALLOW_HOSTS": "127.0.0.1",
            "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": self.s3.access_key_id,
            "AWS_SECRET_ACCESS_KEY": self.s3.secret_access_key,
            "AWS_ENDPOINT_URL": self.s3.endpoint_url,
            "AZURE_STORAGE_CONNECTION_STRING": self.azure.connection_string,
            "HF_TOKEN": TOKEN,
            "HF_ENDPOINT": self.hub.server.endpoint,
            "HF_HUB_DISABLE_XET": "1",
            "HTTP_AUTH_HEADER_NAME": HEADER[0],
            "HTTP_AUTH_HEADER_VALUE": HEADER[1],
            "HTTP_AUTH_HEADER_HOSTS": "127.0.0.1",
            "WEBHOOK_SECRET": SECRET,
            "SYSTEM_WEBHOOK_URL": self.files.url(SYSTEM),
            "SYSTEM_WEBHOOK_EVENTS": "all",
            "SYSTEM_META_batch": "abc",
            "SALAD_MACHINE_ID": "machine-1",
            "SALAD_METADATA_URL": self.files.url(""),
        }

    def keys(self, prefix: str) -> list[str]:
        """What is in the bucket below a prefix."""
        found = self.s3.client().list_objects_v2(Bucket=BUCKET, Prefix=prefix)
        return [entry["Key"] for entry in found.get("Contents", ())]

    def object(self, url: str) -> bytes:
        """An object that ``s3://bucket/key`` names."""
        bucket, _, key = url.removeprefix("s3://").partition("/")
        return bytes(self.s3.client().get_object(Bucket=bucket, Key=key)["Body"].read())

    def blobs(self, prefix: str) -> dict[str, bytes]:
        """What is in the container below a prefix."""
        with self.azure.client() as client, client.get_container_client(CONTAINER) as container:
            names = [blob.name for blob in container.list_blobs(name_starts_with=prefix)]
            return {name: container.download_blob(name).readall() for name in names}

    def put_blob(self, name: str, data: bytes) -> str:
        """Store a blob; give its URL, which nobody may read without a key."""
        with self.azure.client() as client, client.get_blob_client(CONTAINER, name) as blob:
            blob.upload_blob(data, overwrite=True)
            return str(blob.url)


@contextmanager
def storages(s3: S3Server, azure: AzureServer) -> Iterator[Storages]:
    """All of them, until the end of the block."""
    with ExitStack() as stack:
        hub = stack.enter_context(aside(OpenHub()))
        files = stack.enter_context(aside(FileHost())).server
        yield Storages(s3=s3, azure=azure, hub=hub, files=files)


class Salad:
    """A worker as comfyui-api."""

    def __init__(self, process: WorkerProcess, places: Storages) -> None:
        self.process = process
        self.places = places
        self.files = places.files

    def ask(self, method: str, path: str, *, timeout: float = 200, **options: Any) -> requests.Response:
        return requests.request(method, self.process.api + path, timeout=timeout, **options)

    def prompt(self, graph: Mapping[str, Any], *, status: int = 200, path: str = "/prompt", **top: Any) -> Answer:
        """Send a prompt; give its answer, which has this status."""
        return self.answer(path, {"prompt": dict(graph), **top}, status=status)

    def answer(self, path: str, body: Any, *, status: int = 200) -> Answer:
        """POST; give the answer, which has this status."""
        reply = self.ask("POST", path, json=body)
        assert reply.status_code == status, f"{reply.status_code} {reply.text[:2000]}"
        assert reply.headers["Content-Type"] == "application/json; charset=utf-8"
        return dict(reply.json())

    def hook(self, name: str) -> str:
        return self.files.url(f"/hook/{name}")

    def told(self, name: str, count: int = 1, *, timeout_s: float = PATIENCE_S) -> list[Seen]:
        """What a webhook was told, as soon as it is so much."""
        path = f"/hook/{name}"
        self.process.wait_for(lambda: len(self.files.told(path)) >= count, f"{count} told {path}", timeout_s)
        found = self.files.told(path)
        assert len(found) == count, [seen.body[:200] for seen in found]
        return found

    def verified(self, name: str) -> Answer:
        """The one body that a signed webhook was sent, by Standard Webhooks' own library."""
        (seen,) = self.told(name)
        return verified(seen)

    def running(self) -> int:
        return int(self.process.health()["queues"]["running"])

    def until_running(self) -> None:
        self.process.wait_for(lambda: self.running() == 1, "running", PATIENCE_S)


def verified(seen: Seen) -> Answer:
    """A body whose signature is right, over its three headers."""
    headers = {name.lower(): value for name, value in seen.headers.items()}
    return dict(Webhook(SECRET).verify(seen.body, headers))


@contextmanager
def salad(folder: Path, comfyui: str, places: Storages, **env: str) -> Iterator[Salad]:
    """A worker on a ComfyUI that runs, with every storage, and a copy of our workflow endpoints."""
    measured = folder / "measured.json"
    measured.write_text(json.dumps(picture(prefix="measured")))
    workflows = folder / "workflows"
    shutil.copytree(REPOSITORY / "workflow-endpoints", workflows, dirs_exist_ok=True)
    settings = {
        "COMFYUI_API_BASE": comfyui,
        "BENCHMARK_JSON_PATH": str(measured),
        "PRIMARY_DIALECT": "salad",
        "WORKFLOW_DIR": str(workflows),
        **places.settings,
        **env,
    }
    with worker(folder, **settings) as process:
        yield Salad(process, places)


def fresh(count: int = 1, *, prefix: str = "ComfyUI", width: int = 64, height: int = 48) -> Graph:
    """Pictures that nobody made before."""
    size = {"width": width, "height": height, "batch_size": count, "color": next(_COLORS)}
    return {
        "1": {"class_type": "EmptyImage", "inputs": size},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": prefix}},
    }


def held(gate: Path) -> Graph:
    """A picture that is worked on until the file ``gate`` is there, and hears interrupts meanwhile."""
    graph = fresh()
    graph["3"] = {"class_type": "HWHold", "inputs": {"image": ["1", 0], "until": str(gate)}}
    graph["2"]["inputs"]["images"] = ["3", 0]
    return graph


def long(seconds: float) -> Graph:
    """A picture that takes so long, and hears interrupts meanwhile."""
    graph = fresh()
    graph["3"] = {"class_type": "HWTicks", "inputs": {"image": ["1", 0], "seconds": seconds, "ticks": 50}}
    graph["2"]["inputs"]["images"] = ["3", 0]
    return graph


def failing() -> Graph:
    """A node that fails before anything is saved."""
    graph = fresh()
    graph["3"] = {"class_type": "HWFail", "inputs": {"image": ["1", 0], "kind": "value"}}
    graph["2"]["inputs"]["images"] = ["3", 0]
    return graph


def loading(value: Any, *, class_type: str = "LoadImage", field: str = "image") -> Graph:
    """A picture of the request's, saved again."""
    return {
        "10": {"class_type": class_type, "inputs": {field: value}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["10", 0], "filename_prefix": "loaded"}},
    }


def opened(content: str) -> pyvips.Image:
    """The picture in a base64 text."""
    return decoded(base64.b64decode(content, validate=True))


def decoded(data: bytes) -> pyvips.Image:
    """A picture; ``get("vips-loader")`` tells its format."""
    return pyvips.Image.new_from_buffer(data, "")


def noise(width: int = 64, height: int = 48) -> bytes:
    """A PNG with much detail and little colour, so that options of encoders show."""
    grey = pyvips.Image.gaussnoise(width, height, mean=110, sigma=35, seed=1)
    return bytes(grey.bandjoin([grey + 10, grey + 20]).cast("uchar").copy(interpretation="srgb").pngsave_buffer())


def text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def eventually(given: Any, *, timeout_s: float = PATIENCE_S) -> Any:
    """What ``given()`` gives once that is something."""
    until = time.monotonic() + timeout_s
    while not (found := given()):
        assert time.monotonic() < until, "it never came"
        time.sleep(0.05)
    return found
