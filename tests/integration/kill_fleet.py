"""A fleet to be killed: processes of routers and workers on one redis-server, each started anew where it was."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import requests
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from tests.comfyui_fixture import REPOSITORY, free_port
from tests.router.store.redis_server import RedisServer

KEY, TOKEN = "endpoint-key-0123456789", "worker-token-0123456789"
LEASE_S = 4.0
START_TIMEOUT_S = 120.0


@dataclass
class Part:
    """One process that may be killed and started again."""

    name: str
    command: list[str]
    env: dict[str, str]
    log: Path
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.log.open("ab") as out:
            self.process = subprocess.Popen(
                self.command, cwd=REPOSITORY, env=self.env, stdout=out, stderr=subprocess.STDOUT
            )

    def kill(self) -> None:
        """As a crash does it."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


class Fleet:
    """``routers`` by URL; ``executed`` is what workers did, over all their lives."""

    def __init__(self, folder: Path, *, workers: int = 4, routers: int = 2) -> None:
        self.folder = folder
        self.redis = RedisServer(folder, fsync="always")
        self.urls = [f"http://127.0.0.1:{free_port()}" for _ in range(routers)]
        self.journal = folder / "executed"
        self.journal.touch()
        self._env = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
        self._key()
        self.routers = [self._router(number) for number in range(routers)]
        self.workers = [self._worker(number) for number in range(1, workers + 1)]

    @property
    def executed(self) -> list[str]:
        return self.journal.read_text().split()

    def start(self) -> None:
        """Come back when the routers take jobs; workers come as they come."""
        self.redis.start()
        for part in (*self.routers, *self.workers):
            part.start()
        until = time.monotonic() + START_TIMEOUT_S
        for url in self.urls:
            while not _is_ready(url):
                assert time.monotonic() < until, self.routers[0].log.read_text()
                time.sleep(0.05)

    def stop(self) -> None:
        for part in (*self.workers, *self.routers):
            part.kill()
        self.redis.stop()

    def _key(self) -> None:
        key = generate_private_key(public_exponent=65537, key_size=2048)
        private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        (self.folder / "key.pem").write_bytes(private)
        public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        (self.folder / "public.pem").write_bytes(public)

    def _router(self, number: int) -> Part:
        env = {
            "ROUTER_PORT": self.urls[number].rsplit(":", 1)[1],
            "ROUTER_STATE_DIR": str(self.folder / f"router{number}"),
            "ROUTER_STORE": self.redis.url,
            "ROUTER_STATE_KEY": "ab" * 32,
            "ROUTER_SIGNING_KEY": str(self.folder / "key.pem"),
            "ROUTER_WORKER_TOKENS": TOKEN,
            "ROUTER_ENDPOINTS": json.dumps([{"name": "ep", "api_key": KEY}]),
            "ROUTER_LEASE_S": str(LEASE_S),
            "ROUTER_STALE_S": "3",
            "ROUTER_PATIENCE_S": "2",
            "ROUTER_LOG_LEVEL": "WARNING",
        }
        command = [sys.executable, "-m", "router"]
        return Part(f"router{number}", command, self._env | env, self.folder / f"router{number}.log")

    def _worker(self, number: int) -> Part:
        routers = [word for url in self.urls for word in ("--router", f"{url}/e/ep")]
        files = ["--key", str(self.folder / "public.pem"), "--journal", str(self.journal)]
        command = [sys.executable, "-m", "tests.fakes.job_worker", "--number", str(number), *routers, *files]
        command += ["--port", str(free_port()), "--token", TOKEN]
        return Part(f"worker{number}", command, self._env, self.folder / f"worker{number}.log")


@contextmanager
def fleet(folder: Path) -> Iterator[Fleet]:
    """One that runs."""
    made = Fleet(folder)
    try:
        made.start()
        yield made
    finally:
        made.stop()


def _is_ready(url: str) -> bool:
    try:
        return requests.get(f"{url}/healthz", timeout=2).status_code == 200
    except requests.RequestException:
        return False
