"""How much memory the host has left and ComfyUI's process takes. Blocks a little: call it in a thread."""

from dataclasses import dataclass
from pathlib import Path

import psutil

CGROUP = Path("/sys/fs/cgroup")
_LIMITS = (
    ("memory.max", "memory.current", "memory.stat", "inactive_file"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat", "total_inactive_file"),
)
"""Limit, use, and what of the use the kernel can take back; version 2 and version 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """``free_share`` of all memory, between 0 and 1; ``rss_bytes`` of ComfyUI with its children. ``None``: unknown."""

    free_share: float | None = None
    rss_bytes: int | None = None


class Gauge:
    """Reads this host; a container's own limit counts where it is the lower one."""

    def __init__(self, cgroup: Path = CGROUP) -> None:
        self._cgroup = cgroup

    def read(self, pid: int | None, *, tree: bool) -> Reading:
        """``tree``: also walk the processes below ``pid``, which takes milliseconds."""
        memory = psutil.virtual_memory()
        share = memory.available / memory.total
        return Reading(
            free_share=min(share, self._container(memory.total)),
            rss_bytes=_rss_bytes(pid) if tree and pid is not None else None,
        )

    def _container(self, total: int) -> float:
        for limit_name, used_name, stat_name, reclaimable_name in _LIMITS:
            limit = self._number(limit_name)
            if limit is not None and 0 < limit < total:
                stat = dict(line.split()[:2] for line in self._text(stat_name).splitlines() if " " in line)
                used = (self._number(used_name) or 0) - int(stat.get(reclaimable_name, 0))
                return max(0.0, 1 - used / limit)
        return 1.0

    def _number(self, name: str) -> int | None:
        text = self._text(name).strip()
        return int(text) if text.isdecimal() else None

    def _text(self, name: str) -> str:
        try:
            return (self._cgroup / name).read_text(encoding="ascii")
        except OSError:
            return ""


def _rss_bytes(pid: int) -> int | None:
    try:
        process = psutil.Process(pid)
        tree = [process, *process.children(recursive=True)]
    except psutil.Error:
        return None
    return sum(_resident(member) for member in tree)


def _resident(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.Error:
        return 0
