"""What finished jobs teach, kept over restarts: sizes by kind, speeds by worker and family, the work that comes in.

The estimates themselves are pure (``router.estimate``); here is what is observed when, and the file that keeps sizes.
"""

import asyncio
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from router.estimate import OfferedLoad, SizeRow, Sizes, Speeds, direct_key
from router.kept import write_private
from router.model import Ask, Priority, WorkerView

log = logging.getLogger(__name__)

FILE = "sizes.json"
SAVE_S = 60.0
LEAST_SHARE = 0.2
"""Of a run at least so much was no loading of models, whatever we expected of that."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesson:
    """A finished run: its kind and family, how long it ran (loading of models excluded), on what."""

    kind: str
    family: str
    worker: str
    seconds: float
    speed: float
    """Units per second that one engine of the worker promised."""
    size: float
    prior: float


class Learning:
    """What is known of jobs and workers from experience."""

    def __init__(self, rows: Iterable[SizeRow] = ()) -> None:
        self.sizes = Sizes(rows)
        self.speeds = Speeds()
        self.load = OfferedLoad()
        self.changed = False

    def ask(
        self,
        request_id: str,
        *,
        endpoint: str,
        arrived_at: float,
        cost: float,
        kind: str = "",
        prior: float | None = None,
        tenant: str = "",
        priority: Priority = Priority.HIGH,
        family: str = "",
        models: tuple[str, ...] = (),
        vram_gib: float = 0.0,
        dialect: str = "",
        input_mb: float = 0.0,
    ) -> Ask:
        """Make an ask of the size that its kind (shape, or endpoint and cost) has by experience; ``prior`` is what is
        expected of one that was never seen (the cost, when absent)."""
        size = self.sizes.size(kind or direct_key(endpoint, cost), prior=cost if prior is None else prior)
        return Ask(
            request_id=request_id,
            endpoint=endpoint,
            arrived_at=arrived_at,
            cost=cost,
            size=size.median,
            size_p90=size.p90,
            tenant=tenant,
            priority=priority,
            family=family,
            models=models,
            vram_gib=vram_gib,
            dialect=dialect,
            input_mb=input_mb,
        )

    def lesson(self, ask: Ask, view: WorkerView, *, kind: str, prior: float, run_s: float, swap_s: float) -> Lesson:
        """What a run of ``run_s`` seconds teaches, of which loading models was expected to take ``swap_s``."""
        return Lesson(
            kind=kind or direct_key(ask.endpoint, ask.cost),
            family=ask.family,
            worker=view.worker,
            seconds=max(run_s - swap_s, LEAST_SHARE * run_s),
            speed=view.perf / max(view.engines, 1),
            size=ask.size,
            prior=prior,
        )

    def learn(self, lesson: Lesson) -> None:
        """Take it to heart."""
        if lesson.seconds <= 0 or lesson.speed <= 0:
            return
        speed = lesson.speed * self.speeds.factor(lesson.worker, lesson.family)
        self.sizes.observe(lesson.kind, seconds=lesson.seconds, speed=speed, prior=lesson.prior)
        self.speeds.observe(lesson.worker, lesson.family, seconds=lesson.seconds, expected_s=lesson.size / speed)
        self.changed = True

    async def save(self, folder: Path) -> None:
        """Write the sizes down; a disk that fails is logged, the router goes on."""
        if not self.changed:
            return
        self.changed = False
        try:
            await asyncio.to_thread(write_private, folder / FILE, orjson.dumps(tuple(self.sizes)))
        except OSError as error:
            log.warning("sizes were not kept", extra={"event": "sizes.unsaved", "reason": error.strerror})


def load_sizes(folder: Path) -> list[SizeRow]:
    """Read what was kept. Blocks; what can't be read is learned anew."""
    try:
        rows: list[Mapping[str, Any]] = orjson.loads((folder / FILE).read_bytes())
        return [SizeRow(**row) for row in rows]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, TypeError) as error:
        log.warning("sizes are learned anew", extra={"event": "sizes.unread", "reason": str(error)})
        return []
