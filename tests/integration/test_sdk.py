"""The unmodified ``vastai`` SDK and our example client against a worker on a real ComfyUI, through the autoscaler."""

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.comfyui_fixture import REPOSITORY
from tests.integration.harness import WorkerProcess, picture
from tests.peers.vast.sdk import drive, sdk_python

pytestmark = pytest.mark.comfyui
CLIENT = REPOSITORY / "workers" / "comfyui-json" / "client.py"
PNG = b"\x89PNG\r\n\x1a\n"
SMALL = ("--set", "5.width=64", "--set", "5.height=64", "--set", "3.steps=1")


@pytest.fixture(scope="module")
def python() -> Path:
    return sdk_python()


def sdk(python: Path, router: str, scenario: str, graph: dict[str, Any], **options: Any) -> list[dict[str, Any]]:
    payload = {"input": {"workflow_json": graph}}
    return asyncio.run(drive(python, scenario, router=router, payload=payload, **options))


def routes(router: str) -> list[dict[str, Any]]:
    """What the autoscaler was asked for so far."""
    return list(requests.get(f"{router}/recorded/", timeout=60).json()["routes"])


def deleted(worker: WorkerProcess, router: str, numbers: set[int]) -> dict[int, dict[str, Any]]:
    """What the worker told of these requests once they were over."""

    def told() -> dict[int, dict[str, Any]]:
        bodies = requests.get(f"{router}/recorded/", timeout=60).json()["deletes"]
        items = {item["request_idx"]: item for body in bodies for item in body["requests"]}
        return {number: items[number] for number in numbers & set(items)}

    worker.wait_for(lambda: len(told()) == len(numbers), "told")
    return told()


def test_requests_are_answered(fleet_worker: WorkerProcess, autoscaler_url: str, python: Path) -> None:
    """Three at once: routed, signed, made; each with a URL that downloads; the autoscaler hears of each success."""
    results = sdk(python, autoscaler_url, "request", picture(501, prefix="sdk/__RANDOM_INT__"), count=3)
    assert [(result["ok"], result["status"]) for result in results] == [(True, 200)] * 3
    for result in results:
        assert result["response"]["status"] == "completed"
        assert requests.get(result["response"]["output"][0]["url"], timeout=60).content.startswith(PNG)
    numbers = {result["request_idx"] for result in results}
    assert len(numbers) == 3
    assert {item["status"] for item in deleted(fleet_worker, autoscaler_url, numbers).values()} == {"Success"}


@pytest.mark.parametrize(
    ("graph", "said"),
    [
        ({"1": {"class_type": "SaveImage", "inputs": {"images": ["9", 0]}}}, "not in the workflow"),
        ({"1": {"class_type": "EmptyImagee", "inputs": {}}, "2": picture(1)["2"]}, "did you mean EmptyImage"),
        ({"1": {"class_type": "SaveImage", "inputs": {"images": "oops", "filename_prefix": "x"}}}, "AttributeError"),
    ],
    ids=["early", "by ComfyUI", "at run time"],
)
def test_a_wrong_graph_ends_at_once(
    fleet_worker: WorkerProcess, autoscaler_url: str, python: Path, graph: dict[str, Any], said: str
) -> None:
    """Whenever it is found out: one route, one answer with the cause; the SDK does not try it on another GPU."""
    before = len(routes(autoscaler_url))
    (result,) = sdk(python, autoscaler_url, "request", graph)
    assert (result["ok"], result["status"]) == (False, 422)
    assert said in str(result)
    assert len(routes(autoscaler_url)) == before + 1
    item = deleted(fleet_worker, autoscaler_url, {result["request_idx"]})[result["request_idx"]]
    assert item["success"] is False


def test_a_session_from_open_to_close(fleet_worker: WorkerProcess, autoscaler_url: str, python: Path) -> None:
    """Two jobs inside, then 410; the load that it held is given back."""
    told = sdk(python, autoscaler_url, "session", picture(502, prefix="sdk/__RANDOM_INT__"), count=2)
    opened, first, second, is_open, closed = told
    assert opened["session_id"]
    for result in (first, second):
        assert (result["ok"], result["status"]) == (True, 200)
        assert result["response"]["status"] == "completed"
    assert is_open["value"] is True
    assert "closed session" in closed["error"]
    fleet_worker.wait_for(
        lambda: requests.get(f"{autoscaler_url}/recorded/", timeout=60).json()["statuses"][-1]["cur_load"] == 0.0,
        "told that nothing is left",
    )


def client(python: Path | str, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [str(python), str(CLIENT), "--output", str(folder), "--timeout", "200", *arguments]
    return subprocess.run(command, env={"PATH": "/usr/bin:/bin"}, capture_output=True, text=True, timeout=240)


@pytest.mark.parametrize("mode", ["direct", "routed", "sdk"])
def test_the_example_client(
    fleet_worker: WorkerProcess, autoscaler_url: str, python: Path, tmp_path: Path, mode: str
) -> None:
    """Its default workflow, small: the picture is saved, whichever way it went."""
    through = ("--endpoint", "ep", "--api-key", "endpoint-key", "--router", autoscaler_url)
    ways = {"direct": ("--url", fleet_worker.api), "routed": through, "sdk": (*through, "--sdk")}
    done = client(python if mode == "sdk" else sys.executable, tmp_path, *SMALL, *ways[mode])
    assert done.returncode == 0, done.stderr
    (saved,) = tmp_path.iterdir()
    assert saved.read_bytes().startswith(PNG)
    assert str(saved) in done.stdout
    assert "completed" in done.stderr


@pytest.mark.parametrize("mode", ["direct", "routed", "sdk"])
def test_the_example_client_says_what_is_wrong(
    fleet_worker: WorkerProcess, autoscaler_url: str, python: Path, tmp_path: Path, mode: str
) -> None:
    """ComfyUI's own message, one line, a status that is not 0, and no file."""
    workflow = tmp_path / "wrong.json"
    graph = {"1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "nope.safetensors"}}}
    graph |= {"2": {"class_type": "VAEDecode", "inputs": {"samples": ["1", 0], "vae": ["1", 2]}}}
    graph |= {"3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "x"}}}
    workflow.write_text(json.dumps(graph))
    through = ("--endpoint", "ep", "--api-key", "endpoint-key", "--router", autoscaler_url)
    ways = {"direct": ("--url", fleet_worker.api), "routed": through, "sdk": (*through, "--sdk")}
    out = tmp_path / "out"
    interpreter = python if mode == "sdk" else sys.executable
    done = client(interpreter, out, "--workflow", str(workflow), *ways[mode])
    assert done.returncode != 0
    assert "nope.safetensors" in done.stderr
    assert "Traceback" not in done.stderr
    assert not out.exists()
