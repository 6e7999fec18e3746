"""The report of a failed start, sent before any environment exists."""

import subprocess
import sys
from pathlib import Path

from provisioning.error_report import report_error
from tests.provisioning.servers import FileServer, serve

SCRIPT = Path(__file__).resolve().parents[2] / "provisioning" / "error_report.py"


def test_every_address_gets_escaped_json(server: FileServer) -> None:
    """Quotes, line ends and backslashes survive; a dead address does not keep it from the others."""
    message = 'pip said "no"\n\\ and ended'
    with serve() as second:
        addresses = f"http://127.0.0.1:9, {server.url}/e/name/ ,,{second.url}"
        environ = {"REPORT_ADDR": addresses, "CONTAINER_ID": "42", "MASTER_TOKEN": 'a"b', "PYWORKER_VERSION": "7"}
        assert report_error(message, environ) == [f"{server.url}/e/name", second.url]
        (first,), (other,) = server.requests, second.requests
    assert first.path == "/e/name/worker_status/"
    assert other.path == "/worker_status/"
    assert first.json == {"id": 42, "mtoken": 'a"b', "version": "7", "error_msg": message, "url": ""}
    assert first.headers["Content-Type"] == "application/json"


def test_standalone_reports_to_nobody() -> None:
    assert report_error("x", {}) == []


def test_runs_by_its_path_in_a_bare_interpreter(server: FileServer) -> None:
    """``-S -E``: no site-packages, nothing of ours on the path."""
    done = subprocess.run(
        [sys.executable, "-S", "-E", SCRIPT, "it", "failed"],
        env={"REPORT_ADDR": server.url, "CONTAINER_ID": "abc"},
        check=False,
    )
    assert done.returncode == 0
    assert server.requests[0].json["error_msg"] == "it failed"
    assert server.requests[0].json["id"] == "abc"
