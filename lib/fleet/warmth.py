"""Which models each ComfyUI has most likely resident, and how long loading takes, learned from jobs that ended.

ComfyUI does not say it. It keeps what its last prompt used, and more where its cache is set up so: how much more is
seen from jobs that ran as quickly with a model of long ago as with one that was just used.
"""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from lib.jobs.model import Job, JobStatus
from lib.workflow.models import large_models_of

MOST_SHAPES = 512
MOST_SWAPS = 128
"""Models whose load time is remembered; the least recently loaded go first."""
MOST_ROOM = 8
GAIN = 0.3
"""What a new sample counts to what is known."""
SHORT, LONG = 0.3, 0.7
"""Of a load time: what ran so little longer than warm did not load, and what ran so much longer did."""
NOTICED_S = 0.2
"""A load time below tells nothing of whether something was loaded."""

V = TypeVar("V")


@dataclass(slots=True)
class _Engine:
    """``used``: models in the order of their last use; the last ``room`` of them are taken to be resident."""

    used: OrderedDict[str, int] = field(default_factory=OrderedDict)
    room: int = 1

    def resident(self) -> list[str]:
        return list(self.used)[-self.room :]


@dataclass(frozen=True, slots=True, kw_only=True)
class Warm:
    """``models`` are those that are resident on any engine, least recently used first; ``room`` is how many stay so, on
    all engines together; ``swap_s`` are load times in seconds."""

    models: tuple[str, ...]
    room: int
    swap_s: Mapping[str, float]


class Warmth:
    """Hears of each job (a ``JobListener``) and of each engine that ended."""

    def __init__(self) -> None:
        self._engines: dict[str, _Engine] = {}
        self._uses = 0
        self._warm_s: OrderedDict[str, float] = OrderedDict()
        """What work of a shape takes with its models resident."""
        self._cold: OrderedDict[str, tuple[tuple[str, ...], float]] = OrderedDict()
        """What it took to load which models too, where it never ran warm."""
        self._swap_s: OrderedDict[str, float] = OrderedDict()

    def heard(self, job: Job) -> None:
        """A job is as it is now; only completed ones tell something."""
        took_s = job.timings.execute_s
        if job.status is not JobStatus.COMPLETED or job.engine is None or took_s is None:
            return
        models = large_models_of(job.spec.workflow)
        if not models:
            return
        engine = self._engines.setdefault(job.engine, _Engine())
        shape = job.spec.estimate.shape if job.spec.estimate is not None else ""
        if shape:
            self._learn_room(engine, models, shape, took_s)
            self._learn_load(engine, models, shape, took_s)
        self._use(engine, models)

    def lost(self, engine: str) -> None:
        """This engine ended, and what it had in memory with it."""
        if (known := self._engines.get(engine)) is not None:
            known.used.clear()

    def now(self, engines: int) -> Warm:
        """What holds now, of so many engines."""
        last: dict[str, int] = {}
        for engine in self._engines.values():
            for name in engine.resident():
                last[name] = max(engine.used[name], last.get(name, 0))
        rooms = [engine.room for engine in self._engines.values()]
        return Warm(
            models=tuple(sorted(last, key=last.__getitem__)),
            room=sum(rooms) + max(engines - len(rooms), 0),
            swap_s={name: round(seconds, 2) for name, seconds in self._swap_s.items()},
        )

    def _use(self, engine: _Engine, models: tuple[str, ...]) -> None:
        for name in models:
            self._uses += 1
            engine.used[name] = self._uses
            engine.used.move_to_end(name)
        engine.room = max(engine.room, len(models))
        while len(engine.used) > MOST_ROOM:
            engine.used.popitem(last=False)

    def _learn_room(self, engine: _Engine, models: tuple[str, ...], shape: str, took_s: float) -> None:
        """By the model that was not used for longest: whether it was loaded, although it was taken to be resident, or
        not, although it was not."""
        warm_s = self._warm_s.get(shape)
        order = list(reversed(engine.used))
        if warm_s is None or any(name not in engine.used for name in models):
            return
        depth = 1 + max(order.index(name) for name in models)
        load_s = sum(self._swap_s.get(name, 0.0) for name in models)
        if load_s < max(NOTICED_S, SHORT * warm_s):
            return
        if depth > engine.room and took_s < warm_s + SHORT * load_s:
            engine.room = depth
        elif len(models) < depth <= engine.room and took_s > warm_s + LONG * load_s:
            engine.room = depth - 1

    def _learn_load(self, engine: _Engine, models: tuple[str, ...], shape: str, took_s: float) -> None:
        resident = engine.resident()
        cold = tuple(name for name in models if name not in resident)
        warm_s = self._warm_s.get(shape)
        if not cold:
            warm_s = took_s if warm_s is None else warm_s + GAIN * (took_s - warm_s)
            _put(self._warm_s, shape, warm_s, most=MOST_SHAPES)
            if (waiting := self._cold.pop(shape, None)) is not None:
                self._loaded(*waiting, warm_s=warm_s)
        elif warm_s is None:
            _put(self._cold, shape, (cold, took_s), most=MOST_SHAPES)
        else:
            self._loaded(cold, took_s, warm_s=warm_s)

    def _loaded(self, models: tuple[str, ...], took_s: float, *, warm_s: float) -> None:
        """So long a run with the loading of these took."""
        seconds = max(took_s - warm_s, 0.0) / len(models)
        for name in models:
            known = self._swap_s.get(name)
            _put(self._swap_s, name, seconds if known is None else known + GAIN * (seconds - known), most=MOST_SWAPS)


def _put(known: OrderedDict[str, V], name: str, value: V, *, most: int) -> None:
    known[name] = value
    known.move_to_end(name)
    if len(known) > most:
        known.popitem(last=False)
