"""The work ahead of a job that comes now: what has not left the engines yet, and how long that will take."""

from collections.abc import Iterable, Iterator

from lib.jobs.model import Estimate
from lib.jobs.queue import SlotQueue
from lib.jobs.speed import SpeedGauge

UNKNOWN_S = 1.0
"""What a job is taken to run while nothing is known of the worker's speed."""


class Ahead:
    """Counts jobs from their acceptance until they left the engines: those that come at the same moment must find
    each other here.

    Jobs of the same size are counted together and priced when asked, so that predictions follow what is learned. Those
    of low priority that wait for their turn are ahead of their like only: the others pass them.
    """

    def __init__(self, *, queue: SlotQueue, speed: SpeedGauge) -> None:
        self._queue = queue
        self._speed = speed
        self._sizes: dict[Estimate, int] = {}
        self._yielding: dict[Estimate, int] = {}
        self._count = 0
        self._yielding_count = 0

    def count(self, *, low: bool = False) -> int:
        """How many jobs are ahead of one that comes now, ``low``: of low priority."""
        return self._count + self._yielding_count if low else self._count

    def joined(self, size: Estimate, *, yields: bool = False) -> None:
        """A job of this size is accepted; ``yields``: it lets others pass."""
        if yields:
            self._yielding_count += 1
            self._yielding[size] = self._yielding.get(size, 0) + 1
        else:
            self._count += 1
            self._sizes[size] = self._sizes.get(size, 0) + 1

    def left(self, size: Estimate, *, yields: bool = False) -> None:
        """It is done with the engines, or was never with them."""
        if yields:
            self._yielding_count -= 1
        else:
            self._count -= 1
        sizes = self._yielding if yields else self._sizes
        if sizes[size] == 1:
            del sizes[size]
        else:
            sizes[size] -= 1

    def turned(self, size: Estimate) -> None:
        """A job that let others pass has its turn."""
        self.left(size, yields=True)
        self.joined(size)

    def usual_s(self) -> float | None:
        """How long jobs run lately; ``None`` while nothing is known."""
        return self._speed.usual_s

    def predicted_s(self, size: Estimate) -> float | None:
        """How long such a job will run; ``None`` while nothing is known."""
        return self._speed.expected_s(size)

    def expected_s(self, size: Estimate) -> float:
        """The same, with a guess where nothing is known."""
        known = self.predicted_s(size)
        return UNKNOWN_S if known is None else known

    def wait_s(self, *, low: bool = False) -> float | None:
        """Seconds that a job accepted now would wait before it starts, ``low``: one of low priority; ``None`` while the
        speed is unknown."""
        if self._speed.seconds_per_unit is None:
            return None
        total_s = sum(self.expected_s(size) * count for size, count in self._sizes.items())
        if low:
            total_s += sum(self.expected_s(size) * count for size, count in self._yielding.items())
        return max(total_s - self._queue.elapsed_s(), 0.0) / self._queue.serving_count

    def waits_s(self, running: Iterable[Estimate], waiting: Iterable[Estimate]) -> Iterator[float | None]:
        """For each job that waits, in their order, the seconds until its start, as ``wait_s``."""
        known = self._speed.seconds_per_unit is not None
        serving = self._queue.serving_count
        total_s = sum(map(self.expected_s, running)) - self._queue.elapsed_s() if known else 0.0
        for size in waiting:
            yield max(total_s, 0.0) / serving if known else None
            total_s += self.expected_s(size) if known else 0.0
