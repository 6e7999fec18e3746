"""Shows several downloads at once: bars on a terminal, a line every few seconds in a log."""

import sys
import threading
import time
from dataclasses import dataclass, field
from typing import NoReturn

from tqdm import tqdm

from provisioning.steps import say

LINE_EVERY_S = 10.0


class Bars:
    """One tqdm bar a download."""

    def __init__(self) -> None:
        self._bars: dict[str, tqdm[NoReturn]] = {}

    def start(self, name: str, *, done: int, total: int | None) -> None:
        """Show a bar, or move the one that is there: a download that goes on after a break."""
        known = self._bars.get(name)
        if known is not None:
            known.total, known.n = total, done
            known.refresh()
            return
        bar: tqdm[NoReturn] = tqdm(desc=f"    {name}", initial=done, total=total, unit="B", unit_scale=True)
        self._bars[name] = bar

    def advance(self, name: str, count: int) -> None:
        """Move the bar."""
        self._bars[name].update(count)

    def finish(self, name: str) -> None:
        """Leave the bar as it is."""
        bar = self._bars.pop(name, None)
        if bar is not None:
            bar.close()


@dataclass(slots=True)
class _Count:
    done: int
    total: int | None
    said_at: float = field(default_factory=time.monotonic)


class Lines:
    """A line at the start, every ten seconds, and nothing at the end (the step says it)."""

    def __init__(self) -> None:
        self._counts: dict[str, _Count] = {}
        self._lock = threading.Lock()

    def start(self, name: str, *, done: int, total: int | None) -> None:
        """Say what is coming."""
        with self._lock:
            self._counts[name] = _Count(done, total)
        say(f"    {name}: {_size(total)}" + (f", going on at {_size(done)}" if done else ""))

    def advance(self, name: str, count: int) -> None:
        """Count, and say it now and then."""
        with self._lock:
            current = self._counts[name]
            current.done += count
            due = time.monotonic() - current.said_at >= LINE_EVERY_S
            if due:
                current.said_at = time.monotonic()
        if due:
            say(f"    {name}: {_size(current.done)} of {_size(current.total)}")

    def finish(self, name: str) -> None:
        """Forget the download."""
        with self._lock:
            self._counts.pop(name, None)


def display() -> Bars | Lines:
    """Choose by where the output goes."""
    return Bars() if sys.stderr.isatty() else Lines()


def _size(count: int | None) -> str:
    return "unknown size" if count is None else f"{count / 1e6:.1f} MB"
