"""The folder of workflow files: names, changes, what is wrong with a file, and what stays out of it."""

import os
import threading
from pathlib import Path

import pytest

from lib.errors import InvalidRequest
from lib.workflow.endpoints.endpoint import Endpoint
from lib.workflow.endpoints.folder import WorkflowFolder
from lib.workflow.endpoints.scan import MAX_DEPTH, ProblemKind, scan_folder
from lib.workflow.parameters import no_options
from tests.fakes.clock import FakeClock

CODE = """
from pydantic import BaseModel
class Request(BaseModel):
    text: str = "{text}"
def generate_workflow(input):
    return {{"1": {{"class_type": "Text", "inputs": {{"text": input.text}}}}}}
"""
GRAPH = '{"1": {"class_type": "Text", "inputs": {"text": "graph"}}}'
INPUTS = "inputs:\n  text:\n    type: string\n    targets: 1.text\n"


def code(text: str = "code") -> str:
    return CODE.format(text=text)


def write(root: Path, **files: str) -> None:
    """Write files; in a name ``__`` stands for a slash and ``_`` before the suffix for its dot."""
    for name, text in files.items():
        put(root, name.replace("__", "/")[::-1].replace("_", ".", 1)[::-1], text)


def put(root: Path, name: str, text: str) -> Path:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


async def mounted(root: Path) -> WorkflowFolder:
    """A folder that looks at every request."""
    folder = WorkflowFolder(root, check_interval_s=0)
    await folder.refresh()
    return folder


async def answer(endpoint: Endpoint | None) -> str:
    """The text in the graph that an endpoint makes."""
    assert endpoint is not None
    return str((await endpoint.bind({}, options=no_options)).graph["1"]["inputs"]["text"])


def problems(folder: WorkflowFolder) -> dict[str, str]:
    return {problem.file: problem.text for problem in folder.problems}


async def test_names_follow_from_places(tmp_path: Path) -> None:
    """Folders are segments; the name is the file's without its suffix."""
    write(tmp_path, a_py=code("a"), sdxl__deep__b_json=GRAPH, sdxl__deep__b_yaml=INPUTS, c_json=GRAPH, c_yml=INPUTS)
    put(tmp_path, "v1.5/txt-2 img.v2.py", code("v"))
    folder = await mounted(tmp_path)
    assert set(folder.endpoints) == {"a", "c", "sdxl/deep/b", "v1.5/txt-2 img.v2"}
    assert await answer(await folder.find("v1.5/txt-2 img.v2")) == "v"
    assert await answer(await folder.find("sdxl/deep/b")) == "graph"
    assert folder.problems == ()


@pytest.mark.parametrize("name", ["A", "a.py", "a/", "/a", "", "sdxl", "../a", "b/../a", "a\0", "%61"])
async def test_a_name_is_never_a_path(tmp_path: Path, name: str) -> None:
    """It is looked up as it stands: nothing outside, and nothing by another spelling."""
    write(tmp_path, a_py=code(), sdxl__b_py=code())
    assert await (await mounted(tmp_path)).find(name) is None


@pytest.mark.parametrize("form", ["gr\u00f6\u00dfe", "gro\u0308\u00dfe"])
async def test_names_in_any_script(tmp_path: Path, form: str) -> None:
    """However an accent is composed, on disk or in the request."""
    put(tmp_path, f"画像/{form}.py", code("x"))
    folder = await mounted(tmp_path)
    assert await answer(await folder.find("画像/gr\u00f6\u00dfe")) == "x"
    assert await answer(await folder.find("画像/gro\u0308\u00dfe")) == "x"


async def test_changes_count_for_the_next_request(tmp_path: Path) -> None:
    """New, changed and removed files, of both forms; what did not change is not loaded again."""
    write(tmp_path, a_py=code("one"), same_py=code(), b_json=GRAPH, b_yaml=INPUTS)
    folder = await mounted(tmp_path)
    same, version = folder.endpoints["same"], folder.version
    write(tmp_path, a_py=code("two!"), c_py=code("new"), b_json=GRAPH.replace("graph", "other graph"))
    assert await answer(await folder.find("a")) == "two!"
    assert await answer(await folder.find("b")) == "other graph"
    assert await answer(await folder.find("c")) == "new"
    (tmp_path / "a.py").unlink()
    (tmp_path / "b.yaml").unlink()
    assert await folder.find("a") is None
    assert await folder.find("b") is None
    assert folder.endpoints["same"] is same
    assert folder.version > version
    version = folder.version
    await folder.refresh()
    assert folder.version == version


async def test_a_change_of_equal_size_counts(tmp_path: Path) -> None:
    """Also where a tool keeps the old time of modification."""
    path = put(tmp_path, "a.py", code("one"))
    folder = await mounted(tmp_path)
    facts = path.stat()
    path.write_text(code("two"))
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    assert await answer(await folder.find("a")) == "two"


async def test_a_data_file_beside_the_code_counts(tmp_path: Path) -> None:
    """A Python file may keep its graph in the .json of its name."""
    reading = (
        code() + "\nimport json, pathlib\nTEXT = json.loads(pathlib.Path(__file__).with_suffix('.json').read_text())"
    )
    write(tmp_path, a_py=reading.replace("input.text", "TEXT"), a_json='"one"')
    folder = await mounted(tmp_path)
    assert await answer(await folder.find("a")) == "one"
    write(tmp_path, a_json='"another"')
    assert await answer(await folder.find("a")) == "another"
    assert folder.problems == ()


async def test_looks_are_spared(tmp_path: Path) -> None:
    """At most one in an interval, however many requests come."""
    clock = FakeClock()
    folder = WorkflowFolder(tmp_path, clock=clock, check_interval_s=1.0)
    await folder.refresh()
    write(tmp_path, a_py=code())
    await clock.advance(0.9)
    assert await folder.find("a") is None
    await clock.advance(0.2)
    assert await folder.find("a") is not None


async def test_a_folder_may_come_later(tmp_path: Path) -> None:
    """One that is not there is empty; one that is a file is named."""
    folder = await mounted(tmp_path / "later")
    assert (folder.endpoints, folder.problems) == ({}, ())
    put(tmp_path, "later/a.py", code("came"))
    assert await answer(await folder.find("a")) == "came"
    assert "expected a folder" in (await mounted(tmp_path / "later" / "a.py")).problems[0].text


async def test_a_broken_file_keeps_nothing_and_stops_nobody(tmp_path: Path) -> None:
    """It is named with its line; the others are served; once repaired it is there again."""
    write(tmp_path, a_py=code(), b_json=GRAPH, b_yaml=INPUTS, c_py=code("c"))
    folder = await mounted(tmp_path)
    write(tmp_path, a_py=code() + "\nnobody", b_yaml=INPUTS.replace("1.text", "2.text"))
    assert await folder.find("a") is None
    assert await folder.find("b") is None
    assert await answer(await folder.find("c")) == "c"
    assert problems(folder) == {
        "a.py": "line 8: NameError: name 'nobody' is not defined",
        "b.yaml": "line 2: inputs.text: the graph has no input 2.text; its nodes are 1",
    }
    assert {problem.kind for problem in folder.problems} == {ProblemKind.BROKEN}
    write(tmp_path, a_py=code("again"), b_yaml=INPUTS)
    assert await answer(await folder.find("a")) == "again"
    assert await answer(await folder.find("b")) == "graph"
    assert folder.problems == ()


async def test_a_broken_graph_is_the_graphs_problem(tmp_path: Path) -> None:
    """The file to repair is the one that is named."""
    write(tmp_path, a_json="{", a_yaml=INPUTS)
    assert list(problems(await mounted(tmp_path))) == ["a.json"]


async def test_problems_are_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """By name, when they come up."""
    write(tmp_path, a_py="nobody")
    folder = await mounted(tmp_path)
    await folder.refresh()
    records = [record for record in caplog.records if getattr(record, "event", "") == "workflow.problem"]
    assert [(record.levelname, record.file) for record in records] == [("WARNING", "a.py")]  # type: ignore[attr-defined]


async def test_an_endless_import_is_one_files_problem(tmp_path: Path) -> None:
    """The others are loaded beside it."""
    write(tmp_path, a_py="import threading\nthreading.Event().wait(10)\n" + code(), b_py=code("b"))
    folder = WorkflowFolder(tmp_path, check_interval_s=0, load_limit_s=1.0)
    assert await answer(await folder.find("b")) == "b"
    assert problems(folder) == {"a.py": "was still being imported after 1 s"}


@pytest.mark.parametrize(
    ("files", "file", "text"),
    [
        ({"a.py": code(), "a.json": GRAPH, "a.yaml": INPUTS}, "a.py", "a.json with a.yaml claim the same endpoint"),
        ({"a.json": GRAPH, "a.yaml": INPUTS, "a.yml": INPUTS}, "a.yaml", "has the same name as a.yml; keep one"),
        ({"a.py": code(), "a.PY": code()}, "a.PY", "has the same name as a.py"),
        ({"\u00f6.py": code(), "o\u0308.py": code()}, "o\u0308.py", "has the same name as \u00f6.py"),
    ],
)
async def test_two_claims_on_one_name(tmp_path: Path, files: dict[str, str], file: str, text: str) -> None:
    """Neither is mounted: which one was meant nobody can tell."""
    for name, content in files.items():
        put(tmp_path, name, content)
    folder = await mounted(tmp_path)
    assert folder.endpoints == {}
    assert text in problems(folder)[file]


async def test_files_without_an_endpoint_say_what_to_do(tmp_path: Path) -> None:
    """JavaScript and graphs alone are named with the command that drafts what is missing."""
    write(tmp_path, sd__old_ts="export default {}", sd__graph_json=GRAPH, inputs_yaml=INPUTS)
    put(tmp_path, "two words.js", "module.exports = {}")
    put(tmp_path, "ui.json", '{"nodes": [], "links": [], "last_node_id": 1}')
    folder = await mounted(tmp_path)
    assert folder.endpoints == {}
    draft = 'python -m lib.workflow draft "$WORKFLOW_DIR"'
    assert problems(folder) == {
        "sd/old.ts": "JavaScript and TypeScript are not run here. Draft its successor in Python: "
        f'{draft}/sd/old.ts --output "$WORKFLOW_DIR"/sd/old.py',
        "two words.js": "JavaScript and TypeScript are not run here. Draft its successor in Python: "
        f"{draft}/'two words.js' --output \"$WORKFLOW_DIR\"/'two words.py'",
        "sd/graph.json": "has no sd/graph.yaml beside it, which names its inputs. Draft one: "
        f'{draft}/sd/graph.json --output "$WORKFLOW_DIR"/sd/graph.yaml',
        "inputs.yaml": "names inputs of a graph, but there is no .json file of its name beside it",
        "ui.json": problems(folder)["ui.json"],
    }
    assert "Export (API)" in problems(folder)["ui.json"]
    kinds = {problem.file: problem.kind for problem in folder.problems}
    assert kinds["sd/old.ts"] is ProblemKind.SCRIPT
    assert kinds["sd/graph.json"] is ProblemKind.DRAFTABLE


async def test_successors_silence_the_notes(tmp_path: Path) -> None:
    """A script beside its successor was dealt with."""
    write(tmp_path, a_ts="x", a_py=code("a"), b_js="x", b_json=GRAPH, b_yaml=INPUTS)
    folder = await mounted(tmp_path)
    assert set(folder.endpoints) == {"a", "b"}
    assert folder.problems == ()


async def test_other_files_are_nobodys_business(tmp_path: Path) -> None:
    """Hidden ones, packages, notes, types, and JSON or YAML of something else."""
    for name in (".hidden.py", "_helper.py", "__init__.py", ".git/a.py", "_old/a.py", "node_modules/x/index.js"):
        put(tmp_path, name, "nobody")
    put(tmp_path, "README.md", "x")
    put(tmp_path, "types.d.ts", "x")
    put(tmp_path, "package.json", '{"name": "x", "scripts": {}}')
    put(tmp_path, "list.json", "[]")
    put(tmp_path, "broken.json", "{")
    put(tmp_path, "compose.yaml", "services: {}")
    put(tmp_path, "odd.yaml", "a: [")
    (tmp_path / "folder.py").mkdir()
    folder = await mounted(tmp_path)
    assert (folder.endpoints, folder.problems) == ({}, ())


async def test_links_do_not_lead_out(tmp_path: Path) -> None:
    """Neither a file nor a folder outside is reached; they are named."""
    put(tmp_path, "outside/secret.py", code())
    root = tmp_path / "root"
    put(root, "inside/a.py", code("a"))
    (root / "file.py").symlink_to(tmp_path / "outside" / "secret.py")
    (root / "folder").symlink_to(tmp_path / "outside")
    (root / "up").symlink_to("..")
    (root / "gone.py").symlink_to("nothing.py")
    folder = await mounted(root)
    assert set(folder.endpoints) == {"inside/a"}
    assert set(problems(folder)) == {"file.py", "folder", "up", "gone.py"}
    assert "leads out of the folder" in problems(folder)["file.py"]
    assert "link to nothing" in problems(folder)["gone.py"]


async def test_links_inside_are_followed(tmp_path: Path) -> None:
    """As in a mounted ConfigMap; one that leads round in a circle ends; the folder itself may be a link."""
    put(tmp_path, "real/..data_1/a.py", code("a"))
    (tmp_path / "real" / "..data").symlink_to("..data_1")
    (tmp_path / "real" / "a.py").symlink_to("..data/a.py")
    put(tmp_path, "real/sub/b.py", code("b"))
    (tmp_path / "real" / "sub" / "round").symlink_to("..")
    (tmp_path / "link").symlink_to("real")
    folder = await mounted(tmp_path / "link")
    assert set(folder.endpoints) == {"a", "sub/b"}
    assert folder.problems == ()


async def test_what_can_not_be_read_is_named(tmp_path: Path) -> None:
    """Bytes that are no text, in the name or inside."""
    (tmp_path / os.fsdecode(b"\xff.py")).write_text(code("x"))
    (tmp_path / "a.py").write_bytes(b"x = '\xff'\n")
    (tmp_path / "b.json").write_bytes(b"\xff")
    put(tmp_path, "b.yaml", INPUTS)
    folder = await mounted(tmp_path)
    assert list(folder.endpoints) == ["\\xff"]
    assert "SyntaxError" in problems(folder)["a.py"]
    assert "not JSON" in problems(folder)["b.json"]


def test_very_deep_folders_end(tmp_path: Path) -> None:
    """What lies deeper than anybody writes is left out."""
    put(tmp_path, "/".join(["d"] * (MAX_DEPTH + 3)) + "/a.py", code())
    assert scan_folder(tmp_path).groups == {}


async def test_nothing_is_written_into_the_folder(tmp_path: Path) -> None:
    """It may be read-only: no bytecode, no copies."""
    write(tmp_path, a_py=code(), b_json=GRAPH, b_yaml=INPUTS)
    folder = await mounted(tmp_path)
    await answer(await folder.find("a"))
    assert {path.name for path in tmp_path.rglob("*")} == {"a.py", "b.json", "b.yaml"}


async def test_requests_are_served_while_code_calculates(tmp_path: Path) -> None:
    """One endpoint's endless code does not hold another's request."""
    slow = code().replace("return", "import threading; threading.Event().wait(10)\n    return")
    write(tmp_path, slow_py=slow, b_json=GRAPH, b_yaml=INPUTS)
    folder = WorkflowFolder(tmp_path, check_interval_s=0, limit_s=0.1)
    endless = await folder.find("slow")
    assert endless is not None
    with pytest.raises(InvalidRequest, match=r"longer than 0.1 s"):
        await endless.bind({}, options=no_options)
    assert any(thread.name == "slow" for thread in threading.enumerate())
    assert await answer(await folder.find("b")) == "graph"
