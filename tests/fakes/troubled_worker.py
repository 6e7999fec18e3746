"""The worker on a host in trouble: a wall clock that somebody sets, a disk of the job store that is full.

``PYWORKER_TEST_TROUBLE`` names a folder: its file ``ahead`` holds the seconds that the wall clock is ahead (what
measures and waits is not touched, as when a machine's clock is set); while it has a file ``full`` no database can grow.
"""

import os
import runpy
import sqlite3
import sys
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
TROUBLE = Path(os.environ["PYWORKER_TEST_TROUBLE"])
UNBOUNDED = 0x3FFFFFFF


class Bounded(sqlite3.Connection):
    """Before each statement it learns how many pages there are: as many as now, where the disk is full."""

    def execute(self, *statement: Any) -> sqlite3.Cursor:
        pages = 1 if (TROUBLE / "full").exists() else UNBOUNDED  # it never shrinks below its size
        super().execute(f"PRAGMA max_page_count = {pages}").fetchall()
        return super().execute(*statement)


def main() -> None:
    sys.path.insert(0, str(ROOT))
    from lib.clock import SystemClock

    now, connect = SystemClock.now, sqlite3.connect

    def shifted(clock: SystemClock) -> datetime:
        ahead = TROUBLE / "ahead"
        return now(clock) + timedelta(seconds=float(ahead.read_text()) if ahead.exists() else 0.0)

    def bounded(*arguments: Any, **options: Any) -> sqlite3.Connection:
        return connect(*arguments, **options, factory=Bounded)

    SystemClock.now = shifted  # type: ignore[method-assign]
    sqlite3.connect = bounded  # type: ignore[assignment]
    runpy.run_path(str(ROOT / "workers" / "comfyui-json" / "worker.py"), run_name="__main__")


if __name__ == "__main__":
    main()
