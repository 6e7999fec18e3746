"""One connection to a Redis-protocol server, shared by all callers: what is asked meanwhile goes in the next flight.

redis-py speaks the protocol. Each call ends in time: with an answer, or with StoreDown.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from redis.asyncio.connection import Connection, ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as Disconnected
from redis.exceptions import NoScriptError, RedisError, ResponseError

from lib.lifecycle import Tasks
from lib.settings import SettingsError
from router.ports import StoreDown
from router.store.redis_scripts import Script

PREFIX = "{pyrouter}:"
"""Of all keys; the braces keep them in one hash slot, as scripts want it."""
CALL_S = 2.0
IDLE_S = 5.0
"""After so long without news the server is asked whether it is there."""
MOST_CALLS = 256
"""Of one flight."""

CLOSED = "The connection to the store (ROUTER_STORE) was closed."

Argument = str | bytes | int | float
Command = Sequence[Argument]
Connect = Callable[[], Connection]


def connections(url: str) -> Connect:
    """What makes connections to this server. Raises: SettingsError."""
    tcp = {} if url.startswith("unix:") else {"socket_keepalive": True}
    try:
        pool = ConnectionPool.from_url(url, protocol=2, retry=Retry(NoBackoff(), 0), client_name="pyrouter", **tcp)
    except ValueError as error:
        raise SettingsError("ROUTER_STORE is no URL such as redis://user:password@host:6379/0") from error
    return pool.make_connection


@dataclass(frozen=True, slots=True)
class _Call:
    command: Command
    script: Script | None
    answer: asyncio.Future[Any]


class RedisLine:
    """``prepare`` is run with each new connection, before it is used."""

    def __init__(
        self,
        connect: Connect,
        *,
        tasks: Tasks,
        prepare: Callable[[Connection], Awaitable[None]],
        call_s: float = CALL_S,
        idle_s: float = IDLE_S,
    ) -> None:
        self._connect = connect
        self._connection = connect()
        self._prepare = prepare
        self._call_s = call_s
        self._idle_s = idle_s
        self._waiting: list[_Call] = []
        self._flying: list[_Call] = []
        self._closed = False
        self._wake = asyncio.Event()
        self._tasks = tasks
        self._runner = self._start()

    async def call(self, *command: Argument) -> Any:
        """Do one command. Raises: StoreDown."""
        return await self._send(command, None)

    async def run(self, script: Script, *arguments: Argument) -> Any:
        """Do a script. Raises: StoreDown."""
        return await self._send(("EVALSHA", script.sha, 1, PREFIX, *arguments), script)

    @asynccontextmanager
    async def listen(self, channel: str) -> AsyncIterator[AsyncIterator[bytes]]:
        """What is published from now on, over a connection of its own. Raises: StoreDown, also from the iterator."""
        connection = self._connect()
        try:
            await self._subscribe(connection, channel)
            yield _published(connection, self._idle_s)
        finally:
            await connection.disconnect(nowait=True)

    async def _subscribe(self, connection: Connection, channel: str) -> None:
        try:
            async with asyncio.timeout(self._call_s):
                await connection.connect()  # type: ignore[no-untyped-call]
                await self._prepare(connection)
                await exchange(connection, [("SUBSCRIBE", channel)])
        except (RedisError, OSError) as error:
            raise down(error) from error

    async def close(self) -> None:
        """Hang up: calls that wait, and later ones, have StoreDown."""
        self._closed = True
        self._runner.cancel()
        await asyncio.wait([self._runner])
        await self._connection.disconnect(nowait=True)

    def _send(self, command: Command, script: Script | None) -> "asyncio.Future[Any]":
        if self._closed:
            raise StoreDown(CLOSED)
        if self._runner.done():  # on a fault of ours, which is in the log
            self._runner = self._start()
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Call(command, script, answer))
        self._wake.set()
        return answer

    def _start(self) -> "asyncio.Task[None]":
        return self._tasks.spawn(self._run(), name="store line")

    async def _run(self) -> None:
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                while self._waiting:
                    self._flying, self._waiting = self._waiting[:MOST_CALLS], self._waiting[MOST_CALLS:]
                    await self._fly()
        finally:
            self._fail(StoreDown(CLOSED))
            await self._connection.disconnect(nowait=True)

    async def _fly(self) -> None:
        try:
            async with asyncio.timeout(self._call_s):
                answers = await self._answers(self._flying)
        except (RedisError, OSError, StoreDown) as error:
            await self._connection.disconnect(nowait=True)
            self._fail(error)
            return
        for call, answer in zip(self._flying, answers, strict=True):
            _settle(call.answer, answer)
        self._flying = []

    def _fail(self, error: Exception) -> None:
        """Also those that wait for the next flight: it would take as long again to find out."""
        calls, self._flying, self._waiting = self._flying + self._waiting, [], []
        for call in calls:
            _settle(call.answer, error)

    async def _answers(self, flight: list[_Call]) -> list[Any]:
        """A server that was restarted while nobody asked is noticed only now; all calls may be made twice."""
        commands = [call.command for call in flight]
        if self._connection.is_connected:
            try:
                return await self._with_scripts(flight, await exchange(self._connection, commands))
            except Disconnected:
                await self._connection.disconnect(nowait=True)
        await self._connection.connect()  # type: ignore[no-untyped-call]
        await self._prepare(self._connection)
        return await self._with_scripts(flight, await exchange(self._connection, commands))

    async def _with_scripts(self, flight: list[_Call], answers: list[Any]) -> list[Any]:
        """Send those scripts whole that the server does not know."""
        unknown = [number for number, answer in enumerate(answers) if isinstance(answer, NoScriptError)]
        calls = ((flight[number].command, flight[number].script) for number in unknown)
        whole = [("EVAL", script.text, *command[2:]) for command, script in calls if script is not None]
        for number, answer in zip(unknown, await exchange(self._connection, whole), strict=True):
            answers[number] = answer
        return answers


async def exchange(connection: Connection, commands: Sequence[Command]) -> list[Any]:
    """Send commands, return their answers; refused ones have ResponseError. Raises: RedisError, OSError."""
    if not commands:
        return []
    await connection.send_packed_command(connection.pack_commands(commands), check_health=False)
    answers: list[Any] = []
    for _ in commands:
        try:
            answers.append(await connection.read_response(disable_decoding=True))
        except ResponseError as error:
            answers.append(error)
    return answers


def down(error: Exception) -> StoreDown:
    """What a caller is told; the server's words have no values of ours in them."""
    if isinstance(error, StoreDown):
        return type(error)(error.message)
    words = str(error)[:200] or "it does not answer in time"
    return StoreDown(f"The store (ROUTER_STORE) does not work: {words}")


def _settle(waiter: "asyncio.Future[Any]", answer: Any) -> None:
    if waiter.done():
        return
    if isinstance(answer, Exception):
        waiter.set_exception(down(answer))
        waiter.exception()  # nobody has to look at it
    else:
        waiter.set_result(answer)


async def _published(connection: Connection, idle_s: float) -> AsyncIterator[bytes]:
    silent = False
    while True:
        try:
            told = await connection.read_response(disable_decoding=True, timeout=idle_s)
            if told is None and not silent:
                await connection.send_command("PING")
        except (RedisError, OSError) as error:
            raise down(error) from error
        if told is None and silent:
            raise StoreDown("The store (ROUTER_STORE) does not answer any more.")
        silent = told is None
        if told is not None and told[0] == b"message":
            yield told[2]
