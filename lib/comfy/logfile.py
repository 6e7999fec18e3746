"""A child's log: a file that it appends to itself, followed by us into a bounded ring, kept under a size.

The child writes to the file and not to a pipe of ours: were we killed, its next log line would fail with a broken
pipe inside a running node, and a process that is found again could not be used. Files offer no event to wait for in
the standard library, hence the slow poll.
"""

import asyncio
import logging
import shutil
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import IO

from lib.clock import Clock

log = logging.getLogger(__name__)

RING_LINES = 200
MAX_LINE_CHARS = 2000
MAX_READ_BYTES = 1 << 20
BACKUPS = 3


class FollowedLog:
    """Follows one log file. ``tail`` is answered from memory."""

    def __init__(self, path: Path, *, clock: Clock, poll_s: float = 0.5, max_bytes: int = 10 << 20) -> None:
        self._path = path
        self._clock = clock
        self._poll_s = poll_s
        self._max_bytes = max_bytes
        self._offset = 0
        self._rest = b""
        self._ring: deque[str] = deque(maxlen=RING_LINES)

    def tail(self, lines: int) -> tuple[str, ...]:
        return tuple(self._ring)[-lines:] if lines > 0 else ()

    def open_for_child(self) -> IO[bytes]:
        """Open the file for a new process; what is in it already is not followed. Blocks: call in a thread."""
        handle = self._path.open("ab")
        self._offset = handle.tell()
        self._rest = b""
        return handle

    def skip_to_end(self) -> None:
        """Take a running process's log over: show its last lines, follow only new ones. Blocks."""
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            data = b""
        self._offset = len(data)
        self._ring.extend(_split(data[-MAX_READ_BYTES:])[0][-RING_LINES:])

    async def follow(self, on_line: Callable[[str], None]) -> None:
        """Hand each new line over, on the event loop, for ever."""
        while True:
            await self._clock.sleep(self._poll_s)
            await self.catch_up(on_line)

    async def catch_up(self, on_line: Callable[[str], None]) -> None:
        """Hand over what has been written since."""
        while data := await asyncio.to_thread(self._read, self._offset):
            self._offset += len(data)
            lines, self._rest = _split(self._rest + data)
            self._ring.extend(lines)
            for line in lines:
                on_line(line)
        if self._offset >= self._max_bytes:
            await asyncio.to_thread(self._rotate)
            self._offset = 0

    def _read(self, offset: int) -> bytes:
        try:
            with self._path.open("rb") as handle:
                handle.seek(offset)
                return handle.read(MAX_READ_BYTES)
        except FileNotFoundError:
            return b""

    def _rotate(self) -> None:
        """Keep ``BACKUPS`` copies. The file itself is emptied in place, as its writer has it open for appending."""
        try:
            for number in range(BACKUPS, 1, -1):
                older = _numbered(self._path, number - 1)
                if older.exists():
                    older.replace(_numbered(self._path, number))
            shutil.copyfile(self._path, _numbered(self._path, 1))
        except OSError as error:  # a full disk: then emptying it is the more important half
            log.warning("log not kept", extra={"event": "comfyui.log_rotation_failed", "reason": str(error)})
        with self._path.open("r+b") as handle:
            handle.truncate(0)


def _numbered(path: Path, number: int) -> Path:
    return path.with_name(f"{path.name}.{number}")


def _split(data: bytes) -> tuple[list[str], bytes]:
    """Part into whole lines and the rest. A progress bar, redrawn after ``\\r``, counts as its last state."""
    *lines, rest = data.split(b"\n")
    drawn = (line.rstrip(b"\r").rpartition(b"\r")[2].decode("utf-8", "replace") for line in lines)
    return [line[:MAX_LINE_CHARS] for line in drawn if line.strip()], rest[-MAX_LINE_CHARS:]
