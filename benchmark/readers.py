"""``python -m benchmark.readers URL COUNT SECONDS``: reads an event stream many times over, in a process of its own.

Raw sockets, since a client library would cost more than the server that is measured. Prints one JSON line: events
read, and their ages. An event's age is the time of day now minus the time of day that the node ``BenchTicks`` put
into the progress value (``step``).
"""

import asyncio
import json
import re
import sys
import time
from functools import partial
from urllib.parse import urlsplit

DAY_MS = 86_400_000
STEP = re.compile(rb'"step": ?([0-9.]+)')
SAMPLES = 200_000


class _Reader(asyncio.Protocol):
    """One stream. A slow one reads next to nothing at a time."""

    def __init__(self, request: bytes, ages: list[float], *, slow: bool) -> None:
        self._request = request
        self._ages = ages
        self._slow = slow
        self.events = 0
        self.closed = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - for the type checker
        self._transport = transport
        transport.write(self._request)
        if self._slow:
            transport.pause_reading()

    def data_received(self, data: bytes) -> None:
        now_ms = time.time() * 1000 % DAY_MS
        for found in STEP.finditer(data):
            self.events += 1
            if len(self._ages) < SAMPLES and not self._slow:
                self._ages.append(now_ms - float(found[1]))

    def connection_lost(self, error: Exception | None) -> None:
        self.closed = True


def _itself(reader: _Reader) -> _Reader:
    return reader


async def read(url: str, count: int, seconds: float, slow: int) -> dict[str, object]:
    """Open ``count`` streams, ``slow`` of which don't read, and count for ``seconds`` after all are open."""
    parts = urlsplit(url)
    request = f"GET {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nAccept: text/event-stream\r\n\r\n".encode()
    ages: list[float] = []
    readers: list[_Reader] = []
    loop = asyncio.get_running_loop()
    host, port = parts.hostname or "127.0.0.1", parts.port or 80
    for number in range(count):
        reader = _Reader(request, ages, slow=number < slow)
        readers.append(reader)
        await loop.create_connection(partial(_itself, reader), host, port)
    print("open", flush=True)
    await asyncio.sleep(1.0)  # the first events of late ones are old by then
    for reader in readers:
        reader.events = 0
    ages.clear()
    began = time.perf_counter()
    await asyncio.sleep(seconds)
    elapsed = time.perf_counter() - began
    events = sum(reader.events for reader in readers)
    closed = sum(reader.closed for reader in readers)
    return {
        "events": events,
        "seconds": elapsed,
        "closed": closed,
        "ages_ms": sorted(ages)[:: max(1, len(ages) // 5000)],
    }


if __name__ == "__main__":
    asked = sys.argv[1:]
    print(json.dumps(asyncio.run(read(asked[0], int(asked[1]), float(asked[2]), int(asked[3])))), flush=True)
