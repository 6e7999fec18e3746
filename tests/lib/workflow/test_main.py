"""``python -m lib.workflow``."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from lib.workflow.__main__ import main

GRAPH = {"1": {"class_type": "Own", "inputs": {"steps": 20}}}
INFO = {"Own": {"input": {"required": {"steps": ["INT", {"min": 7, "max": 70}]}}}}


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    path = tmp_path / "own.json"
    path.write_text(json.dumps(GRAPH))
    return path


@pytest.fixture
def comfyui() -> Iterator[str]:
    """A server that only knows /object_info."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/object_info" else 404)
            self.end_headers()
            self.wfile.write(json.dumps(INFO).encode())

        def log_message(self, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_draft_goes_to_the_standard_output(graph: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing else does."""
    assert main(["draft", str(graph)]) == 0
    assert "targets: 1.steps" in capsys.readouterr().out


def test_a_draft_is_written_once(graph: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What somebody has edited is not overwritten unless they say so."""
    output = graph.with_suffix(".yaml")
    assert main(["draft", str(graph), "--output", str(output)]) == 0
    output.write_text("mine")
    assert main(["draft", str(graph), "--output", str(output)]) == 2
    assert output.read_text() == "mine"
    assert "--force" in capsys.readouterr().err
    assert main(["draft", str(graph), "--output", str(output), "--force"]) == 0
    assert "1.steps" in output.read_text()


def test_object_info_from_a_file_or_a_comfyui(
    graph: Path, comfyui: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its ranges count; the base URL will do."""
    (tmp_path / "info.json").write_text(json.dumps(INFO))
    for place in (str(tmp_path / "info.json"), comfyui, f"{comfyui}/", f"{comfyui}/object_info"):
        assert main(["draft", str(graph), "--object-info", place]) == 0
        assert "minimum: 7\n    maximum: 70" in capsys.readouterr().out


def test_a_script_becomes_python(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What is left to do is listed, and the exit code says that there is some."""
    script = tmp_path / "old.ts"
    script.write_text("const RequestSchema = z.object({a: z.string()});\n")
    output = tmp_path / "old.py"
    assert main(["draft", str(script), "--output", str(output)]) == 1
    assert "a: str" in output.read_text()
    assert "TODO generate_workflow: no function generateWorkflow" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "text", "arguments", "problem"),
    [
        ("a.json", "{", [], "a.json: line 1: is not JSON"),
        ("a.json", '{"nodes": [], "links": []}', [], "Export (API)"),
        ("a.txt", "x", [], "expected a graph in API format (.json)"),
        ("a.json", json.dumps(GRAPH), ["--object-info", "no-such-file.json"], "no-such-file.json"),
        ("a.json", json.dumps(GRAPH), ["--object-info", "http://127.0.0.1:1/"], "refused"),
        ("a.json", json.dumps(GRAPH), ["--output", "no/such/folder/a.yaml"], "no/such/folder/a.yaml"),
    ],
)
def test_what_does_not_work_is_said_in_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, text: str, arguments: list[str], problem: str
) -> None:
    """Without a traceback, exit code 2."""
    (tmp_path / name).write_text(text)
    assert main(["draft", str(tmp_path / name), *arguments]) == 2
    error = capsys.readouterr().err
    assert problem in error
    assert "Traceback" not in error


def test_a_file_that_is_not_object_info_is_named(graph: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It, not the graph."""
    (graph.parent / "info.json").write_text("[]")
    assert main(["draft", str(graph), "--object-info", str(graph.parent / "info.json")]) == 2
    assert "--object-info" in capsys.readouterr().err
