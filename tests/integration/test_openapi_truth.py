"""What ``/openapi.json`` says is so: schemathesis asks every operation, and every example runs as it stands."""

import base64
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.comfyui_fixture import RealComfyUI
from tests.integration.harness import WorkerProcess, picture, worker

SETTINGS = Path(__file__).with_name("schemathesis.toml")
EXAMPLES_PER_OPERATION = 12
RUN_TIMEOUT_S = 1500
"""A minute on a machine that does nothing else."""
pytestmark = [pytest.mark.comfyui, pytest.mark.timeout(RUN_TIMEOUT_S + 100)]
KEY = "alices-key-0123456789"
FULL_IS_NO_DEFECT = """
[checks.not_a_server_error]
expected-statuses = ["2xx", "3xx", "4xx", 503]
"""
WITH_KEY = f"""
[auth.openapi.bearer]
bearer = "{KEY}"
"""
OTHERS = ("/jobs", "/requests", "/v2/{endpoint_id}/requests", "/docs/json")
"""They tell of jobs that are no example's."""
BY_BODY = ("/interrupt",)
"""They name something in their body."""
PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A worker, how callers show their key to it, and what schemathesis is told beside the shared settings."""

    process: WorkerProcess
    headers: dict[str, str] = field(default_factory=dict)
    settings: str = ""

    def document(self) -> dict[str, Any]:
        return dict(self.process.get("/openapi.json").json())


def standalone(folder: Path, comfyui: RealComfyUI, **env: str) -> Any:
    """A worker whose score is of a tiny picture."""
    measured = folder / "measured.json"
    measured.write_text(json.dumps(picture(prefix="measured/__RANDOM_INT__")))
    return worker(folder, COMFYUI_API_BASE=comfyui.base_url, BENCHMARK_JSON_PATH=str(measured), **env)


@pytest.fixture(scope="module")
def unlocked(real_comfyui: RealComfyUI, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Asked]:
    """On loopback, without keys."""
    with standalone(tmp_path_factory.mktemp("unlocked"), real_comfyui) as process:
        yield Asked(process=process)


@pytest.fixture(scope="module")
def locked(real_comfyui: RealComfyUI, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Asked]:
    """With keys for everybody, and hardly any room; asked by a tenant."""
    folder = tmp_path_factory.mktemp("locked")
    keys = {"API_KEYS": f"studio/alice:{KEY}", "API_KEYS_REQUIRED": "true"}
    with standalone(folder, real_comfyui, MAX_QUEUE_SIZE="3", **keys) as process:
        yield Asked(process=process, headers={"X-API-Key": KEY}, settings=WITH_KEY + FULL_IS_NO_DEFECT)


@pytest.fixture(params=["unlocked", "locked"])
def asked(request: pytest.FixtureRequest) -> Asked:
    """Each of them."""
    found = request.getfixturevalue(request.param)
    assert isinstance(found, Asked)
    return found


def test_schemathesis_finds_nothing(asked: Asked, tmp_path: Path) -> None:
    """Every operation, right and wrong requests, one after the other and in chains: no 5xx (but a full worker's), and
    every answer has a status, type, header and body that the document tells. Afterwards the worker is idle and well."""
    settings, report = tmp_path / "schemathesis.toml", tmp_path / "report.json"
    settings.write_text(SETTINGS.read_text() + asked.settings)
    command = [shutil.which("schemathesis", path=str(Path(sys.executable).parent)) or "schemathesis"]
    command += ["--config-file", str(settings), "run", f"{asked.process.api}/openapi.json", "--no-color"]
    command += ["--max-examples", str(EXAMPLES_PER_OPERATION), "--generation-deterministic"]
    command += ["--report", "json", "--report-json-path", str(report)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=RUN_TIMEOUT_S)
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(report.read_text())
    operations = sum(len(methods) for methods in asked.document()["paths"].values())
    assert (told["complete"], told["operations"]["tested"]) == (True, operations)
    assert told["test_cases"]["generated"] > 50 * operations
    _cancel_all(asked)
    asked.process.wait_for(lambda: _idle(asked), "idle")
    assert asked.process.get("/ready").status_code == 200
    assert " ERROR " not in asked.process.log.read_text(errors="replace")


def test_the_document_asks_for_keys_where_the_worker_does(unlocked: Asked, locked: Asked) -> None:
    """Each operation is open as the document says; refusals tell how to show a key."""
    for asked in (unlocked, locked):
        for path, methods in asked.document()["paths"].items():
            for method, operation in methods.items():
                free = operation["security"] == [] or {} in operation["security"]
                answer = requests.request(method, asked.process.api + _at(path), timeout=60)
                without_link = asked is locked and path.startswith("/outputs/")
                assert (answer.status_code == 401) is (without_link or not free), f"{method} {path}"
                assert ("WWW-Authenticate" in answer.headers) is (answer.status_code == 401)


def test_every_example_runs(unlocked: Asked) -> None:
    """From the top of the page to its end, one click on "Execute" after the other: each is answered with what the
    document tells first, and no job fails. What names something without an example is told that it is not there."""
    for path, methods in unlocked.document()["paths"].items():
        for method, operation in methods.items():
            wanted = {int(status) for status in operation["responses"] if status.startswith("2")}
            if "{" in _at(path, operation) or path in BY_BODY:
                wanted = {404}
            for title, sent in _requests(operation):
                url = unlocked.process.api + _at(path, operation)
                answer = requests.request(method, url, timeout=240, **sent)
                assert answer.status_code in wanted, f"{method} {path} {title}: {answer.text[:500]}"
                failed = '"status":"failed"' in answer.text or (answer.ok and '"status":"FAILED"' in answer.text)
                assert not failed or path in OTHERS, f"{method} {path} {title}: {answer.text[:500]}"


def _requests(operation: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The requests that the page offers: each example body, each form that takes a file, or the bare route."""
    given = {"query": "params", "header": "headers"}
    sent: dict[str, Any] = {"params": {}, "headers": {}}
    for parameter in operation.get("parameters", ()):
        if "example" in parameter and parameter["in"] in given:
            sent[given[parameter["in"]]][parameter["name"]] = str(parameter["example"])
    content = operation.get("requestBody", {}).get("content", {})
    for title, example in content.get("application/json", {}).get("examples", {}).items():
        yield title, {**sent, "json": example["value"]}
    if not content:
        yield "", sent
    elif "multipart/form-data" in content and "application/json" in content:
        example = content["multipart/form-data"]["schema"]["properties"]["request"]["example"]
        yield "a form", {**sent, "files": {"request": (None, json.dumps(example))}}
    elif "application/json" not in content:
        yield "a file", {**sent, "data": PIXEL, "headers": sent["headers"] | {"Content-Type": "image/png"}}
        yield "a form", {**sent, "files": {"file": ("photo.png", PIXEL)}}


def _at(path: str, operation: dict[str, Any] | None = None) -> str:
    """A path with the examples of its parameters; all braces stay where there are none, unless no operation is told."""
    for parameter in (operation or {}).get("parameters", ()):
        if parameter["in"] == "path" and "example" in parameter:
            path = path.replace(f"{{{parameter['name']}}}", parameter["example"])
    return path if operation is not None else path.replace("{", "").replace("}", "")


def _live(asked: Asked) -> list[dict[str, Any]]:
    answer = asked.process.get("/jobs", params={"status": "queued,running", "limit": 200}, headers=asked.headers)
    return list(answer.json()["jobs"])


def _cancel_all(asked: Asked) -> None:
    for job in _live(asked):
        requests.post(f"{asked.process.api}/cancel/{job['job_id']}", headers=asked.headers, timeout=60)


def _idle(asked: Asked) -> bool:
    return not _live(asked)
