"""Turns over the engines' slots, event-driven: first come, first served, those of low priority after all others.

An engine holds at most two prompts: one running, one pending behind it. A job goes to an idle engine first, else to
the one expected to be free first. When an engine falls idle while another still holds a pending prompt and nobody
waits, that prompt is asked back (``Lease.withdraw``) and posted where the GPU is free. A job of low priority that has
its turn keeps it: its prompt may be pending when others come, and runs before them.
"""

import asyncio
import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field

from lib.clock import Clock
from lib.errors import EngineUnreachable
from lib.jobs.ports import Engine

DEPTH = 2


@dataclass(slots=True, eq=False)
class Lease:
    """Room for one posted prompt on ``engine``; give it back with ``SlotQueue.release``."""

    engine: Engine
    sequence: int
    expected_s: float
    low_priority: bool = False
    withdraw: asyncio.Event = field(default_factory=asyncio.Event)
    started_at: float | None = None


@dataclass(slots=True, eq=False, order=False)
class _Waiter:
    sequence: int
    engine: str | None
    expected_s: float
    low_priority: bool
    future: asyncio.Future[Lease]

    def __lt__(self, other: "_Waiter") -> bool:
        if self.low_priority is not other.low_priority:
            return other.low_priority
        return self.sequence < other.sequence


class SlotQueue:
    """Gives out leases in the order of ``sequence``, among those who ask at the moment; ``low_priority`` ones when
    nobody else does."""

    def __init__(self, engines: Sequence[Engine], *, clock: Clock) -> None:
        self._engines = tuple(engines)
        self._clock = clock
        self._leases: dict[str, list[Lease]] = {engine.name: [] for engine in engines}
        self._waiting: list[_Waiter] = []
        self._reserved: set[str] = set()

    @property
    def engines(self) -> tuple[Engine, ...]:
        return self._engines

    @property
    def slot_count(self) -> int:
        return DEPTH * len(self._engines)

    @property
    def serving_count(self) -> int:
        """Engines that take work now, at least one: the others are no help to a job that waits."""
        return max(1, sum(engine.healthy for engine in self._engines))

    @property
    def posted_count(self) -> int:
        return sum(len(leases) for leases in self._leases.values())

    def elapsed_s(self) -> float:
        """How much of the running prompts' expected time is already behind them, summed over engines."""
        now = self._clock.monotonic()
        leases = (lease for held in self._leases.values() for lease in held)
        return sum(min(now - le.started_at, le.expected_s) for le in leases if le.started_at is not None)

    def reserve(self, engine: str | None = None) -> None:
        """Give turns on this engine, or on all, to nobody but those who are pinned to it, until ``open``: it is being
        measured or warmed up, and does nothing else."""
        self._reserved.update((engine.name for engine in self._engines) if engine is None else (engine,))

    def open(self, engine: str | None = None) -> None:
        """Give everybody turns on this engine, or on all."""
        self._reserved.difference_update(tuple(self._reserved) if engine is None else (engine,))
        self.dispatch()

    async def acquire(
        self, sequence: int, *, expected_s: float, engine: str | None = None, low_priority: bool = False
    ) -> Lease:
        """Wait for a turn. ``engine`` pins it to one; ``expected_s`` is how long the job will likely run."""
        waiter = _Waiter(sequence, engine, expected_s, low_priority, asyncio.get_running_loop().create_future())
        heapq.heappush(self._waiting, waiter)
        self.dispatch()
        try:
            return await waiter.future
        except asyncio.CancelledError:
            self._forget(waiter)
            raise

    def adopt(self, engine: Engine, sequence: int, *, expected_s: float) -> Lease:
        """Return a lease for a prompt that ``engine`` has already, whether there is room for it or not."""
        lease = Lease(engine, sequence, expected_s)
        self._leases[engine.name].append(lease)
        return lease

    def started(self, lease: Lease) -> None:
        """The lease's prompt runs now."""
        lease.started_at = self._clock.monotonic()

    def release(self, lease: Lease) -> None:
        """The lease's prompt is no longer with the engine."""
        leases = self._leases[lease.engine.name]
        if lease in leases:
            leases.remove(lease)
        self.dispatch()

    def fail_waiting(self, error: EngineUnreachable) -> None:
        """Nothing will run for too long: tell everybody who waits."""
        waiting, self._waiting = self._waiting, []
        for waiter in waiting:
            if not waiter.future.done():
                waiter.future.set_exception(error)

    def dispatch(self) -> None:
        """Give out what can be given; called again whenever a lease or an engine's health changes."""
        kept: list[_Waiter] = []
        while self._waiting and any(self._room(engine) for engine in self._engines):
            waiter = heapq.heappop(self._waiting)
            if waiter.future.done():
                continue
            engine = self._choose(waiter)
            if engine is None:
                kept.append(waiter)
                continue
            lease = Lease(engine, waiter.sequence, waiter.expected_s, waiter.low_priority)
            self._leases[engine.name].append(lease)
            waiter.future.set_result(lease)
        for waiter in kept:
            heapq.heappush(self._waiting, waiter)
        if not self._waiting:
            self._rebalance()

    def _room(self, engine: Engine) -> bool:
        return engine.healthy and len(self._leases[engine.name]) < DEPTH

    def _choose(self, waiter: _Waiter) -> Engine | None:
        candidates = [engine for engine in self._engines if self._room(engine) and self._is_for(waiter, engine)]
        return min(candidates, key=self._free_in_s, default=None)

    def _is_for(self, waiter: _Waiter, engine: Engine) -> bool:
        return engine.name not in self._reserved if waiter.engine is None else waiter.engine == engine.name

    def _free_in_s(self, engine: Engine) -> float:
        """Seconds until the engine has done what it holds; 0 only for an idle one."""
        now = self._clock.monotonic()
        total = 0.0
        for lease in self._leases[engine.name]:
            elapsed = 0.0 if lease.started_at is None else now - lease.started_at
            total += max(lease.expected_s - elapsed, 1e-3)
        return total

    def _rebalance(self) -> None:
        idle = [e for e in self._engines if e.healthy and not self._leases[e.name] and e.name not in self._reserved]
        pending = [
            leases[-1]
            for leases in self._leases.values()
            if len(leases) >= DEPTH and leases[-1].started_at is None and not leases[-1].withdraw.is_set()
        ]
        pending.sort(key=lambda lease: (lease.low_priority, lease.sequence))
        for _, lease in zip(idle, pending, strict=False):
            lease.withdraw.set()

    def _forget(self, waiter: _Waiter) -> None:
        if waiter.future.done() and not waiter.future.cancelled() and waiter.future.exception() is None:
            self.release(waiter.future.result())
        elif waiter in self._waiting:
            self._waiting.remove(waiter)
            heapq.heapify(self._waiting)
