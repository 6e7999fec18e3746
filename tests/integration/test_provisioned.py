"""A host that is not what its manifest says takes no jobs, and everybody who asks hears why."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests

from tests.integration.doors import fake_engines, fleet_settings, reports
from tests.integration.harness import START_TIMEOUT_S, WorkerProcess, autoscaler, picture

MANIFEST = """
version: 1
files:
  - {{path: notes/hello.txt, content: "hello"}}
scripts:
  - name: fonts
    run: "echo no fonts today >&2; exit 3"
    optional: {optional}
"""


@contextmanager
def provisioned(tmp_path: Path, *, optional: bool) -> Iterator[tuple[WorkerProcess, str]]:
    """A worker that prepares its host itself by a manifest with a step that fails; and its autoscaler."""
    manifest, cron = tmp_path / "manifest.yaml", tmp_path / "cron.d"
    manifest.write_text(MANIFEST.format(optional=str(optional).lower()))
    cron.mkdir()
    workspace = tmp_path / "workspace"
    workspace.mkdir()
    with autoscaler() as router, fake_engines(tmp_path / "fake") as (engine,):
        settings = fleet_settings(workspace, router) | {
            "COMFYUI_API_BASE": engine.base_url,
            "PYWORKER_HOST_READY": "",
            "PYWORKER_MANIFEST": str(manifest),
            "CRON_DIR": str(cron),
        }
        process = WorkerProcess(workspace, settings)
        process.start()
        try:
            yield process, router
        finally:
            process.stop()


def test_a_step_that_is_needed(tmp_path: Path) -> None:
    """Not ready, with the cause in ``/ready``, ``/health``, the refusal and the report; the probe of life is well."""
    with provisioned(tmp_path, optional=False) as (process, router):
        process.wait_for(
            lambda: process.get("/health").json()["backends_healthy"] == "1/1", "attached", START_TIMEOUT_S
        )
        ready = process.get("/ready")
        assert ready.status_code == 503
        assert "fonts" in ready.json()["reason"]
        assert "provisioning failed" in process.health()["reason"]
        assert process.health()["status"] == "unhealthy"
        assert process.get("/healthz").status_code == 200
        refusal = process.generate({"workflow_json": picture(1)})
        assert refusal.status_code == 503
        assert "fonts" in refusal.json()["message"]
        process.wait_for(lambda: any("fonts" in report["error_msg"] for report in reports(router)), "reported")
        assert (process.workspace / "notes" / "hello.txt").read_text() == "hello"


def test_a_step_that_is_optional(tmp_path: Path) -> None:
    """Ready all the same, nothing reported; the report on disk has it."""
    with provisioned(tmp_path, optional=True) as (process, router):
        process.wait_ready()
        assert process.generate({"workflow_json": picture(2)}).status_code == 200
        assert all(report["error_msg"] == "" for report in reports(router))
        report = (process.workspace / "provisioning-report.json").read_text()
        assert "fonts" in report
        assert '"failed"' in report


@pytest.mark.parametrize("text", ["version: 1\nscripts: 7\n", "version: 2\n", "{"])
def test_a_manifest_that_is_none(tmp_path: Path, text: str) -> None:
    """The start ends with a sentence and a status that is not 0, and the autoscaler hears it."""
    manifest = tmp_path / "manifest.yaml"
    manifest.write_text(text)
    with autoscaler() as router:
        settings = fleet_settings(tmp_path, router)
        settings |= {"COMFYUI_API_BASE": "http://127.0.0.1:9", "PYWORKER_HOST_READY": "", "CRON_DIR": str(tmp_path)}
        process = WorkerProcess(tmp_path, settings | {"PYWORKER_MANIFEST": str(manifest)})
        process.start()
        assert process.process is not None
        assert process.process.wait(240) != 0
        assert "manifest.yaml" in process.tail()
        assert "Traceback" not in process.tail()
        assert requests.get(f"{router}/recorded/", timeout=60).json()["statuses"][-1]["error_msg"]
