"""Which files of one name make an endpoint, and what is to be said of those that make none."""

from collections.abc import Sequence
from dataclasses import dataclass
from shlex import quote

from lib.errors import ServiceError
from lib.workflow.endpoints.declared import FileProblem, parse_declared, read_graph
from lib.workflow.endpoints.endpoint import DeclaredEndpoint
from lib.workflow.endpoints.located import YamlProblem, read_yaml
from lib.workflow.endpoints.scan import CODE, GRAPH, INPUTS, SCRIPTS, File, Group, Problem, ProblemKind
from lib.workflow.graph import check_graph

MAX_GRAPH_BYTES = 32 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """The files of one endpoint: a Python file, or a graph and the file that names its ``inputs``."""

    main: File
    inputs: File | None = None


def choose(group: Group) -> Source | Problem | None:
    """Decide by the names alone; ``None``: ``look_closer`` may have something to say."""
    code, graphs, inputs, scripts = group.of(CODE), group.of(GRAPH), group.of(*INPUTS), group.of(*SCRIPTS)
    for files in (code, graphs, inputs):
        if len(files) > 1:
            return broken(files[0], f"has the same name as {files[1].shown}; keep one")
    if code and graphs and inputs:
        return broken(code[0], f"and {graphs[0].shown} with {inputs[0].shown} claim the same endpoint; keep one")
    if code:
        return Source(main=code[0])
    if graphs and inputs:
        return Source(main=graphs[0], inputs=inputs[0])
    return _script(scripts) if scripts else None


def look_closer(group: Group) -> Problem | None:
    """Look into a graph that nobody named the inputs of, or the other way round. Blocks.

    Files that are something else (a ``package.json``) are nobody's business."""
    for file in group.of(*INPUTS):
        try:
            value = read_yaml(_read(file)).value
        except (YamlProblem, FileProblem, OSError):
            continue
        if isinstance(value, dict) and "inputs" in value:
            return broken(file, "names inputs of a graph, but there is no .json file of its name beside it")
    for file in group.of(GRAPH):
        try:
            workflow = read_graph(_read(file))
        except (FileProblem, OSError):
            continue
        if _looks_like_graph(workflow):
            return _draftable(file, workflow)
    return None


def load_declared(graph: File, inputs: File, *, name: str) -> DeclaredEndpoint:
    """Read a graph and the file of its inputs. Blocks. Raises: FileProblem, OSError."""
    return DeclaredEndpoint(template=parse_declared(_read(graph), inputs.path.read_bytes(), name=name))


def broken(file: File, text: str) -> Problem:
    """Make the problem of a file that is not right."""
    return Problem(file=file.shown, kind=ProblemKind.BROKEN, text=text)


def _read(file: File) -> bytes:
    if file.size > MAX_GRAPH_BYTES:
        raise FileProblem(f"has {file.size} bytes; expected at most {MAX_GRAPH_BYTES}", in_graph=True)
    return file.path.read_bytes()


def _script(scripts: Sequence[File]) -> Problem:
    file = scripts[0]
    command = draft_command(file, file.shown[: -len(file.suffix)] + CODE)
    return Problem(
        file=file.shown,
        kind=ProblemKind.SCRIPT,
        text=f"JavaScript and TypeScript are not run here. Draft its successor in Python: {command}",
    )


def draft_command(file: File, output: str) -> str:
    """Return the command that drafts what is missing."""
    return f'python -m lib.workflow draft "$WORKFLOW_DIR"/{quote(file.shown)} --output "$WORKFLOW_DIR"/{quote(output)}'


def _looks_like_graph(workflow: object) -> bool:
    if not isinstance(workflow, dict) or not workflow:
        return False
    if isinstance(workflow.get("nodes"), list) and "links" in workflow:
        return True
    return all(isinstance(node, dict) and "class_type" in node for node in workflow.values())


def _draftable(file: File, workflow: object) -> Problem:
    try:
        check_graph(workflow)
    except ServiceError as error:
        return broken(file, error.message)
    inputs = file.shown[: -len(file.suffix)] + INPUTS[0]
    text = f"has no {inputs} beside it, which names its inputs. Draft one: {draft_command(file, inputs)}"
    return Problem(file=file.shown, kind=ProblemKind.DRAFTABLE, text=text)
