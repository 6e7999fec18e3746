"""Rules of the house that neither linter nor type checker sees; they read the syntax trees.

An exception is an entry in a table here, with its reason. An entry that nothing needs any more fails too.
"""

import ast
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from http import HTTPStatus
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("lib", "router", "benchmark", "provisioning")
LAUNCHER = ROOT / "workers" / "comfyui-json" / "worker.py"
CLIENT = ROOT / "workers" / "comfyui-json" / "client.py"
STATUSES = {status.value for status in HTTPStatus if status >= HTTPStatus.BAD_REQUEST} | {499}
JOB_STATUSES = {"queued", "running", "completed", "failed", "cancelled"}
Finding = tuple[str, str]
"""The file, from the repository's root, and what was found where in it."""

STATUS_NUMBERS = {
    "lib/serving/middleware.py": "names of the errors that aiohttp itself raises",
    "lib/serving/probes.py": "a probe's verdict is no error of a request",
    "lib/storage/reading.py": "reads the statuses of other people's servers: which of them pass",
    "lib/storage/hugging_face_client.py": "reads the statuses of Hugging Face: what they mean there",
    "lib/dialects/vast/schema.py": "Refusal: statuses and bodies that PyWorker's protocol fixes",
    "lib/dialects/vast/routes.py": "Refusal: statuses and bodies that PyWorker's protocol fixes",
    "lib/dialects/vast/entrance.py": "Refusal: statuses and bodies that PyWorker's protocol fixes",
    "lib/dialects/vast/session_routes.py": "Refusal: statuses and bodies that PyWorker's protocol fixes",
    "lib/dialects/wrapper/docs.py": "describes answers for the docs page",
    "lib/dialects/native/docs.py": "describes answers for the docs page",
}
STATUS_STRINGS = {
    "lib/jobs/model.py": "JobStatus itself",
    "lib/dialects/wrapper/answers.py": "the API wrapper's own words",
    "lib/dialects/wrapper/docs.py": "examples of answers",
    "lib/dialects/wrapper/examples.py": "examples of answers",
    "lib/comfy/harvest.py": "ComfyUI's own key in the history",
    "lib/telemetry/metrics.py": "the result of a webhook attempt, not of a job",
    "lib/app/provisioned.py": "words of the provisioning report",
    "lib/app/health.py": "a key of the API wrapper's queues",
}
TASKS = {
    "lib/lifecycle.py": "the one place",
    "lib/app/engines.py": "asyncio.wait over several engines, cancelled in the same function",
}
BROAD_CATCHES = {
    "lib/serving/middleware.py": "edge: the request",
    "lib/jobs/lives.py": "edge: the job",
    "lib/jobs/service.py": "edge: who listens to jobs",
    "lib/lifecycle.py": "edge: one tick of a loop",
    "lib/lanes.py": "what a call in a thread raises is raised where it is waited for",
    "lib/app/__init__.py": "the process: logs, and gives the exit status",
    "lib/app/assembly.py": "tells the autoscaler, and raises again",
    "lib/serving/server.py": "undoes a listener that did not come up, and raises again",
    "lib/workflow/endpoints/running.py": "edge: an operator's own code, whose faults are told apart from ours",
}
ENVIRONMENT = {"lib/settings.py": "the one place"}
WORKFLOW_WAITS = {
    "lib/workflow/endpoints/running.py": "an operator's code, in threads and with a deadline",
    "lib/workflow/endpoints/folder.py": "the folder of endpoints is looked through in a thread",
}
RULES_IN_NAMES = {"tests/test_start_server.py": "names that are sentences, as in all of tests/provisioning"}
LONG_FILES = {
    "lib/settings.py": "one table of every variable; a reader looks a name up, and nothing else is in it",
    "lib/jobs/model.py": "the vocabulary of the core: values without behaviour, found under one name by everybody",
}
LONG_FUNCTIONS = {
    "lib/app/front.py: build_front": "assembly: one line an object",
    "lib/app/core.py: build_core": "assembly: one line an object",
    "router/build.py: build_core": "assembly: one line an object",
}


NODE_PACKS = (ROOT / "lib" / "comfy" / "nodes", ROOT / "benchmark" / "nodes")
"""They run inside ComfyUI's process, by its rules: no settings of ours, no logging of ours."""


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def modules(*folders: str) -> Iterator[Path]:
    """Python files of these folders, but for node packs and for stand-ins, which ComfyUI imports as well."""
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*.py")):
            if not any(map(path.is_relative_to, NODE_PACKS)) and "shims" not in path.parts:
                yield path


def findings(folders: Iterable[str], look: Callable[[ast.Module], Iterable[tuple[int, str]]]) -> list[Finding]:
    """What ``look`` sees in each module, by file."""
    return [
        (str(path.relative_to(ROOT)), f"line {line}: {text}")
        for path in modules(*folders)
        for line, text in look(tree(path))
    ]


def check(found: Iterable[Finding], allowed: Mapping[str, str]) -> None:
    """Fail for what is not allowed, and for leave that nobody takes."""
    found = list(found)
    wrong = [f"{file} {text}" for file, text in found if file not in allowed]
    assert wrong == []
    assert set(allowed) - {file for file, _ in found} == set(), "exceptions that are not needed any more"


def outside(node: ast.AST, skipped: Callable[[ast.AST], bool]) -> Iterator[ast.AST]:
    """Walk a tree without the branches that ``skipped`` names."""
    for child in ast.iter_child_nodes(node):
        if not skipped(child):
            yield child
            yield from outside(child, skipped)


def dotted(node: ast.AST) -> str:
    """``os.environ`` for the attribute, "" for anything that is no plain chain of names."""
    match node:
        case ast.Name(id=name):
            return name
        case ast.Attribute(value=value, attr=name):
            return f"{dotted(value)}.{name}" if dotted(value) else ""
        case _:
            return ""


def imported(node: ast.AST) -> list[str]:
    match node:
        case ast.Import(names=names):
            return [alias.name for alias in names]
        case ast.ImportFrom(module=str(module)):
            return [module]
        case _:
            return []


def imports_of(module: ast.Module) -> Iterable[tuple[int, str]]:
    return ((node.lineno, name) for node in ast.walk(module) for name in imported(node))  # type: ignore[attr-defined]


# -- HTTP statuses and job statuses ----------------------------------------------------------------------------------


def _reads_or_tables(node: ast.AST) -> bool:
    """A comparison reads somebody's status; ``STATUS`` is the table, or what a dialect changes in it."""
    names = [target.id for target in _targets(node) if isinstance(target, ast.Name)]
    return isinstance(node, ast.Compare) or "STATUS" in names


def _targets(node: ast.AST) -> list[ast.expr]:
    if isinstance(node, ast.AnnAssign):
        return [node.target]
    return node.targets if isinstance(node, ast.Assign) else []


def _status_numbers(module: ast.Module) -> Iterable[tuple[int, str]]:
    for node in outside(module, _reads_or_tables):
        if isinstance(node, ast.Constant) and type(node.value) is int and node.value in STATUSES:
            yield node.lineno, str(node.value)


def test_http_statuses_stand_in_the_tables() -> None:
    """Which error has which status is decided in one place a dialect, so that it can be changed and documented."""
    check(findings(["lib"], _status_numbers), STATUS_NUMBERS)


def _status_strings(module: ast.Module) -> Iterable[tuple[int, str]]:
    for node in ast.walk(module):
        if isinstance(node, ast.Constant) and node.value in JOB_STATUSES:
            yield node.lineno, repr(node.value)


def test_job_statuses_are_not_spelled_out() -> None:
    """The core's states are ``JobStatus``; a string that looks like one is somebody else's word."""
    check(findings(["lib"], _status_strings), STATUS_STRINGS)


# -- who may do what -------------------------------------------------------------------------------------------------


def _environment(module: ast.Module) -> Iterable[tuple[int, str]]:
    for node in ast.walk(module):
        if isinstance(node, ast.Attribute) and dotted(node) in ("os.environ", "os.getenv", "os.putenv", "os.environb"):
            yield node.lineno, dotted(node)
        if isinstance(node, ast.ImportFrom) and node.module == "os":
            yield from ((node.lineno, alias.name) for alias in node.names if "env" in alias.name)


def test_the_environment_is_read_in_settings_only() -> None:
    """Everything else gets the branch of the settings that it needs."""
    check(findings(["lib"], _environment), ENVIRONMENT)


def _single_variables(module: ast.Module) -> Iterable[tuple[int, str]]:
    for node in ast.walk(module):
        match node:
            case ast.Subscript(value=value, slice=ast.Constant(value=str(name))) if dotted(value) == "os.environ":
                yield node.lineno, name
            case ast.Call(func=func) if dotted(func) in ("os.environ.get", "os.getenv"):
                yield node.lineno, dotted(func)


def test_programs_read_their_variables_through_settings() -> None:
    """Benchmark and provisioning may hand the environment on to children, not pick from it."""
    check(findings(["benchmark", "provisioning"], _single_variables), {})


def _tasks(module: ast.Module) -> Iterable[tuple[int, str]]:
    for node in ast.walk(module):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            name = dotted(node.func)
            if node.func.attr in ("create_task", "ensure_future") and name != "group.create_task":
                yield node.lineno, name or node.func.attr


def test_tasks_are_made_in_lifecycle_or_a_task_group() -> None:
    """Nobody loses a task: it belongs to ``Tasks``, or to a group (named ``group``) that waits for it."""
    check(findings(["lib"], _tasks), TASKS)


def _broad_catches(module: ast.Module) -> Iterable[tuple[int, str]]:
    for node in ast.walk(module):
        if isinstance(node, ast.ExceptHandler):
            caught = dotted(node.type) if node.type is not None else "everything"
            if caught in ("everything", "Exception", "BaseException"):
                yield node.lineno, caught


def test_everything_is_caught_at_the_edges_only() -> None:
    """A broad ``except`` anywhere else would hide defects."""
    check(findings(["lib"], _broad_catches), BROAD_CATCHES)


def _prints(module: ast.Module) -> Iterable[tuple[int, str]]:
    for node in ast.walk(module):
        if isinstance(node, ast.Call) and dotted(node.func) in ("print", "pprint.pprint"):
            yield node.lineno, "print"


def test_the_worker_does_not_print() -> None:
    """What is to be seen is logged, or written by ``lib.app.summary``."""
    check(findings(["lib"], _prints), {})


@pytest.mark.parametrize(
    ("package", "forbidden", "allowed"),
    [
        ("lib/jobs", ("lib.serving", "lib.comfy", "lib.workflow", "aiohttp"), {}),
        ("lib/dialects", ("lib.comfy", "lib.fleet", "lib.delivery", "lib.upkeep", "boto3"), {}),
        ("lib/workflow", ("aiohttp", "requests", "asyncio", "lib.comfy"), WORKFLOW_WAITS),
    ],
)
def test_what_a_package_must_not_know(package: str, forbidden: tuple[str, ...], allowed: Mapping[str, str]) -> None:
    """Finer than the layers: the core knows no HTTP and no ComfyUI, the workflow format does no I/O."""
    check([item for item in findings([package], imports_of) if _named(item[1], forbidden)], allowed)


def _named(text: str, names: Iterable[str]) -> bool:
    module = text.partition(": ")[2]
    return any(module == name or module.startswith(f"{name}.") for name in names)


def test_only_telemetry_knows_prometheus() -> None:
    """Everything else calls plain methods."""
    found = [item for item in findings(PACKAGES, imports_of) if _named(item[1], ["prometheus_client"])]
    check(found, {"lib/telemetry/metrics.py": "the worker's", "router/metrics.py": "the router's"})


# -- the folder that linters can't see -------------------------------------------------------------------------------


def test_nothing_imports_the_deployable() -> None:
    """``workers/`` is something to start; it has no package files, and nobody depends on it."""
    assert [name for _, name in findings(["lib", "benchmark", "provisioning", "tests"], imports_of) if
            _named(name, ["workers"])] == []  # fmt: skip
    assert list((ROOT / "workers").rglob("__init__.py")) == []


def test_the_launcher_starts_with_the_standard_library_only() -> None:
    """It runs in Vast's Python 3.10, before any package of ours is there; ours are imported inside functions."""
    source = LAUNCHER.read_text(encoding="utf-8")
    module = ast.parse(source, feature_version=(3, 10))
    top = {name for node in module.body for name in imported(node)}
    assert top <= {"argparse", "functools", "importlib.util", "json", "os", "pathlib", "subprocess", "sys"}
    inside = {name for _, name in imports_of(module)} - top
    assert {name for name in inside if name.startswith("lib")} == {"lib.app", "lib.settings"}
    assert {name.partition(".")[0] for name in inside} == {"lib", "benchmark", "provisioning"}


def test_the_client_stands_alone() -> None:
    """It can be copied to any machine: one file of at most 200 lines that needs ``requests`` and nothing of ours."""
    names = {name.partition(".")[0] for _, name in imports_of(tree(CLIENT))}
    assert names.isdisjoint({"lib", "benchmark", "provisioning", "workers", "tests"})
    assert len(CLIENT.read_text(encoding="utf-8").splitlines()) <= 200


# -- writing ---------------------------------------------------------------------------------------------------------


def test_every_module_says_what_it_is_for() -> None:
    """A module with code starts with a docstring; tests too."""
    silent = [
        str(path.relative_to(ROOT))
        for path in modules(*PACKAGES, "tests", "docs", "workers")
        if tree(path).body and ast.get_docstring(tree(path)) is None
    ]
    assert silent == []


def _undocumented(module: ast.Module) -> Iterable[tuple[int, str]]:
    for node in module.body:
        match node:
            case ast.ClassDef() | ast.FunctionDef() | ast.AsyncFunctionDef() if not node.name.startswith("_"):
                one_line = not isinstance(node, ast.ClassDef) and len(node.body) == 1
                if ast.get_docstring(node) is None and not one_line:
                    yield node.lineno, node.name


def test_public_names_are_documented() -> None:
    """Classes and functions of the worker say what the types can't; a function of one statement says it itself."""
    check(findings(["lib"], _undocumented), {})


def test_tests_state_their_rule() -> None:
    """The first line of a test says which rule it guards."""
    silent = [
        (str(path.relative_to(ROOT)), node.name)
        for path in modules("tests")
        for node in ast.walk(tree(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        if node.name.startswith("test_") and ast.get_docstring(node) is None
    ]
    check([item for item in silent if not item[0].startswith("tests/provisioning/")], RULES_IN_NAMES)


def test_files_stay_readable() -> None:
    """Past 400 lines a module of the product is split, or says why not."""
    long = [
        (str(path.relative_to(ROOT)), f"{count} lines")
        for path in modules(*PACKAGES, "docs", "workers")
        if (count := len(path.read_text(encoding="utf-8").splitlines())) > 400
    ]
    check(long, LONG_FILES)


def test_functions_stay_readable() -> None:
    """Past 50 lines a function is split, or says why not."""
    long = [
        (f"{path.relative_to(ROOT)}: {node.name}", f"{node.end_lineno - node.lineno + 1} lines")
        for path in modules(*PACKAGES, "docs", "workers")
        for node in ast.walk(tree(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        if node.end_lineno is not None and node.end_lineno - node.lineno >= 50
    ]
    check(long, LONG_FUNCTIONS)
