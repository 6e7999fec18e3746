"""Vast's stock start script launches this repository as ``PYWORKER_REPO``: what it does, in a script of our own words.

The environment that the entry file changes into is the tests' own, so that nothing is downloaded; making a new one is
what ``tests/test_start_server.py`` and every fresh clone show.
"""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.comfyui_fixture import REPOSITORY, RealComfyUI
from tests.integration.doors import Doors, fleet_settings, reports
from tests.integration.harness import WorkerProcess, autoscaler, picture

pytestmark = [pytest.mark.comfyui, pytest.mark.start]

STOCK = r"""
set -e -o pipefail
trap : TERM
cd "$WORKSPACE_DIR"
[ -n "$BACKEND" ] && [ -n "$CONTAINER_ID" ] || { echo "BACKEND and CONTAINER_ID are needed"; exit 1; }
git clone --quiet "$PYWORKER_REPO" vast-pyworker
cd vast-pyworker
[ -z "$PYWORKER_REF" ] || git checkout --quiet "$PYWORKER_REF"
"$PYTHON_310" -m venv "$WORKSPACE_DIR/worker-env"
. "$WORKSPACE_DIR/worker-env/bin/activate"
python3 --version
pip install --quiet --disable-pip-version-check --no-input -r requirements.txt
pip list --disable-pip-version-check --format=freeze > "$WORKSPACE_DIR/installed.txt"
if [ -f worker.py ]; then python3 -m worker >> "$WORKSPACE_DIR/pyworker.log" 2>&1 && exit 0; fi
for entry in worker server; do
    status=0
    python3 -m "workers.$BACKEND.$entry" >> "$WORKSPACE_DIR/pyworker.log" 2>&1 || status=$?
    echo "$entry ended with $status"
    [ $status -ne 0 ] || exit 0
done
exit $status
"""


def python_310() -> str:
    """An interpreter of the version that the stock script makes its environment with."""
    installed = Path("~/.pyenv/versions").expanduser().glob("3.10.*/bin/python3.10")
    for candidate in (shutil.which("python3.10"), *map(str, installed)):
        command = [candidate or "", "-c", "import ensurepip, venv"]
        if candidate and subprocess.run(command, capture_output=True).returncode == 0:  # a shim of pyenv may be empty
            return candidate
    pytest.skip("no Python 3.10 is installed here (Vast's stock script makes its environment with that one)")


class StockHost(WorkerProcess):
    """A Vast instance, as far as the stock script sees it."""

    def start(self) -> None:
        with self.log.open("ab") as log:
            command = ["bash", "-c", STOCK]
            self.process = subprocess.Popen(command, env=self.env, stdout=log, stderr=log, start_new_session=True)

    def terminate(self) -> int:
        """Tell every process of it to stop, as the end of a container does; return the script's status."""
        assert self.process is not None
        os.killpg(self.process.pid, signal.SIGTERM)
        return self.process.wait(120)

    def end(self) -> None:
        """End what is left of it."""
        assert self.process is not None
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(60)

    def said(self) -> str:
        path = self.workspace / "pyworker.log"
        return self.tail() + "\n" + (path.read_text() if path.exists() else "")


@contextmanager
def launched(workspace: Path, router: str, **env: str) -> Iterator[StockHost]:
    settings: dict[str, Any] = fleet_settings(workspace, router) | {
        "BACKEND": "comfyui-json",
        "PYWORKER_REPO": str(REPOSITORY),
        "PYWORKER_REF": "",
        "PYTHON_310": python_310(),
        "PYWORKER_VENV": str(Path(sys.executable).parent.parent),
        "PYWORKER_HOST_READY": "",
        "CRON_DIR": str(workspace),
        "PIP_NO_INDEX": "1",
        **env,
    }
    host = StockHost(workspace, settings)
    host.start()
    try:
        yield host
    finally:
        host.end()


def test_the_stock_script_launches_this_repository(real_comfyui: RealComfyUI, tmp_path: Path) -> None:
    """Its 3.10 environment stays empty, the worker is ready on a real ComfyUI, reported as loaded, and drains."""
    with autoscaler() as router, launched(tmp_path, router, COMFYUI_API_BASE=real_comfyui.base_url) as host:
        host.public = f"http://127.0.0.1:{host.env['WORKER_PORT']}"
        host.wait_ready()
        assert "Python 3.10" in host.said()
        installed = {line.partition("==")[0] for line in (tmp_path / "installed.txt").read_text().split()}
        assert installed <= {"pip", "setuptools", "wheel"}
        doors = Doors(host, router)
        loaded = next(report for report in reports(router) if report["loadtime"])
        assert loaded["max_perf"] > 0
        assert loaded["error_msg"] == ""
        assert reports(router)[0]["loadtime"] == 0.0
        reply = doors.send("public", {"input": {"workflow_json": picture(701, prefix="stock/x")}})
        assert reply.status_code == 200, reply.text
        assert Path(reply.json()["output"][0]["local_path"]).read_bytes().startswith(b"\x89PNG")
        assert host.terminate() == 0, host.said()
        assert "worker ended with 0" in host.said()
        with pytest.raises(requests.ConnectionError):
            host.get("/healthz")


def test_a_setting_that_is_wrong_is_reported(tmp_path: Path) -> None:
    """A status that is not 0, so that the script goes on to its next entry, and the autoscaler hears the cause."""
    with autoscaler() as router, launched(tmp_path, router, WORKER_HTTP_PORT="seventy") as host:
        assert host.process is not None
        assert host.process.wait(240) != 0
        assert "WORKER_HTTP_PORT" in host.said()
        assert "Traceback" not in host.said()
        assert any("WORKER_HTTP_PORT" in report["error_msg"] for report in reports(router))
