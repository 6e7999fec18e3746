"""Recorded traffic, to be replayed on simulated fleets: a CSV file with a head, one request a line.

Columns: ``at`` (seconds, of any clock) and ``size`` (1: the benchmark workflow); ``model``, ``tenant`` and ``vram_gib``
may be there too. Lines need not be in order.
"""

import csv
import math
from dataclasses import dataclass
from pathlib import Path

LEAST = 20
"""Fewer requests say nothing."""
LARGEST_GIB = 1024.0


class BadRecording(Exception):
    """The file is no recording; the message says where."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """One request as it came."""

    at: float
    size: float
    model: str = ""
    tenant: str = ""
    vram_gib: float = 0.0


def read_recording(path: Path) -> tuple[Recorded, ...]:
    """Read a file. Raises: BadRecording."""
    try:
        with path.open(newline="", encoding="utf-8") as lines:
            rows = csv.DictReader(lines)
            found = [_read(row, rows.line_num) for row in rows]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BadRecording(f"{path} can't be read: {error}") from error
    if len(found) < LEAST:
        raise BadRecording(f"{path} has {len(found)} requests; {LEAST} are the least that says anything")
    return tuple(sorted(found, key=lambda one: one.at))


def _read(row: dict[str, str | None], line: int) -> Recorded:
    return Recorded(
        at=_number(row, "at", line, least=-math.inf),
        size=_number(row, "size", line, least=1e-6),
        model=row.get("model") or "",
        tenant=row.get("tenant") or "",
        vram_gib=_number(row, "vram_gib", line, least=0.0, most=LARGEST_GIB) if row.get("vram_gib") else 0.0,
    )


def _number(row: dict[str, str | None], name: str, line: int, *, least: float, most: float = math.inf) -> float:
    told = row.get(name)
    try:
        value = float(told or "")
    except ValueError as error:
        raise BadRecording(f"line {line}: {name} is {told!r}; a number was expected") from error
    if not (math.isfinite(value) and least <= value <= most):
        raise BadRecording(f"line {line}: {name} is {told}; it has to be finite, at least {least:g}, at most {most:g}")
    return value
