"""What sources gave last time, over restarts: the file's name in the content store, and the host's validators.

Sources are named by a hash over URL and rights (``Source.identity``): no URL is kept, and nobody finds by it what was
fetched with somebody else's rights. Everything here blocks and is called in threads.
"""

import logging
import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import orjson

log = logging.getLogger(__name__)
MOST = 10_000
"""Sources remembered; the file is rewritten when it has three times as many lines."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What a source gave. ``validators`` are headers for asking whether it changed; empty where the host gave none."""

    file_name: str
    size_bytes: int
    validators: Mapping[str, str] = field(default_factory=dict)


class Memory:
    """A file of lines, the newest last. A line that can't be read, or written, costs a transfer and nothing else."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._known: OrderedDict[str, Known] | None = None
        self._line_count = 0

    def get(self, identity: str) -> Known | None:
        """What this source gave last time."""
        with self._lock:
            return self._read().get(identity)

    def put(self, identity: str, known: Known) -> None:
        """Remember what this source gave now."""
        with self._lock:
            held = self._read()
            if held.get(identity) == known:
                held.move_to_end(identity)
                return
            held.pop(identity, None)
            held[identity] = known
            while len(held) > MOST:
                held.popitem(last=False)
            try:
                self._write(identity, known)
            except OSError as error:
                log.warning("fetched inputs not recorded", extra={"event": "inputs.unrecorded", "cause": str(error)})

    def _read(self) -> OrderedDict[str, Known]:
        if self._known is None:
            self._known = OrderedDict()
            lines = self._path.read_bytes().splitlines() if self._path.is_file() else []
            self._line_count = len(lines)
            for line in lines:
                try:
                    identity, file_name, size_bytes, validators = orjson.loads(line)
                    known = Known(file_name=str(file_name), size_bytes=int(size_bytes), validators=dict(validators))
                    self._known[str(identity)] = known
                    self._known.move_to_end(str(identity))
                except (ValueError, TypeError):  # the last line of a process that was killed
                    continue
        return self._known

    def _write(self, identity: str, known: Known) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        if self._line_count < 3 * MOST:
            with self._path.open("ab") as file:
                file.write(_line(identity, known))
            self._line_count += 1
            return
        draft = self._path.with_suffix(".part")
        draft.write_bytes(b"".join(_line(*item) for item in self._read().items()))
        draft.replace(self._path)
        self._line_count = len(self._read())


def _line(identity: str, known: Known) -> bytes:
    return orjson.dumps([identity, known.file_name, known.size_bytes, dict(known.validators)]) + b"\n"
