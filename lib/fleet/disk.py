"""How full the root disk is, and by how much that grew since the autoscaler last heard of it."""

import psutil

GIBIBYTE = 1 << 30


class DiskGauge:
    """Figures in GiB. ``used_gib`` blocks for a moment (call it in a thread); the rest is arithmetic."""

    def __init__(self, path: str = "/") -> None:
        self._path = path
        self._last_told: float | None = None

    def used_gib(self) -> float:
        """Read the used space; the first reading is the baseline."""
        used = psutil.disk_usage(self._path).used / GIBIBYTE
        if self._last_told is None:
            self._last_told = used
        return used

    def growth_gib(self, used_gib: float) -> float:
        return used_gib - (self._last_told if self._last_told is not None else used_gib)

    def delivered(self, used_gib: float) -> None:
        """A report with this figure has arrived."""
        self._last_told = used_gib
