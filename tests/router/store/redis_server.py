"""A real redis-server on a free port, which tests may kill and start again."""

import shutil
import subprocess
from pathlib import Path

from tests.comfyui_fixture import free_port

REDIS_SERVER = shutil.which("redis-server") or shutil.which("valkey-server")
OPTIONS = ("--save", "", "--appendonly", "yes", "--bind", "127.0.0.1", "--loglevel", "notice")


class RedisServer:
    """Keeps an append-only file in ``folder``."""

    def __init__(self, folder: Path, *, fsync: str = "everysec") -> None:
        self.port = free_port()
        self.folder = folder
        self._fsync = fsync
        self._process: subprocess.Popen[str] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Come back when it takes connections."""
        assert REDIS_SERVER is not None
        options = [*OPTIONS, "--port", str(self.port), "--dir", str(self.folder), "--appendfsync", self._fsync]
        self._process = subprocess.Popen([REDIS_SERVER, *options], stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        lines = []
        for line in self._process.stdout:
            lines.append(line)
            if "Ready to accept connections" in line:
                return
        raise AssertionError("".join(lines))

    def kill(self) -> None:
        """As a crash does it."""
        assert self._process is not None and self._process.stdout is not None
        self._process.kill()
        self._process.wait()
        self._process.stdout.close()
        self._process = None

    def stop(self) -> None:
        """Kill it, if it runs."""
        if self._process is not None:
            self.kill()
