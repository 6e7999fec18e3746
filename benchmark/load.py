"""The load generator: so many callers, each sending its next job when the last one is answered. Same for both sides."""

import asyncio
import gc
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from benchmark import score
from lib.lifecycle import Tasks

Send = Callable[[int], Awaitable[object]]
"""Sends job number n and returns when its files are in the caller's hands."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Leg:
    """One side's turn in a round; ``elapsed_s`` ends with the last job that counts."""

    latencies_s: tuple[float, ...] = field(repr=False)
    elapsed_s: float

    @property
    def rate(self) -> float:
        """Jobs a second."""
        return len(self.latencies_s) / self.elapsed_s

    @property
    def p50_ms(self) -> float:
        return 1000 * score.percentile(self.latencies_s, 0.50)


async def drive(send: Send, *, jobs: int, concurrency: int, count: int | None = None) -> Leg:
    """Send ``jobs`` jobs from ``concurrency`` callers; end after ``count`` answers, dropping the rest.

    With fewer counted than sent, the queue stays as deep as it was for as long as it is measured. A job that fails
    fails the whole.
    """
    numbers = iter(range(jobs))
    wanted = jobs if count is None else count
    over = asyncio.Event()
    latencies: list[float] = []
    began = time.perf_counter()
    ended = began

    async def caller() -> None:
        nonlocal ended
        for number in numbers:
            sent = time.perf_counter()
            await send(number)
            ended = time.perf_counter()
            latencies.append(ended - sent)
            if len(latencies) == wanted:
                over.set()
                return

    with _collector_off():
        async with Tasks() as tasks:  # not a TaskGroup: leaving this block drops the callers that still wait
            waiting = tasks.spawn(over.wait(), name="enough")
            callers = {tasks.spawn(caller(), name="caller") for _ in range(concurrency)}
            while not over.is_set():
                done, _ = await asyncio.wait({waiting, *callers}, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
                callers -= done
    return Leg(latencies_s=tuple(latencies[:wanted]), elapsed_s=ended - began)


@contextmanager
def _collector_off() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
