"""A pack that ComfyUI can't load is told with its traceback; the reading of the log apart, on a real ComfyUI."""

import shutil
from pathlib import Path

import pytest

from provisioning.comfyui.record import InstallRecord
from provisioning.errors import ProvisioningError
from provisioning.interpreter import interpreter_of
from provisioning.nodes.check import ImportCheck, problem
from tests.provisioning.packs import write_pack

LOG = """
Traceback (most recent call last):
  File "/c/nodes.py", line 1, in load_custom_node
  File "/c/custom_nodes/bad/__init__.py", line 1, in <module>
    import cv2
ModuleNotFoundError: No module named 'cv2'

Cannot import /c/custom_nodes/bad module for custom nodes: No module named 'cv2'
Skip /c/custom_nodes/empty module for custom nodes due to the lack of NODE_CLASS_MAPPINGS or NODES_LIST (need one).

Import times for custom nodes:
   0.0 seconds: /c/custom_nodes/good
   0.0 seconds (IMPORT FAILED): /c/custom_nodes/bad
   0.1 seconds (IMPORT FAILED): /c/custom_nodes/empty
"""


def test_log_of_packs_that_load_and_that_do_not() -> None:
    nodes = Path("/c/custom_nodes")
    assert problem(LOG, nodes / "good") is None
    bad = problem(LOG, nodes / "bad")
    assert bad is not None
    assert bad.startswith("Traceback")
    assert bad.endswith("No module named 'cv2'")
    assert "lack of NODE_CLASS_MAPPINGS" in (problem(LOG, nodes / "empty") or "")


def test_comfyui_that_ended_early_tells_its_last_lines() -> None:
    assert "Segmentation fault" in (problem("starting\nSegmentation fault", Path("/c/custom_nodes/x")) or "")


@pytest.fixture(scope="module")
def comfyui(installed: InstallRecord, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a copy of the real program, without its models, that packs may be put into."""
    root = tmp_path_factory.mktemp("real") / "ComfyUI"
    root.mkdir(parents=True)
    left = {"models", "output", "input", "temp", "user", "custom_nodes"}
    for path in installed.root.iterdir():
        if path.is_dir() and path.name not in left:
            shutil.copytree(path, root / path.name, ignore=shutil.ignore_patterns("__pycache__"))
        elif path.is_file():
            shutil.copy(path, root)
    (root / "models").mkdir()
    (root / "custom_nodes").mkdir()
    return root


@pytest.mark.comfyui
def test_real_comfyui_says_which_packs_import(
    comfyui: Path,
    installed: InstallRecord,
    tmp_path: Path,
) -> None:
    """One start for all packs; with all of them good, none the next time."""
    good, bad = comfyui / "custom_nodes/good", comfyui / "custom_nodes/bad"
    write_pack(good)
    write_pack(bad, __init___py="import no_such_module_here")

    def check(*paths: Path) -> ImportCheck:
        return ImportCheck(
            root=comfyui,
            workspace=tmp_path,
            interpreter=interpreter_of(tmp_path, python=installed.python, env=installed.env),
            device=installed.device,
            paths=paths,
            key="1",
        )

    both = check(good, bad)
    assert both.require(good) == 0
    with pytest.raises(ProvisioningError, match=r"pack bad does not import(.|\n)*No module named 'no_such_module"):
        both.require(bad)
    check(good).require(good)
    (good / "__init__.py").write_text("raise SystemExit")  # would fail, were it loaded again for the same versions
    assert check(good).require(good) == 0
