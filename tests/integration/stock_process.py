"""The stock PyWorker of the ``vastai`` package as a process that reports to a router of ours."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.comfyui_fixture import free_port
from tests.integration.harness import START_TIMEOUT_S
from tests.integration.router_process import TOKEN, RouterProcess

STOCK = Path(__file__).resolve().parents[1] / "peers" / "vast" / "stock_worker.py"
NUMBER = 7


class StockWorker:
    """``kill`` and ``start`` keep its port, its number and its benchmark."""

    def __init__(self, python: Path, router: RouterProcess, folder: Path, *, endpoint: str, number: int) -> None:
        port = str(free_port())
        self.url = f"http://127.0.0.1:{port}"
        self.number = number
        self._router = router
        self._endpoint = endpoint
        self._folder = folder
        self._command = [str(python), str(STOCK)]
        self._env = {
            **{name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ},
            "HOME": str(folder),
            "REPORT_ADDR": f"{router.url}/e/{endpoint}",
            "CONTAINER_ID": str(number),
            "MASTER_TOKEN": TOKEN,
            "PUBLIC_IPADDR": "127.0.0.1",
            "WORKER_PORT": port,
            f"VAST_TCP_PORT_{port}": port,
            "USE_SSL": "false",
        }
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def status(self) -> str:
        """Its state, as the router lists it."""
        return self._router.status(self._endpoint, self.number)

    def start(self) -> None:
        """Start it; return at once."""
        with (self._folder / "stock.log").open("ab") as out:
            self._process = subprocess.Popen(self._command, cwd=self._folder, env=self._env, stdout=out, stderr=out)

    def wait_idle(self) -> None:
        """Return when the router knows it as ready."""

        def idle() -> bool:
            alive = self._process is not None and self._process.poll() is None
            assert alive, (self._folder / "stock.log").read_text()[-3000:]
            return self.status == "idle"

        self._router.until(idle, "idle", START_TIMEOUT_S)

    def break_model(self) -> None:
        """Let the model log an error that ends it."""
        with (self._folder / "model.log").open("a") as log:
            log.write("BROKEN\n")

    def kill(self) -> None:
        """End it at once, as a host that fails."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()


@contextmanager
def stock_worker(
    python: Path, router: RouterProcess, folder: Path, *, endpoint: str = "ep", number: int = NUMBER
) -> Iterator[StockWorker]:
    """One that has done its benchmark."""
    worker = StockWorker(python, router, folder, endpoint=endpoint, number=number)
    worker.start()
    try:
        worker.wait_idle()
        yield worker
    finally:
        worker.kill()
