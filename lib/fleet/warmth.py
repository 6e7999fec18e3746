"""Which models each ComfyUI has most likely resident, and how long loading takes, learned from jobs that ended.

ComfyUI does not say what it has, but which nodes ran: a loader that did not had its model still. It keeps what its last
prompt used, and more where its cache is set up so; how much more is seen from loaders of models of longer ago.
"""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import orjson

from lib.jobs.model import Job, JobStatus
from lib.workflow.models import large_models_of, models_by_node
from lib.workflow.sampling import is_sampler

MOST_SHAPES = 512
MOST_SWAPS = 128
"""Models whose load time is remembered; the least recently loaded go first."""
MOST_ROOM = 8
LARGE_BYTES = 1024 * 1024
"""Of a larger graph it is not looked up which nodes ran."""
GAIN = 0.3
"""What a new sample counts to what is known."""
V = TypeVar("V")


@dataclass(slots=True)
class _Engine:
    """``used``: models in the order of their last use; the last ``room`` of them are taken to be resident."""

    used: OrderedDict[str, int] = field(default_factory=OrderedDict)
    room: int = 1

    def resident(self) -> list[str]:
        return list(self.used)[-self.room :]

    def learn(self, models: Sequence[str], loaded: Sequence[str]) -> None:
        """Of a prompt with these models it loaded those."""
        order = list(reversed(self.used))
        for depth, name in enumerate(order, start=1):
            if name in models and name not in loaded:
                self.room = max(self.room, depth)
            elif name in loaded and depth <= self.room:
                self.room = max(depth - 1, 1)
                return


@dataclass(frozen=True, slots=True, kw_only=True)
class Warm:
    """``models`` are those that are resident on any engine, least recently used first; ``room`` is how many stay so, on
    all engines together; ``swap_s`` are load times in seconds."""

    models: tuple[str, ...]
    room: int
    swap_s: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Run:
    """What a prompt loaded, and whether it sampled: else its time is not that of such work."""

    loaded: tuple[str, ...]
    sampled: bool


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
        run = _run(job)
        if run is not None:
            engine.learn(models, run.loaded)
            if run.sampled and job.spec.estimate is not None:
                self._learn_load(run.loaded, job.spec.estimate.shape, took_s)
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

    def _use(self, engine: _Engine, models: Sequence[str]) -> None:
        for name in models:
            self._uses += 1
            engine.used[name] = self._uses
            engine.used.move_to_end(name)
        engine.room = min(max(engine.room, len(models)), MOST_ROOM)
        while len(engine.used) > MOST_ROOM:
            engine.used.popitem(last=False)

    def _learn_load(self, loaded: tuple[str, ...], shape: str, took_s: float) -> None:
        """First run less warm run, whichever came first."""
        warm_s = self._warm_s.get(shape)
        if not loaded:
            warm_s = took_s if warm_s is None else warm_s + GAIN * (took_s - warm_s)
            _put(self._warm_s, shape, warm_s, most=MOST_SHAPES)
            if (waiting := self._cold.pop(shape, None)) is not None:
                self._loaded(*waiting, warm_s=warm_s)
        elif warm_s is None:
            _put(self._cold, shape, (loaded, took_s), most=MOST_SHAPES)
        else:
            self._loaded(loaded, took_s, warm_s=warm_s)

    def _loaded(self, models: Sequence[str], took_s: float, *, warm_s: float) -> None:
        """So long a run with the loading of these took."""
        seconds = max(took_s - warm_s, 0.0) / len(models)
        for name in models:
            known = self._swap_s.get(name)
            _put(self._swap_s, name, seconds if known is None else known + GAIN * (seconds - known), most=MOST_SWAPS)


def _run(job: Job) -> _Run | None:
    """What is known of the nodes that ran; None: nothing."""
    starts = job.timings.node_starts_s
    if not starts or len(job.spec.workflow) > LARGE_BYTES:
        return None
    try:
        graph: dict[str, Any] = orjson.loads(job.spec.workflow)
    except orjson.JSONDecodeError:  # half a character in a text
        return None
    nodes = models_by_node(graph)
    loaded = dict.fromkeys(name for node_id, names in nodes.items() if node_id in starts for name in names)
    return _Run(loaded=tuple(loaded), sampled=any(_samples(graph.get(node_id)) for node_id in starts))


def _samples(node: Any) -> bool:
    if not isinstance(node, dict) or not isinstance(node.get("inputs"), dict):
        return False
    return is_sampler(str(node.get("class_type")), node["inputs"])


def _put(known: OrderedDict[str, V], name: str, value: V, *, most: int) -> None:
    known[name] = value
    known.move_to_end(name)
    if len(known) > most:
        known.popitem(last=False)
