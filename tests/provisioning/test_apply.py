"""Carrying a manifest out, and the report that the worker reads."""

import json
import threading
from pathlib import Path
from typing import Any

import pytest

from provisioning.apply import apply_manifest, causes
from provisioning.facts import HostFacts
from provisioning.manifest import Condition, Manifest
from provisioning.report import FILE_NAME, ProvisioningReport
from tests.provisioning.servers import FileServer


@pytest.fixture
def facts(tmp_path: Path) -> HostFacts:
    (tmp_path / "cron.d").mkdir()
    return HostFacts(
        workspace=tmp_path / "workspace",
        comfyui_root=tmp_path / "ComfyUI",
        conditions=frozenset({Condition.CPU}),
        cron_dir=tmp_path / "cron.d",
        retry_wait_s=0.001,
    )


def run(facts: HostFacts, **content: Any) -> tuple[ProvisioningReport, dict[str, Any]]:
    report = apply_manifest(Manifest.model_validate(content), facts)
    return report, json.loads((facts.workspace / FILE_NAME).read_text())


def test_models_arrive_and_are_reported(server: FileServer, facts: HostFacts, tmp_path: Path) -> None:
    url = server.add("/m", b"weights")
    report, written = run(facts, models=[{"path": "loras/x.bin", "url": url, "size_bytes": 7}])
    assert (tmp_path / "ComfyUI/models/loras/x.bin").read_bytes() == b"weights"
    assert written["status"] == "ok"
    assert written["finished_at"] >= written["started_at"]
    (step,) = written["steps"]
    assert (step["name"], step["kind"], step["status"], step["bytes"]) == ("loras/x.bin", "model", "ok", 7)
    assert step["error"] is None
    assert report.failures == ()


def test_downloads_run_side_by_side_up_to_the_limit(server: FileServer, facts: HostFacts) -> None:
    """The server answers only when four requests are there at once."""
    server.gate = threading.Barrier(4)
    models = [{"path": f"m{number}", "url": server.add(f"/{number}", b"x")} for number in range(8)]
    report, _ = run(facts, models=models)
    assert report.failures == ()


def test_needed_failure_holds_back_and_the_rest_still_runs(server: FileServer, facts: HostFacts) -> None:
    good = {"path": "good", "url": server.add("/good", b"x")}
    bad = {"path": "bad", "url": server.add("/bad", b"x"), "sha256": "0" * 64}
    report, written = run(facts, models=[bad, good], files=[{"path": "f", "content": "text"}])
    assert written["status"] == "failed"
    assert [step["status"] for step in written["steps"]] == ["failed", "ok", "ok"]
    assert "SHA-256" in causes(report.failures)
    assert causes(report.failures).startswith("model bad: ")


def test_optional_failure_does_not_hold_back(server: FileServer, facts: HostFacts) -> None:
    _, written = run(facts, models=[{"path": "m", "url": server.url + "/absent", "optional": True}])
    assert written["status"] == "ok"
    assert written["steps"][0]["status"] == "failed"
    assert "404" in written["steps"][0]["error"]


def test_conditions_skip(server: FileServer, facts: HostFacts) -> None:
    _, written = run(facts, models=[{"path": "m", "url": server.url + "/absent", "when": ["gpu"]}])
    assert written["status"] == "ok"
    assert written["steps"][0]["status"] == "skipped"
    assert server.requests == []


def test_unknown_comfyui_folder_is_said(server: FileServer, facts: HostFacts) -> None:
    unknown = HostFacts(
        workspace=facts.workspace, comfyui_root=None, conditions=facts.conditions, cron_dir=facts.cron_dir
    )
    report, _ = run(unknown, models=[{"path": "m", "url": server.url + "/m"}])
    assert "COMFYUI_INSTALL_PATH" in causes(report.failures)


def test_scripts_run_in_order_once_for_their_text(facts: HostFacts) -> None:
    scripts = [{"name": "one", "run": "echo 1 >> $WORKSPACE_DIR/log"}, {"name": "two", "run": "echo 2 >> log"}]
    run(facts, scripts=scripts)
    run(facts, scripts=scripts)
    run(facts, scripts=[{"name": "one", "run": "echo changed >> log"}])
    assert (facts.workspace / "log").read_text().split() == ["1", "2", "changed"]


def test_failed_script_is_reported_with_its_last_lines_and_runs_again(facts: HostFacts) -> None:
    script = {"name": "bad", "run": "echo tried >> log; echo the cause >&2; exit 3"}
    report, _ = run(facts, scripts=[script])
    assert "exit status 3" in causes(report.failures)
    assert "the cause" in causes(report.failures)
    run(facts, scripts=[script])
    assert (facts.workspace / "log").read_text().split() == ["tried", "tried"]


def test_files_by_text_and_by_url(server: FileServer, facts: HostFacts, tmp_path: Path) -> None:
    files = [
        {"path": "user/s.json", "under": "comfyui", "content": "{}"},
        {"path": "u.txt", "url": server.add("/u", b"from url")},
    ]
    run(facts, files=files)
    assert (tmp_path / "ComfyUI/user/s.json").read_text() == "{}"
    assert (facts.workspace / "u.txt").read_text() == "from url"


def test_cron_entry_carries_the_environment_but_no_secret(facts: HostFacts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLEANUP_MAX_AGE_S", "60")
    monkeypatch.setenv("S3_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("COMFYUI_API_KEY", "secret")
    entry = {"name": "upkeep", "schedule": "*/10 * * * *", "module": "lib.upkeep"}
    _, written = run(facts, cron=[entry])
    text = (facts.cron_dir / "pyworker-upkeep").read_text()
    assert 'CLEANUP_MAX_AGE_S="60"' in text
    assert f'WORKSPACE_DIR="{facts.workspace}"' in text
    assert "*/10 * * * * root cd " in text
    assert "-m lib.upkeep" in text
    assert text.endswith("\n")
    assert "secret" not in text
    assert written["steps"][0]["status"] == "ok"


def test_missing_cron_is_said_plainly(facts: HostFacts) -> None:
    facts.cron_dir.rmdir()
    _, written = run(facts, cron=[{"name": "upkeep", "schedule": "*/10 * * * *"}])
    assert written["status"] == "ok"
    assert written["steps"][0]["status"] == "skipped"
    assert "cron is not installed" in written["steps"][0]["error"]


def test_report_of_an_unfinished_run_says_failed(facts: HostFacts) -> None:
    """Killed half-way, the last report must not look like success: a script sees what stands meanwhile."""
    run(facts, scripts=[{"name": "look", "run": f"cp {FILE_NAME} seen.json"}])
    seen = json.loads((facts.workspace / "seen.json").read_text())
    assert seen["status"] == "failed"
    assert seen["finished_at"] is None
