"""The sample workflows: well formed, known to the real ComfyUI, their models in their manifests; three really run."""

import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import requests

from lib.workflow.graph import check_graph, is_link
from provisioning.manifest import DEFAULT_MANIFEST, load_manifest
from provisioning.settings import REPOSITORY
from tests.comfyui_fixture import RealComfyUI
from tests.integration.harness import WorkerProcess, worker

EXAMPLES = REPOSITORY / "examples"
NAMES = sorted(path.parent.name for path in EXAMPLES.glob("*/workflow.json"))
ISSUE = {"sd15", "sdxl", "sd3", "flux1-schnell", "flux1-dev", "image-to-image", "video"}
MODEL_FILE = re.compile(r"\.(safetensors|ckpt|sft|gguf|pt|pth|bin)$")
SMALL = {
    "base": [],
    "sd15": ["5.width=64", "5.height=64", "3.steps=1"],
    "image-to-image": ["11.width=64", "11.height=64", "3.steps=2"],
}


def graph_of(name: str) -> dict[str, Any]:
    return dict(json.loads((EXAMPLES / name / "workflow.json").read_text()))


def request_of(name: str) -> dict[str, Any]:
    return dict(json.loads((EXAMPLES / name / "request.json").read_text())["input"])


def test_all_that_was_promised_is_there() -> None:
    assert set(NAMES) >= ISSUE
    readme = (EXAMPLES / "README.md").read_text()
    assert [name for name in NAMES if f"]({name})" not in readme] == []


@pytest.mark.parametrize("name", NAMES)
def test_graph_request_and_manifest_agree(name: str) -> None:
    """The request sends the graph as it lies beside it; each model that the graph names is in the manifest."""
    graph = graph_of(name)
    check_graph(graph)
    assert request_of(name)["workflow"] == graph
    wanted = {value for node in graph.values() for value in node["inputs"].values() if _is_model(value)}
    models = load_manifest(EXAMPLES / name / "manifest.yaml").models
    assert wanted == {model.path.split("/", 1)[1] for model in models}
    assert all(model.size_bytes and model.url.startswith("https://huggingface.co/") for model in models)


def _is_model(value: object) -> bool:
    return isinstance(value, str) and MODEL_FILE.search(value) is not None


def test_one_request_has_a_picture_by_its_url() -> None:
    graph, pictures = graph_of("image-to-image"), request_of("image-to-image")["images"]
    loaded = [node["inputs"]["image"] for node in graph.values() if node["class_type"] == "LoadImage"]
    assert [picture["name"] for picture in pictures] == loaded
    assert pictures[0]["image"].startswith("https://")


@pytest.fixture(scope="module")
def object_info(real_comfyui: RealComfyUI) -> dict[str, Any]:
    return dict(requests.get(f"{real_comfyui.base_url}/object_info", timeout=60).json())


@pytest.mark.comfyui
@pytest.mark.parametrize("name", [*NAMES, "test_input.json"])
def test_real_comfyui_knows_each_node_input_and_link(name: str, object_info: dict[str, Any]) -> None:
    """What can be told without the models: classes, inputs, choices, ranges, and that links carry the right type."""
    graph = _test_input() if name == "test_input.json" else graph_of(name)
    assert [problem for node_id in graph for problem in _problems(graph, node_id, object_info)] == []


def _problems(graph: dict[str, Any], node_id: str, info: dict[str, Any]) -> Iterator[str]:
    node = graph[node_id]
    known = info.get(node["class_type"])
    if known is None:
        yield f"{node_id}: no {node['class_type']}"
        return
    takes = {**known["input"].get("required", {}), **known["input"].get("optional", {})}
    yield from (f"{node_id}: lacks {name}" for name in known["input"].get("required", {}) if name not in node["inputs"])
    for name, value in node["inputs"].items():
        if name not in takes:
            yield f"{node_id}: has no input {name}"
        elif problem := _misfit(value, takes[name], graph, info):
            yield f"{node_id}.{name}: {problem}"


def _misfit(value: Any, declared: list[Any], graph: dict[str, Any], info: dict[str, Any]) -> str | None:
    kind, options = declared[0], declared[1] if len(declared) > 1 else {}
    if is_link(value):
        given = info[graph[value[0]]["class_type"]]["output"][value[1]]
        return None if given == kind else f"takes {kind}, gets {given}"
    if _is_model(value) or options.get("image_upload"):
        return None  # a file that is not here
    choices = kind if isinstance(kind, list) else options.get("options")
    if choices is not None:
        return None if value in choices else f"{value!r} is none of {choices}"
    if kind in ("INT", "FLOAT"):
        inside = options.get("min", value) <= value <= options.get("max", value)
        return None if inside and not (kind == "INT" and not isinstance(value, int)) else f"{value!r} is out of range"
    return None if kind == "STRING" and isinstance(value, str) else f"takes {kind}, gets {value!r}"


def _test_input() -> dict[str, Any]:
    return dict(json.loads((REPOSITORY / "test_input.json").read_text())["input"]["workflow"])


def test_input_of_the_root_uses_the_default_checkpoint() -> None:
    wanted = {value for node in _test_input().values() for value in node["inputs"].values() if _is_model(value)}
    assert {f"checkpoints/{name}" for name in wanted} == {
        model.path for model in load_manifest(DEFAULT_MANIFEST).models
    }


@pytest.fixture(scope="module")
def running(real_comfyui: RealComfyUI, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerProcess]:
    """A worker on the real ComfyUI that may fetch pictures from this machine."""
    folder = tmp_path_factory.mktemp("examples")
    with worker(folder, COMFYUI_API_BASE=real_comfyui.base_url, FETCH_ALLOW_HOSTS="127.0.0.1") as process:
        yield process


@pytest.fixture(scope="module")
def picture_url(real_comfyui: RealComfyUI, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The picture of the request, on a server of ours: the tests have no internet."""
    import pyvips

    folder = tmp_path_factory.mktemp("pictures")
    pyvips.Image.black(96, 64, bands=3).write_to_file(str(folder / "example.png"))
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/example.png"
    server.shutdown()
    thread.join()
    server.server_close()


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        """Keep the test's output clean."""


def send(running: WorkerProcess, out: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, EXAMPLES / "send.py", "--url", f"{running.api}/v2/local", "--out", out, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=540, check=False)


@pytest.mark.comfyui
@pytest.mark.parametrize("name", SMALL)
def test_example_runs_and_its_pictures_are_saved(
    running: WorkerProcess, picture_url: str, tmp_path: Path, name: str
) -> None:
    """On the CPU, small, with the random checkpoint; the picture comes by its URL, as in the request."""
    changes = [part for change in SMALL[name] for part in ("--set", change)]
    more = ["--image", picture_url] if name == "image-to-image" else []
    done = send(running, tmp_path, name, *changes, *more)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "COMPLETED" in done.stdout
    (picture,) = tmp_path.iterdir()
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert f"saved {picture}" in done.stdout


@pytest.mark.comfyui
def test_a_long_job_shows_how_far_it_is(running: WorkerProcess, tmp_path: Path) -> None:
    done = send(running, tmp_path, "sd15", "--set", "5.width=128", "--set", "5.height=128", "--set", "3.steps=40")
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"IN_PROGRESS: [\d.]+ %, node 3", done.stdout)


@pytest.mark.comfyui
def test_a_failed_job_says_why(running: WorkerProcess, tmp_path: Path) -> None:
    done = send(running, tmp_path, "sdxl")
    assert done.returncode == 1
    assert "sd_xl_base_1.0.safetensors" in done.stdout
    assert send(running, tmp_path, "sd15", "--set", "99.x=1").stdout.startswith(
        "FAILED: --set 99.x=1: the workflow has no"
    )
    assert "FAILED" in send(running, tmp_path, "sd15", "--url", "http://127.0.0.1:9").stdout


@pytest.mark.comfyui
def test_input_of_the_root_runs(running: WorkerProcess, tmp_path: Path) -> None:
    done = send(running, tmp_path, str(REPOSITORY / "test_input.json"))
    assert done.returncode == 0, done.stdout + done.stderr
