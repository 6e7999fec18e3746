"""The router's load generator, a process of its own on a core of its own: ``python -m benchmark.router_load``.

It speaks HTTP by hand over plain sockets, so that it costs little beside the router. In each round it routes requests
from some callers, then has their workers report the ends, and each worker report itself. It prints what was found.
"""

import asyncio
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from types import MappingProxyType
from typing import Any

import orjson
import psutil
import uvloop

ANSWER_S = 30.0
UNITS = 100.0
PERF = 2000.0
"""Of each worker, so that the routes of a round are no overload."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What to do. ``busy`` of the ``workers`` get a request in each round; ``version`` and ``ours`` say which signature
    and whether a ticket goes with a route. ``pid`` is the router's."""

    host: str
    port: int
    pid: int
    api_key: str
    token: str
    workers: int
    busy: int
    callers: int
    version: str
    ours: bool
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """Calls of one kind: how many, in which time, for how much of the router's processor."""

    calls: int
    seconds: float
    cpu_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """``alone_s``: latencies with one caller at a time; ``together_s``: with all of them, flat out."""

    routes: Spent
    ends: Spent
    reports: Spent
    waited: int
    alone_s: tuple[float, ...] = field(repr=False)
    together_s: tuple[float, ...] = field(repr=False)


class Line(asyncio.Protocol):
    """One connection, one request at a time."""

    def __init__(self) -> None:
        self._transport: asyncio.WriteTransport | None = None
        self._data = b""
        self._answer: asyncio.Future[bytes] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep what to write to."""
        assert isinstance(transport, asyncio.WriteTransport) or hasattr(transport, "write")  # noqa: S101 - uvloop's
        self._transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        """Answer the waiting caller once the body is there."""
        self._data = self._data + data if self._data else data
        head, found, body = self._data.partition(b"\r\n\r\n")
        if not found or len(body) < _length(head) or self._answer is None:
            return
        answer, self._answer, self._data = self._answer, None, b""
        if head[9:12] == b"200":
            answer.set_result(body)
        else:
            answer.set_exception(RuntimeError(f"{head.splitlines()[0].decode()}: {body[:300].decode()}"))

    def connection_lost(self, exc: Exception | None) -> None:
        """Nobody will answer any more."""
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(exc or ConnectionResetError("the router hung up"))

    async def ask(self, request: bytes) -> bytes:
        """Send and wait for the body of the answer. Raises: RuntimeError unless it is 200."""
        assert self._transport is not None  # noqa: S101 - it is connected
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._answer


class _Generator:
    """Rounds of calls until the time is over."""

    def __init__(self, load: Load, lines: Sequence[Line]) -> None:
        self._load = load
        self._lines = lines
        self._router = psutil.Process(load.pid)
        self._route = self._post("/route/", {"endpoint": "bench", "cost": UNITS, "api_key": load.api_key})
        self._given: list[tuple[int, int]] = []
        self._alone: list[float] = []
        self._together: list[float] = []
        self._spent: dict[str, list[tuple[int, float, float]]] = {"routes": [], "ends": [], "reports": []}
        self._waited = 0

    async def run(self) -> Found:
        """The first round warms up."""
        load = self._load
        deadline = time.perf_counter() + load.seconds
        rounds = 0
        while rounds < 2 or time.perf_counter() < deadline:
            with self._measured("reports", load.workers):
                await self._all([self._report(number) for number in range(1, load.workers + 1)])
            with self._measured("routes", load.busy):
                await self._routes(load.busy, self._lines, self._together)
            await self._end()
            await self._routes(max(load.busy // 10, 1), self._lines[:1], self._alone)
            await self._end()
            rounds += 1
            if rounds == 1:
                self._forget()
        return Found(
            routes=_sum(self._spent["routes"]),
            ends=_sum(self._spent["ends"]),
            reports=_sum(self._spent["reports"]),
            waited=self._waited,
            alone_s=tuple(self._alone),
            together_s=tuple(self._together),
        )

    def _forget(self) -> None:
        self._waited = 0
        self._alone.clear()
        self._together.clear()
        for spent in self._spent.values():
            spent.clear()

    async def _routes(self, count: int, lines: Sequence[Line], latencies: list[float]) -> None:
        numbers = iter(range(count))

        async def caller(line: Line) -> None:
            for _ in numbers:
                begun = time.perf_counter()
                body = await line.ask(self._route)
                latencies.append(time.perf_counter() - begun)
                self._take(orjson.loads(body))

        await asyncio.gather(*map(caller, lines))

    def _take(self, answer: dict[str, Any]) -> None:
        if "url" not in answer:
            self._waited += 1
            return
        self._given.append((int(answer["url"].rpartition(":")[2]) - 10_000, answer["request_idx"]))

    async def _end(self) -> None:
        given, self._given = self._given, []
        now = time.time()
        with self._measured("ends", len(given)):
            await self._all([self._ended(worker, request_idx, now) for worker, request_idx in given])

    async def _all(self, requests: Sequence[bytes]) -> None:
        waiting = iter(requests)

        async def caller(line: Line) -> None:
            for request in waiting:
                await line.ask(request)

        await asyncio.gather(*map(caller, self._lines))

    @contextmanager
    def _measured(self, kind: str, calls: int) -> Iterator[None]:
        begun, before = time.perf_counter(), self._cpu_s()
        yield
        self._spent[kind].append((calls, time.perf_counter() - begun, self._cpu_s() - before))

    def _cpu_s(self) -> float:
        times = self._router.cpu_times()
        return float(times.user + times.system)

    def _report(self, worker: int) -> bytes:
        load = self._load
        told = {
            "id": worker,
            "mtoken": load.token,
            "version": load.version,
            "loadtime": 5.0,
            "max_perf": PERF * (1 + worker / 100_000),
            "cur_load": 0.0,
            "cur_perf": 0.0,
            "error_msg": "",
            "num_requests_working": 0,
            "num_requests_recieved": 0,
            "working_request_idxs": [],
            "url": f"http://127.0.0.1:{10_000 + worker}",
            **({"slots": 2, "engines": 1} if load.ours else {}),
        }
        return self._post("/e/bench/worker_status/", told)

    def _ended(self, worker: int, request_idx: int, now: float) -> bytes:
        item = {
            "request_idx": request_idx,
            "success": True,
            "status": "Success",
            "entered_queue_at": now - UNITS / PERF,
            "work_started_at": now - UNITS / PERF,
            "work_completed_at": now,
        }
        told = {"worker_id": worker, "mtoken": self._load.token, "requests": [item]}
        return self._post("/e/bench/delete_requests/", told)

    def _post(self, path: str, body: Any) -> bytes:
        load = self._load
        return http_post(f"http://{load.host}:{load.port}", path, body, {"Authorization": f"Bearer {load.api_key}"})


def http_post(url: str, path: str, body: Any, headers: Mapping[str, str] = MappingProxyType({})) -> bytes:
    """A request with a JSON body, as long as ``aiohttp`` and ``requests`` send it. ``url`` may have a path too."""
    host, _, before = url.removeprefix("http://").partition("/")
    data = orjson.dumps(body)
    lines = [
        f"POST {'/' + before if before else ''}{path} HTTP/1.1",
        f"Host: {host}",
        *(f"{name}: {value}" for name, value in headers.items()),
        "Accept: */*",
        "Accept-Encoding: gzip, deflate",
        "User-Agent: Python/3.11 benchmark",
        "Content-Type: application/json",
        f"Content-Length: {len(data)}",
    ]
    return "\r\n".join([*lines, "", ""]).encode() + data


def _length(head: bytes) -> int:
    _, _, rest = head.lower().partition(b"content-length:")
    return int(rest.partition(b"\r\n")[0] or 0)


def _sum(spent: Sequence[tuple[int, float, float]]) -> Spent:
    calls, seconds, cpu_s = zip(*spent, strict=True)
    return Spent(calls=sum(calls), seconds=sum(seconds), cpu_s=sum(cpu_s))


async def generate(load: Load) -> Found:
    """Connect, generate, hang up."""
    loop, lines = asyncio.get_running_loop(), []
    for _ in range(load.callers):
        _, line = await loop.create_connection(Line, load.host, load.port)
        lines.append(line)
    async with asyncio.timeout(load.seconds + ANSWER_S):
        return await _Generator(load, lines).run()


def main(run: Callable[[Any], Any] = uvloop.run) -> None:
    """The load is JSON in the first argument; what was found is JSON on the standard output."""
    found = run(generate(Load(**json.loads(sys.argv[1]))))
    print(json.dumps(asdict(found)))


if __name__ == "__main__":
    main()
