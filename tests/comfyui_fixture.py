"""A real ComfyUI for tests: one process a test session, on a free port, with folders and a node pack of its own.

Reads the install record ``<COMFYUI_TEST_DIR, else .comfyui of the repository>/comfyui.json`` that provisioning wrote.
A missing install is a failure, never a skip.
"""

import json
import os
import random
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.error import URLError

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
NODES = REPOSITORY / "tests" / "fakes" / "nodes"
START_TIMEOUT_S = 180.0


_PORTS = iter(random.sample(range(20_000, 32_000), 12_000))
"""Below those that the system gives to connections and to listeners without a port of their own: what is found free
stays free until its server comes, and while that is down. Each is given out once."""


def free_port() -> int:
    """Return a port of the loopback that nobody listens on, and that nobody is given by chance."""
    for port in _PORTS:
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("no port is free")


def install_record() -> dict[str, object]:
    """Return ``{"python", "root", "env", "version", ...}`` of the installed ComfyUI."""
    folder = Path(os.environ.get("COMFYUI_TEST_DIR") or REPOSITORY / ".comfyui")
    path = folder / "comfyui.json"
    if not path.is_file():
        pytest.fail(f"no ComfyUI is installed for tests: {path} is missing; run `make setup`", pytrace=False)
    return dict(json.loads(path.read_text()))


class RealComfyUI:
    """A ComfyUI process. ``kill`` and ``start`` are for tests of its loss; a new start keeps port and folders."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.output = folder / "output"
        self.input = folder / "input"
        self.temp = folder / "temp"  # ComfyUI appends this name itself
        self.log = folder / "comfyui.log"
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None
        for path in (self.output, self.input, self.temp, folder / "user"):
            path.mkdir(parents=True, exist_ok=True)
        self.extra_paths = folder / "extra_paths.yaml"
        self.extra_paths.write_text(f"tests:\n    custom_nodes: {NODES}\n")

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it and wait until it answers."""
        record = install_record()
        root = Path(str(record["root"]))
        environment = {**os.environ, **dict(record.get("env") or {})}  # type: ignore[call-overload]
        command = [str(record["python"]), "main.py", "--cpu", "--listen", "127.0.0.1", "--port", str(self.port)]
        command += ["--output-directory", str(self.output), "--input-directory", str(self.input)]
        command += ["--temp-directory", str(self.folder), "--user-directory", str(self.folder / "user")]
        command += ["--database-url", f"sqlite:///{self.folder / 'comfyui.db'}", "--disable-auto-launch"]
        command += ["--disable-metadata", "--disable-api-nodes", "--extra-model-paths-config", str(self.extra_paths)]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, cwd=root, env=environment, stdout=log, stderr=log)
        self._wait_answering()

    def _wait_answering(self) -> None:
        assert self.process is not None
        until = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < until:
            if self.process.poll() is not None:
                raise RuntimeError(f"ComfyUI ended with {self.process.returncode}:\n{self.tail()}")
            try:
                with urllib.request.urlopen(f"{self.base_url}/system_stats", timeout=30) as answer:
                    if answer.status == 200:
                        return
            except (URLError, OSError):
                time.sleep(0.1)
        raise RuntimeError(f"ComfyUI did not answer within {START_TIMEOUT_S:g} s:\n{self.tail()}")

    def kill(self) -> None:
        """End it at once, as the kernel's OOM killer does."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            self.process.wait(60)

    def tail(self, lines: int = 40) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None


@pytest.fixture(scope="session")
def real_comfyui() -> Iterator[RealComfyUI]:
    """The shared ComfyUI; a test that ended it leaves it to ``start`` for the next one."""
    with tempfile.TemporaryDirectory(prefix="comfyui-test-", ignore_cleanup_errors=True) as folder:
        comfyui = RealComfyUI(Path(folder))
        comfyui.start()
        try:
            yield comfyui
        finally:
            comfyui.stop()


if __name__ == "__main__":  # a ComfyUI to play with: python -m tests.comfyui_fixture FOLDER
    played = RealComfyUI(Path(sys.argv[1]).resolve())
    played.start()
    print(played.base_url, flush=True)
    try:
        played.process.wait()  # type: ignore[union-attr]
    finally:
        played.stop()
