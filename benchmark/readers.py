"""``python -m benchmark.readers URL COUNT SECONDS SLOW``: reads an event stream many times over, as a process.

Raw sockets and a bare selector: the readers share the machine with the server that is measured, and what an event loop
spends on each event would be counted as the event's age. Prints ``open`` and then one JSON line: events read, and their
ages. An event's age is the time of day now minus the time of day that the node ``BenchTicks`` put into the progress
value (``step``).
"""

import gc
import json
import selectors
import socket
import sys
import time
from dataclasses import dataclass, field
from urllib.parse import urlsplit

DAY_MS = 86_400_000
STEP = b'"step":'
SAMPLES = 200_000
SETTLE_S = 1.0
"""The first events of streams that were opened late are old by then."""
PIECE_BYTES = 1 << 16


@dataclass(slots=True, kw_only=True)
class _Tally:
    """What was read so far."""

    events: int = 0
    ages_ms: list[float] = field(default_factory=list)


def read(url: str, count: int, seconds: float, slow: int, *, settle_s: float = SETTLE_S) -> dict[str, object]:
    """Open ``count`` streams, ``slow`` of which are never read, and count for ``seconds`` once all are open and
    ``settle_s`` went by."""
    parts = urlsplit(url)
    request = f"GET {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nAccept: text/event-stream\r\n\r\n".encode()
    with selectors.DefaultSelector() as selector:
        streams = []
        for number in range(count):
            stream = socket.create_connection((parts.hostname or "127.0.0.1", parts.port or 80))
            stream.sendall(request)
            streams.append(stream)
            if number >= slow:
                stream.setblocking(False)
                selector.register(stream, selectors.EVENT_READ)
            _take(selector, _Tally(), until=0.0)
        print("open", flush=True)
        _take(selector, _Tally(), until=time.perf_counter() + settle_s)
        gc.disable()
        began, tally = time.perf_counter(), _Tally()
        _take(selector, tally, until=began + seconds)
        elapsed = time.perf_counter() - began
        closed = count - slow - len(selector.get_map())
        for stream in streams:
            stream.close()
    ages = sorted(tally.ages_ms)
    return {
        "events": tally.events,
        "seconds": elapsed,
        "closed": closed,
        "ages_ms": ages[:: max(1, len(ages) // 5000)],
    }


def _take(selector: selectors.BaseSelector, tally: _Tally, *, until: float) -> None:
    """Read what comes until then; at least what is there."""
    while True:
        left_s = until - time.perf_counter()
        for key, _ in selector.select(max(0.0, left_s)):
            stream = key.fileobj
            assert isinstance(stream, socket.socket)  # noqa: S101 - for the type checker
            data = stream.recv(PIECE_BYTES)
            if data:
                _count(data, tally)
            else:
                selector.unregister(stream)
        if left_s <= 0.0:
            return


def _count(data: bytes, tally: _Tally) -> None:
    now_ms = time.time() * 1000 % DAY_MS
    start, end = data.find(STEP), 0
    while start >= 0 and end >= 0:
        start += len(STEP)
        end = data.find(b",", start)
        if end >= 0 and len(tally.ages_ms) < SAMPLES:
            tally.ages_ms.append(now_ms - float(data[start:end]))
        tally.events += 1
        start = data.find(STEP, start)


if __name__ == "__main__":
    asked = sys.argv[1:]
    print(json.dumps(read(asked[0], int(asked[1]), float(asked[2]), int(asked[3]))), flush=True)
