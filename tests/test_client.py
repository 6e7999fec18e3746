"""The example client, run as its user runs it, against small servers on the loopback."""

import asyncio
import base64
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

REPOSITORY = Path(__file__).resolve().parents[1]
CLIENT = REPOSITORY / "workers" / "comfyui-json" / "client.py"
PNG = b"\x89PNG\r\n\x1a\n-picture"


class Service:
    """A service and a router in one; ``answers`` are given to the jobs in turn, ``seen`` has what came in."""

    def __init__(self, *answers: tuple[int, object]) -> None:
        self.answers = list(answers)
        self.seen: list[tuple[str, Any]] = []
        self.routes: list[object] = []
        self.streams: list[list[tuple[str, dict[str, object]]]] = []
        """Events (id, data) of one connection after the other; all but the last one break off."""
        self.url = ""

    async def job(self, request: web.Request) -> web.Response:
        self.seen.append((request.headers.get("Authorization", ""), await request.json()))
        status, body = self.answers.pop(0)
        return web.json_response(body, status=status) if not isinstance(body, str) else web.Response(text=body)

    async def route(self, request: web.Request) -> web.Response:
        self.seen.append(("route", await request.json()))
        return web.json_response(self.routes.pop(0))

    async def accept(self, request: web.Request) -> web.Response:
        self.seen.append((request.headers.get("Authorization", ""), await request.json()))
        return web.json_response({"stream_url": f"{self.url}/events?job_token=t"}, status=202)

    async def events(self, request: web.Request) -> web.StreamResponse:
        self.seen.append(("events", request.headers.get("Last-Event-ID")))
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for event_id, data in self.streams.pop(0):
            head = f"id: {event_id}\n" if event_id else ""
            await response.write(f"{head}data: {json.dumps(data)}\n\n".encode())
        if self.streams:
            assert request.transport is not None
            request.transport.close()
        return response

    async def file(self, request: web.Request) -> web.Response:
        return web.Response(body=PNG)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[str]:
        app = web.Application()
        app.router.add_post("/generate/sync", self.job)
        app.router.add_post("/generate", self.accept)
        app.router.add_get("/events", self.events)
        app.router.add_post("/route/", self.route)
        app.router.add_get("/file.png", self.file)
        async with TestServer(app) as server:
            self.url = str(server.make_url("")).rstrip("/")
            yield self.url


async def client(folder: Path, *arguments: str, env: dict[str, str] | None = None) -> tuple[int, str, str]:
    """Run the client; give its exit status and both outputs."""
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, str(CLIENT), "--output", str(folder), *arguments),
        env=env or {},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await child.communicate()
    assert child.returncode is not None
    return child.returncode, output.decode(), errors.decode()


def done(**entry: object) -> dict[str, object]:
    output = {"filename": "picture.png", "local_path": "/elsewhere/picture.png", "node_id": "9", **entry}
    return {"id": "r1", "status": "completed", "message": "Processing complete.", "output": [output]}


async def test_a_picture_in_the_answer_is_saved(tmp_path: Path) -> None:
    """Direct: the bare request, base64 asked for, the file written byte for byte."""
    service = Service((200, done(data=base64.b64encode(PNG).decode())))
    async with service.running() as url:
        status, output, errors = await client(
            tmp_path, "--url", url + "/", "--api-key", "k", "--prompt", 'two "otters"'
        )
    assert status == 0, errors
    assert (tmp_path / "picture.png").read_bytes() == PNG
    assert f"{tmp_path}/picture.png ({len(PNG)} bytes)" in output
    authorization, body = service.seen[0]
    assert authorization == "Bearer k"
    assert body["input"]["return_outputs_as_base64"] is True
    assert body["input"]["workflow_json"]["6"]["inputs"]["text"] == 'two "otters"'
    assert body["input"]["workflow_json"]["3"]["inputs"]["seed"] == "__RANDOM_INT__"


async def test_inputs_can_be_set_and_a_workflow_brought(tmp_path: Path) -> None:
    """``--set`` keeps numbers numbers and text text; ``__PROMPT__`` marks where the text goes."""
    graph = {"1": {"class_type": "A", "inputs": {"text": "x __PROMPT__", "steps": 20, "name": "old"}}}
    path = tmp_path / "graph.json"
    path.write_text(json.dumps(graph))
    service = Service((200, done(data=base64.b64encode(PNG).decode())))
    changes = ("--set", "1.steps=4", "--set", "1.name=new one")
    async with service.running() as url:
        status, _, errors = await client(
            tmp_path / "out", "--url", url, "--workflow", str(path), "--prompt", "y", *changes
        )
    assert status == 0, errors
    inputs = service.seen[0][1]["input"]["workflow_json"]["1"]["inputs"]
    assert inputs == {"text": "x y", "steps": 4, "name": "new one"}


async def test_a_picture_in_a_bucket_is_downloaded(tmp_path: Path) -> None:
    """S3: keys from the environment, nothing inlined, the file fetched from its URL."""
    service = Service()
    async with service.running() as url:
        service.answers = [(200, done(url=f"{url}/file.png"))]
        env = {"S3_ACCESS_KEY_ID": "id", "S3_SECRET_ACCESS_KEY": "s"}
        status, _, errors = await client(tmp_path, "--url", url, "--s3-bucket-name", "b", env=env)
    assert status == 0, errors
    assert (tmp_path / "picture.png").read_bytes() == PNG
    request = service.seen[0][1]["input"]
    assert request["return_outputs_as_base64"] is False
    assert request["s3"] == {
        "bucket_name": "b",
        "endpoint_url": "",
        "region": "",
        "access_key_id": "id",
        "secret_access_key": "s",
    }


async def test_a_file_on_this_machine_is_copied_under_a_harmless_name(tmp_path: Path) -> None:
    """Same host: the local path is good enough; a name never leaves the output folder."""
    source = tmp_path / "source.png"
    source.write_bytes(PNG)
    service = Service((200, done(filename="../../evil.png", local_path=str(source))))
    async with service.running() as url:
        status, _, errors = await client(tmp_path / "out", "--url", url)
    assert status == 0, errors
    assert (tmp_path / "out" / "evil.png").read_bytes() == PNG


async def test_a_file_that_stayed_on_the_worker_is_an_error_with_its_reason(tmp_path: Path) -> None:
    """A smoke test must fail when there is no picture."""
    service = Service((200, done(upload_error="no such bucket")))
    async with service.running() as url:
        status, _, errors = await client(tmp_path, "--url", url)
    assert status == 1
    assert "/elsewhere/picture.png: no such bucket" in errors


async def test_the_router_is_polled_and_the_signed_envelope_sent(tmp_path: Path) -> None:
    """WAITING is shown and asked again with the same id; the ticket goes to the worker whole."""
    service = Service((200, done(data=base64.b64encode(PNG).decode())))
    async with service.running() as url:
        ticket = {"url": url, "signature": "sig", "reqnum": 1, "cost": 100, "endpoint": "ep", "request_idx": 7}
        service.routes = [{"status": "1 loading", "request_idx": 7}, ticket]
        status, _, errors = await client(tmp_path, "--endpoint", "ep", "--api-key", "k", "--router", url)
    assert status == 0, errors
    assert "1 loading" in errors
    assert [body["request_idx"] for name, body in service.seen if name == "route"] == [0, 7]
    assert service.seen[0][1] == {"endpoint": "ep", "api_key": "k", "cost": 100, "request_idx": 0}
    envelope = service.seen[-1][1]
    assert (envelope["auth_data"], envelope["session_id"]) == (ticket, None)
    assert "workflow_json" in envelope["payload"]["input"]


async def test_a_busy_worker_sends_the_client_back_to_the_router(tmp_path: Path) -> None:
    """429 and 5xx are tried again with the same id, as Vast's SDK does; a 4xx is not."""
    busy: tuple[int, object] = (429, {"error": "overloaded"})
    service = Service(busy, (422, {"message": "node 3: no such model"}))
    async with service.running() as url:
        service.routes = [{"url": url, "request_idx": 7}] * 3
        status, _, errors = await client(tmp_path, "--endpoint", "ep", "--api-key", "k", "--router", url)
    assert status == 1
    assert "no such model" in errors
    assert [body["request_idx"] for name, body in service.seen if name == "route"] == [0, 7]


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ((500, {"id": "r", "status": "failed", "message": "node 3: out of memory", "output": []}), "out of memory"),
        ((200, {"id": "r", "status": "failed", "message": "node 3 broke", "output": []}), "node 3 broke"),
        ((422, {"detail": [{"loc": ["body", "input"], "msg": "Field required"}]}), "Field required"),
        ((200, "<html>a proxy</html>"), "a proxy"),
    ],
)
async def test_a_failed_job_says_what_the_service_says(tmp_path: Path, answer: tuple[int, object], said: str) -> None:
    """Whatever the status: exit 1, and the reason."""
    async with Service(answer).running() as url:
        status, _, errors = await client(tmp_path, "--url", url)
    assert status == 1
    assert said in errors
    assert "Traceback" not in errors


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("--url", "http://127.0.0.1:9"), 1, "start_server.sh"),
        (("--set", "99.steps=4"), 1, "NODE.INPUT=VALUE"),
        (("--workflow", "/nowhere.json"), 1, "/nowhere.json"),
        (("--endpoint", "ep"), 2, "--api-key"),
        (("--sdk",), 2, "--endpoint"),
        (("--sdk", "--endpoint", "ep", "--api-key", "k"), 1, "pip install vastai"),
    ],
)
async def test_mistakes_end_with_what_to_do(tmp_path: Path, arguments: tuple[str, ...], code: int, said: str) -> None:
    """No service, wrong options, absent files and packages: one sentence, no traceback."""
    status, _, errors = await client(tmp_path, *arguments)
    assert status == code
    assert said in errors
    assert "Traceback" not in errors


async def test_a_job_can_be_followed_through_broken_connections(tmp_path: Path) -> None:
    """In the background: each step is shown, what was seen is not asked for again, the result is saved."""
    service = Service()
    result = done(data=base64.b64encode(PNG).decode())
    service.streams = [
        [("", {"status": "queued", "message": "Request queued"}), ("7", {"status": "generating", "message": "step 1"})],
        [],
        [
            ("8", {"status": "generating", "message": "step 2", "percent": 50.0}),
            ("final", {"status": "final_result", "http_status": 200, "result": result}),
        ],
    ]
    async with service.running() as url:
        status, _, errors = await client(tmp_path, "--url", url, "--follow", "--api-key", "k")
    assert status == 0, errors
    assert (tmp_path / "picture.png").read_bytes() == PNG
    assert service.seen[0][0] == "Bearer k"
    assert [seen for name, seen in service.seen if name == "events"] == [None, "7", "7"]
    assert errors.index("step 1") < errors.index("50.0 step 2")


async def test_a_followed_job_that_fails_says_why(tmp_path: Path) -> None:
    """As a synchronous one does: exit 1, with the status that it would have had."""
    service = Service()
    failed = {"id": "r1", "status": "failed", "message": "node 3: out of memory", "output": []}
    service.streams = [[("final", {"status": "final_result", "http_status": 500, "result": failed})]]
    async with service.running() as url:
        status, _, errors = await client(tmp_path, "--url", url, "--follow")
    assert status == 1
    assert "HTTP 500: node 3: out of memory" in errors


async def test_a_followed_job_goes_through_the_router_too(tmp_path: Path) -> None:
    """The signed envelope to the worker's own route; its link needs nothing more."""
    service = Service()
    service.streams = [[("final", {"status": "final_result", "http_status": 200, "result": done(data="QQ==")})]]
    async with service.running() as url:
        service.routes = [{"url": url, "request_idx": 7}]
        status, _, errors = await client(tmp_path, "--follow", "--endpoint", "ep", "--api-key", "k", "--router", url)
    assert status == 0, errors
    assert service.seen[1][1]["auth_data"]["request_idx"] == 7


async def test_help_shows_examples_and_the_file_stays_short(tmp_path: Path) -> None:
    """An example is read before it is run: at most 200 lines."""
    status, output, _ = await client(tmp_path, "--help")
    assert status == 0
    assert "--endpoint NAME --api-key KEY --sdk" in output
    assert len(CLIENT.read_text().splitlines()) <= 200
