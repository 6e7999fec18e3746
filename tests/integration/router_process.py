"""``python -m router`` as an operator starts it."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import requests

from lib.serving.keyring import digest
from tests.comfyui_fixture import REPOSITORY, free_port

ACCOUNT_KEY = "account-key"
"""The one that ``tests/peers/vast/driver.py`` has; too short for the router's taste, so it gets the hash."""
TOKEN = "worker-token-0123456789"
START_TIMEOUT_S = 120.0
ANSWER_S = 60.0
"""A machine that is busy may need so long for an answer that takes milliseconds."""


class RouterProcess:
    """A router with its state in ``folder``; ``kill`` and ``start`` keep its port and state."""

    def __init__(self, folder: Path, *endpoints: str | dict[str, Any], **env: str) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.log = folder / "router.log"
        described = [{"name": one} if isinstance(one, str) else one for one in endpoints]
        self._env = {
            **{name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ},
            "ROUTER_PORT": str(port),
            "ROUTER_STATE_DIR": str(folder / "state"),
            "ROUTER_ACCOUNT_KEYS": f"sha256:{digest(ACCOUNT_KEY).hex()}",
            "ROUTER_WORKER_TOKENS": TOKEN,
            "ROUTER_ENDPOINTS": json.dumps(described),
            **env,
        }
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it serves."""
        with self.log.open("ab") as out:
            command = [sys.executable, "-m", "router"]
            self._process = subprocess.Popen(command, cwd=REPOSITORY, env=self._env, stdout=out, stderr=out)
        until = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < until and self._process.poll() is None:
            try:
                if requests.get(f"{self.url}/ready", timeout=5).status_code == 200:
                    return
            except requests.RequestException:
                time.sleep(0.05)
        raise AssertionError(f"the router did not start:\n{self.log.read_text()}")

    def kill(self) -> None:
        """End it at once."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def restart(self, **env: str) -> None:
        """Kill it, and start it with these settings changed."""
        self.kill()
        self._env |= env
        self.start()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def stop(self) -> int:
        """SIGTERM; return the exit status."""
        if self._process is None:
            return 0
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(START_TIMEOUT_S)

    # -- questions ----------------------------------------------------------------------------------------------------

    def logs(self, endpoint: str) -> dict[str, str]:
        """What it tells of an endpoint."""
        return dict(self.call("/get_endpoint_logs/", endpoint=endpoint, tail=-1))

    def workers(self, endpoint: str) -> dict[int, dict[str, Any]]:
        return {one["id"]: one for one in self.call("/get_endpoint_workers/", endpoint=endpoint)}

    def status(self, endpoint: str, worker_id: int) -> str:
        """A worker's state; "" = it is not known."""
        return str(self.workers(endpoint).get(worker_id, {}).get("status", ""))

    def given(self, endpoint: str, worker_id: int) -> int:
        """How often a worker was named to somebody."""
        return self.logs(endpoint)["info1"].count(f"-> {endpoint}/{worker_id} ")

    def waiting(self, endpoint: str) -> int:
        """Requests that have no worker yet."""
        return int(self.look("/health")["endpoints"][endpoint]["waiting"])

    def look(self, path: str) -> Any:
        """GET."""
        return requests.get(self.url + path, timeout=ANSWER_S).json()

    def tell(self, endpoint: str, path: str, **fields: Any) -> None:
        """Speak as a worker."""
        self.call(f"/e/{endpoint}{path}", mtoken=TOKEN, **fields)

    def call(self, path: str, **fields: Any) -> Any:
        body = {"api_key": ACCOUNT_KEY, **fields}
        reply = requests.post(self.url + path, json=body, timeout=ANSWER_S)
        assert reply.status_code == 200, reply.text
        return reply.json()

    def until(self, condition: Any, what: str, timeout_s: float = 120.0) -> None:
        """Ask until ``condition`` holds."""
        end = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < end, f"not {what} within {timeout_s:g} s:\n{self.log.read_text()[-3000:]}"
            time.sleep(0.05)


@contextmanager
def router_process(folder: Path, *endpoints: str | dict[str, Any], **env: str) -> Iterator[RouterProcess]:
    """A router with these endpoints; it has to end well, and to have met no defect of its own."""
    router = RouterProcess(folder, *endpoints, **env)
    router.start()
    try:
        yield router
    finally:
        status = router.stop()
    log = router.log.read_text()
    assert status == 0, log
    assert "Traceback" not in log, log
