"""The software steps of a manifest, from end to end on a small ComfyUI: installed, imported, reported."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from provisioning.apply import apply_manifest, causes
from provisioning.facts import HostFacts
from provisioning.manifest import Manifest
from provisioning.report import ProvisioningReport
from provisioning.volume.mount import mount
from tests.provisioning.volume.test_paths import fill

COMFYUI = """
import importlib.util, pathlib, sys, traceback
names = sys.argv[sys.argv.index("--whitelist-custom-nodes") + 1:]
assert "--quick-test-for-ci" in sys.argv and "--cpu" in sys.argv
with open("starts", "a") as starts:
    starts.write("x")
table = []
for name in names:
    path = pathlib.Path("custom_nodes").resolve() / name
    try:
        spec = importlib.util.spec_from_file_location(name, path / "__init__.py")
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
    except Exception as error:
        print(traceback.format_exc())
        print(f"Cannot import {path} module for custom nodes: {error}")
        table.append(f"   0.0 seconds (IMPORT FAILED): {path}")
    else:
        table.append(f"   0.0 seconds: {path}")
print("\\n".join(table))
"""
"""Loads packs as ComfyUI does and says so in its words (the real one: nodes/test_check.py)."""


@pytest.fixture
def facts(tmp_path: Path, interpreter: object) -> HostFacts:
    root = tmp_path / "ComfyUI"
    (root / "comfy").mkdir(parents=True)
    (root / "comfy/cli_args.py").write_text('"--whitelist-custom-nodes"')
    (root / "main.py").write_text(COMFYUI)
    return HostFacts(
        workspace=tmp_path / "workspace",
        comfyui_root=root,
        conditions=frozenset(),
        cron_dir=tmp_path,
        find_interpreter=lambda: interpreter,  # type: ignore[arg-type,return-value]
    )


def apply(facts: HostFacts, **content: object) -> ProvisioningReport:
    return apply_manifest(Manifest.model_validate(content), facts)


def outcomes(report: ProvisioningReport) -> list[tuple[str, str, str]]:
    return [(step.kind, step.name, step.status) for step in report.steps]


def starts(facts: HostFacts) -> int:
    return len((facts.comfyui() / "starts").read_text())


def test_pack_is_installed_and_imported_once(facts: HostFacts, make_repository: Callable[..., str]) -> None:
    url = make_repository("pack")
    for _ in range(2):
        assert outcomes(apply(facts, custom_nodes=[url])) == [("node", "pack", "ok"), ("import", "pack", "ok")]
    assert starts(facts) == 1


def test_pack_that_does_not_import_holds_back_with_its_cause(
    facts: HostFacts,
    make_repository: Callable[..., str],
) -> None:
    url = make_repository("pack", __init___py="import absent_module")
    report = apply(facts, custom_nodes=[url])
    assert "No module named 'absent_module'" in causes(report.failures)
    optional = apply(facts, custom_nodes=[{"source": url, "optional": True}])
    assert optional.failures == ()
    assert outcomes(optional)[-1] == ("import", "pack", "failed")


def test_package_of_the_manifest_makes_the_pack_import(
    facts: HostFacts,
    make_repository: Callable[..., str],
    wheel: Path,
    interpreter: object,
) -> None:
    url = make_repository("pack", __init___py="import tinything")
    report = apply(facts, custom_nodes=[url], pip=[f"tinything @ file://{wheel}"])
    assert report.failures == ()
    assert [step.kind for step in report.steps] == ["node", "pip", "import"]


def test_nothing_is_started_for_a_manifest_without_packs(facts: HostFacts) -> None:
    assert apply(facts, apt=["bash"], files=[{"path": "x", "content": ""}]).failures == ()
    assert not (facts.comfyui() / "starts").exists()


def test_unknown_interpreter_is_said(facts: HostFacts) -> None:
    unknown = replace(facts, find_interpreter=lambda: None)
    assert "COMFYUI_PYTHON" in causes(apply(unknown, pip=["x"]).failures)


@pytest.mark.parametrize("asked_by", ["manifest", "variable"])
def test_snapshot_of_the_volume_is_restored_when_asked(
    facts: HostFacts,
    make_repository: Callable[..., str],
    tmp_path: Path,
    asked_by: str,
) -> None:
    volume = fill(tmp_path / "volume", "models/loras/a.pt")
    (volume / "my-snapshot.json").write_text(json.dumps({"git_custom_nodes": {make_repository("pack"): {}}}))
    facts.workspace.mkdir()
    mounted = mount(volume, workspace=facts.workspace, root=None, interpreter=None, each=False)
    facts = replace(facts, volume=mounted, snapshot="auto" if asked_by == "variable" else None)
    report = apply(facts, **({"snapshot": "auto"} if asked_by == "manifest" else {}))
    assert outcomes(report) == [("snapshot", "auto", "ok"), ("import", "pack", "ok")]


def test_snapshot_that_was_asked_for_and_is_not_there_is_skipped_or_missing(facts: HostFacts) -> None:
    assert outcomes(apply(facts, snapshot="auto")) == [("snapshot", "auto", "skipped")]
    assert "gone.json can't be read" in causes(apply(facts, snapshot="gone.json").failures)


def test_packs_and_models_of_the_volume_are_used(facts: HostFacts, tmp_path: Path) -> None:
    """What a pack there needs is installed, and may fail; a model that is there is not downloaded again."""
    volume = fill(tmp_path / "volume", "models/loras/a.pt", "custom_nodes/pack/__init__.py")
    (volume / "custom_nodes/pack/requirements.txt").write_text("absent @ file:///absent.whl")
    (volume / "extra_model_paths.yaml").write_text("a: b")
    facts.workspace.mkdir()
    mounted = mount(volume, workspace=facts.workspace, root=None, interpreter=None, each=False)
    model = {"path": "loras/a.pt", "url": "http://127.0.0.1:9/a", "size_bytes": 1}
    report = apply(replace(facts, volume=mounted), models=[model])
    assert [status for _, _, status in outcomes(report)] == ["skipped", "failed", "failed"]
    assert causes(report.failures).startswith("volume extra_model_paths.yaml: ")
    assert report.volume is not None
    assert report.volume.folders["loras"].files == 1
