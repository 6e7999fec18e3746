"""Plain calls to ComfyUI over connections that stay open."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest
from yarl import URL

from lib.comfy.wire import MOST_HEAD_BYTES, NotPlain, Unconnected, Wire
from tests.comfyui_fixture import free_port

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


class Peer(asyncio.Protocol):
    """Answers each request with the next of ``answers``, piece by piece; ``None`` hangs up."""

    def __init__(self, server: "Server") -> None:
        self._server = server
        self._ended = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._server.connected.append(self)

    def connection_lost(self, error: Exception | None) -> None:
        self._ended.set()
        self._server.lost.set()

    def data_received(self, data: bytes) -> None:
        self._server.heard.append(data)
        self._server.asked.set()
        for piece in self._server.answers.pop(0) if self._server.answers else ():
            if piece is None:
                self._transport.abort()
            else:
                self._transport.write(piece)

    def hang_up(self) -> None:
        self._transport.close()

    async def leave(self) -> None:
        """Leave no open socket behind."""
        self._transport.abort()
        await self._ended.wait()


class Server:
    def __init__(self, answers: Sequence[Sequence[bytes | None]]) -> None:
        self.answers = list(answers)
        self.heard: list[bytes] = []
        self.connected: list[Peer] = []
        self.asked = asyncio.Event()
        self.lost = asyncio.Event()


@asynccontextmanager
async def serving(*answers: Sequence[bytes | None], timeout_s: float = 10) -> AsyncIterator[tuple[Server, Wire]]:
    server = Server(answers)
    listener = await asyncio.get_running_loop().create_server(lambda: Peer(server), "127.0.0.1", 0)
    wire = Wire(URL(f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}/"), timeout_s=timeout_s)
    wire.kept = True
    async with listener:
        yield server, wire
        wire.close()
        for peer in server.connected:
            await peer.leave()


async def test_connections_are_used_again() -> None:
    """A call after another needs no connection of its own."""
    async with serving([OK], [b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"]) as (server, wire):
        assert await wire.call("POST", "/prompt", b"{}") == (200, b"ok")
        assert await wire.call("GET", "/history/1") == (404, b"")
    assert len(server.connected) == 1
    assert server.heard[0].startswith(b"POST /prompt HTTP/1.1\r\nHost: 127.0.0.1:")
    assert server.heard[0].endswith(b"Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{}")


async def test_nothing_is_kept_open_before_the_socket_is() -> None:
    """Who does not say that connections are kept leaves none behind."""
    async with serving([OK], [OK]) as (server, wire):
        wire.kept = False
        await wire.call("GET", "/prompt")
        await wire.call("GET", "/prompt")
        await server.lost.wait()
    assert len(server.connected) == 2


async def test_an_answer_may_come_in_pieces() -> None:
    """Also its head."""
    async with serving([OK[:20], OK[20:-1], OK[-1:]]) as (_, wire):
        assert await wire.call("GET", "/prompt") == (200, b"ok")


async def test_a_last_answer_ends_the_connection() -> None:
    """``Connection: close`` is obeyed."""
    last = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok"
    async with serving([last], [OK]) as (server, wire):
        await wire.call("GET", "/prompt")
        assert await wire.call("GET", "/prompt") == (200, b"ok")
    assert len(server.connected) == 2


async def test_a_connection_that_closed_while_it_was_idle_costs_nothing() -> None:
    """It is seen before anything is sent."""
    async with serving([OK], [OK]) as (server, wire):
        await wire.call("GET", "/prompt")
        server.connected[0].hang_up()
        while not wire._idle[0].closed:  # our side sees it in its own time
            await asyncio.sleep(0)
        assert await wire.call("POST", "/prompt", b"{}", once=True) == (200, b"ok")


async def test_what_may_be_repeated_is_sent_again_where_a_kept_connection_broke() -> None:
    """ComfyUI may close it at the same moment."""
    async with serving([OK], [None], [OK]) as (server, wire):
        await wire.call("GET", "/prompt")
        assert await wire.call("GET", "/prompt") == (200, b"ok")
    assert len(server.heard) == 3


async def test_a_prompt_is_sent_once() -> None:
    """It may have been queued."""
    async with serving([None], [OK]) as (server, wire):
        with pytest.raises(ConnectionError):
            await wire.call("POST", "/prompt", b"{}", once=True)
    assert len(server.heard) == 1


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\n\r\nok",
        b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
        b"SSH-2.0\r\n\r\n",
        b"x" * (MOST_HEAD_BYTES + 1),
    ],
)
async def test_what_is_not_plain_is_not_guessed_at(answer: bytes) -> None:
    """And is not tried again."""
    async with serving([answer]) as (_, wire):
        with pytest.raises(NotPlain):
            await wire.call("GET", "/prompt")
        assert not wire.usable


async def test_a_call_that_was_given_up_leaves_its_connection() -> None:
    """Its answer would be taken for the next one's."""
    async with serving([], [OK]) as (server, wire):
        calling = asyncio.create_task(wire.call("GET", "/history/1"))
        await server.asked.wait()
        calling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await calling
        await server.lost.wait()
        server.answers = [[OK]]
        assert await wire.call("GET", "/prompt") == (200, b"ok")
    assert len(server.connected) == 2


async def test_an_answer_that_does_not_come_is_not_waited_for() -> None:
    """And its connection is not used again."""
    async with serving([], timeout_s=0.5) as (server, wire):
        with pytest.raises(TimeoutError):
            await wire.call("GET", "/history/1")
        await server.lost.wait()


async def test_nobody_there_is_told_apart() -> None:
    """Nothing was sent."""
    with pytest.raises(Unconnected):
        await Wire(URL(f"http://127.0.0.1:{free_port()}/"), timeout_s=10).call("GET", "/prompt")


@pytest.mark.parametrize("base", ["https://127.0.0.1/", "http://me:secret@127.0.0.1/"])
def test_tls_and_logins_are_not_for_it(base: str) -> None:
    """They need the whole client."""
    assert not Wire(URL(base), timeout_s=10).usable
