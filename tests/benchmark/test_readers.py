"""The readers of the streams benchmark: what they count, and that a slow one takes nothing."""

import asyncio
import time

from benchmark.readers import DAY_MS, read

HEAD = b"HTTP/1.1 200 OK\r\n\r\n"


async def test_events_are_counted_with_their_ages_and_slow_readers_take_none() -> None:
    """Each event once, however many come at a time; a stream that ends is told."""
    writers: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(HEAD)
        writers.append(writer)
        if len(writers) == 3:
            asyncio.get_running_loop().call_later(1.0, tell)  # the readers count by then

    def tell() -> None:
        stamp = int(time.time() * 1000) % DAY_MS
        for writer in writers:
            writer.write(b'data: {"step":%d,"steps":7}\n\ndata: {"step":%d,"steps":7}\n\n' % (stamp, stamp))
        writers[-1].close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        found = await asyncio.to_thread(read, f"http://127.0.0.1:{port}/", 3, 4.0, 1, settle_s=0.0)
        for writer in writers:
            writer.close()
    ages = found["ages_ms"]
    assert isinstance(ages, list)
    assert (found["events"], found["closed"], len(ages)) == (4, 1, 4)
    assert all(-100 < age < 60_000 for age in ages)
