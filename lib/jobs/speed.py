"""How fast this worker is: the boot benchmark's word first, then what jobs really took."""


class SpeedGauge:
    """Workload units per second of the whole worker.

    Starts from the boot score; each finished job moves a moving average of seconds per unit (gain 0.2), so that
    predictions follow the workflows that are really served. The reported maximum stays the benchmark's.
    """

    GAIN = 0.2

    def __init__(self) -> None:
        self._max_perf = 0.0
        self._engine_count = 1
        self._seconds_per_unit: float | None = None

    @property
    def max_perf(self) -> float:
        """Units per second by the boot benchmark; 0.0 before it."""
        return self._max_perf

    @property
    def seconds_per_unit(self) -> float | None:
        """Of one engine, as served lately; ``None`` when nothing is known."""
        return self._seconds_per_unit

    def benchmarked(self, perf: float, *, engine_count: int) -> None:
        """Take the boot score: units per second, summed over ``engine_count`` engines."""
        self._max_perf = perf
        self._engine_count = max(engine_count, 1)
        self._seconds_per_unit = self._engine_count / perf if perf > 0 else None

    def served(self, cost: float, execute_s: float) -> None:
        """A job of ``cost`` units ran for ``execute_s`` seconds."""
        if cost <= 0 or execute_s < 0:
            return
        sample = execute_s / cost
        known = self._seconds_per_unit
        self._seconds_per_unit = sample if known is None else known + self.GAIN * (sample - known)

    def expected_s(self, cost: float) -> float:
        """How long a job of ``cost`` units will run; 1 s when nothing is known."""
        return 1.0 if self._seconds_per_unit is None else cost * self._seconds_per_unit
