"""ComfyUI's HTTP API: foreign exceptions become ours, answers are read leniently."""

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import web

from lib.comfy.client import ComfyClient, ConnectionRefused, QueueView, loads
from lib.errors import EngineUnreachable
from tests.comfyui_fixture import free_port
from tests.fakes.comfyui import FakeComfyUI

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]
Open = Callable[[Answer], Awaitable[ComfyClient]]


@pytest_asyncio.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


@pytest_asyncio.fixture
async def client(tmp_path: Path, http: aiohttp.ClientSession) -> AsyncIterator[ComfyClient]:
    async with FakeComfyUI(tmp_path) as fake:
        yield ComfyClient(fake.base_url, http, timeout_s=30)


@pytest_asyncio.fixture
async def answering(http: aiohttp.ClientSession) -> AsyncIterator[Open]:
    """A server that answers everything in the given way."""
    runners: list[web.ServerRunner] = []

    async def start(answer: Answer) -> ComfyClient:
        runner = web.ServerRunner(web.Server(answer))  # type: ignore[arg-type]
        runners.append(runner)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        return ComfyClient(f"http://127.0.0.1:{runner.addresses[0][1]}/", http, timeout_s=30)

    yield start
    for runner in runners:
        await runner.cleanup()


async def test_unknown_prompts_have_no_history(client: ComfyClient) -> None:
    """200 and an empty object."""
    assert await client.history("nope") is None
    assert await client.queue() == QueueView(running={}, pending={})
    assert await client.remaining() == 0


async def test_facts_are_read(client: ComfyClient) -> None:
    """One class or all."""
    assert (await client.system_stats())["system"]["comfyui_version"] == "0.3.75"
    assert set(loads(await client.object_info("SaveImage"))) == {"SaveImage"}
    assert "EmptyImage" in loads(await client.object_info())


async def test_nobody_there_is_told_apart(http: aiohttp.ClientSession) -> None:
    """Refused: nothing was sent."""
    client = ComfyClient(f"http://127.0.0.1:{free_port()}", http, timeout_s=30)
    with pytest.raises(ConnectionRefused):
        await client.post_prompt(b"{}")
    with pytest.raises(ConnectionRefused):
        await client.socket("id", heartbeat_s=20)


async def test_what_is_not_plain_is_read_all_the_same(answering: Open) -> None:
    """A proxy before ComfyUI may chunk and compress."""
    asked: list[str] = []

    async def chunked(request: web.Request) -> web.Response:
        asked.append(f"{request.method} {request.path}")
        response = web.json_response({"exec_info": {"queue_remaining": 3}})
        response.enable_compression(web.ContentCoding.gzip)
        response.enable_chunked_encoding()
        return response

    client = await answering(chunked)
    assert await client.remaining() == 3
    assert (await client.post_prompt(b"{}")).json == {"exec_info": {"queue_remaining": 3}}
    assert asked == ["GET /prompt", "GET /prompt", "POST /prompt"]


async def test_a_prompt_is_not_posted_again_for_an_answer_that_is_not_plain(answering: Open) -> None:
    """It may have been queued: who posts has to look."""
    asked: list[str] = []

    async def chunked(request: web.Request) -> web.Response:
        asked.append(request.path)
        response = web.json_response({"prompt_id": "1"})
        response.enable_chunked_encoding()
        return response

    client = await answering(chunked)
    with pytest.raises(EngineUnreachable):
        await client.post_prompt(b"{}")
    assert asked == ["/prompt"]


async def test_a_broken_connection_is_unreachable(answering: Open) -> None:
    """It may have arrived."""

    async def hang_up(request: web.Request) -> web.Response:
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    client = await answering(hang_up)
    with pytest.raises(EngineUnreachable) as caught:
        await client.post_prompt(b"{}")
    assert not isinstance(caught.value, ConnectionRefused)


async def test_an_error_status_is_unreachable_except_for_a_prompt(answering: Open) -> None:
    """POST /prompt's statuses mean something; others' don't."""

    async def fail(_: web.Request) -> web.Response:
        return web.Response(status=500, text="Server got itself in trouble")

    client = await answering(fail)
    reply = await client.post_prompt(b"{}")
    assert (reply.status, reply.json) == (500, None)
    with pytest.raises(EngineUnreachable, match="500"):
        await client.queue()


async def test_strange_answers_are_read_leniently(answering: Open) -> None:
    """NaN is Python's JSON; rubbish is nothing."""

    async def odd(request: web.Request) -> web.Response:
        if request.path.startswith("/history"):
            return web.Response(text='{"p": {"outputs": {"1": {"x": [NaN]}}}}')
        return web.Response(text='{"queue_running": [], "queue_pending": [[1, "a"], "b", [2]]}')

    client = await answering(odd)
    assert "outputs" in (await client.history("p") or {})
    queue = await client.queue()
    assert "a" in queue and list(queue.pending) == ["a"] and not queue.running


@pytest.mark.parametrize(
    "text",
    ["", "[]", "null", '{"queue_running": [', '{"p": 1, "queue_running": {}}', '{"exec_info": []}', '{"p": null}'],
    ids=["empty", "list", "null", "cut short", "other shapes", "no number", "no entry"],
)
async def test_what_cannot_be_read_is_no_answer(answering: Open, text: str) -> None:
    """An unreadable queue is not an empty one: a prompt would be posted twice."""

    async def odd(_: web.Request) -> web.Response:
        return web.Response(text=text)

    client = await answering(odd)
    with pytest.raises(EngineUnreachable, match="can't be read"):
        await client.queue()
    with pytest.raises(EngineUnreachable, match="can't be read"):
        await client.remaining()
    if "p" in text or not text.startswith("{"):
        with pytest.raises(EngineUnreachable, match="can't be read"):
            await client.history("p")


async def test_a_body_that_ends_too_early_is_unreachable(answering: Open) -> None:
    """Its length was promised."""

    async def cut(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse(headers={"Content-Length": "1000"})
        await answer.prepare(request)
        await answer.write(b'{"p": {"outputs": ')
        assert request.transport is not None
        request.transport.abort()
        return answer

    with pytest.raises(EngineUnreachable):
        await (await answering(cut)).history("p")


async def test_no_header_of_a_browser_is_sent(answering: Open) -> None:
    """ComfyUI refuses foreign origins on loopback; we send none."""
    seen: dict[str, str] = {}

    async def note(request: web.Request) -> web.Response:
        seen.update(request.headers)
        return web.json_response({})

    await (await answering(note)).interrupt("p")
    assert not {name for name in seen if name.lower() in ("origin", "referer") or name.lower().startswith("sec-")}


async def test_a_missing_file_is_told(client: ComfyClient) -> None:
    """By ``/view``'s status."""
    with pytest.raises(FileNotFoundError):
        async with client.view(filename="no.png", subfolder="", folder_type="output"):
            pass
