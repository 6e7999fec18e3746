"""Endpoints without code: a graph in API format, ``name.json``, and ``name.yaml`` beside it, which names its inputs.

``{"summary", "description", "inputs": {name: {...}}}``; what an input may hold is ``lib.workflow.template``'s
``ParameterFile``.
"""

import difflib
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lib.errors import InvalidRequest, ServiceError
from lib.workflow.decoding import BOM, check
from lib.workflow.endpoints.located import Located, YamlProblem, read_yaml
from lib.workflow.kinds import NUMERIC
from lib.workflow.parameters import Parameter
from lib.workflow.placeholders import TOKEN
from lib.workflow.template import ParameterError, ParameterFile, Template, TemplateError, declare

_UNKNOWN = "extra_forbidden"


class InputsFile(BaseModel):
    """The YAML file."""

    model_config = ConfigDict(extra="forbid", strict=True)
    summary: str = ""
    description: str = ""
    inputs: dict[str, ParameterFile] = Field(description="The inputs that a caller may set, by name.")


class FileProblem(TemplateError):
    """What is wrong with the graph's file (``in_graph``) or with the one that names its inputs."""

    def __init__(self, problem: str, *, in_graph: bool) -> None:
        super().__init__(problem)
        self.in_graph = in_graph


def parse_declared(graph_data: bytes, inputs_data: bytes, *, name: str) -> Template:
    """Make a template of the two files. Raises: FileProblem, naming line, key and what was expected."""
    workflow = read_graph(graph_data)
    try:
        located = read_yaml(inputs_data)
        file = _read_inputs(located)
    except YamlProblem as error:
        raise FileProblem(str(error), in_graph=False) from None
    try:
        parameters = declare(file.inputs, workflow)
    except ParameterError as error:
        line = located.line(("inputs", error.name))
        raise FileProblem(f"line {line}: inputs.{error.name}: {error.problem}", in_graph=False) from None
    except ServiceError as error:
        raise FileProblem(error.message, in_graph=True) from None
    return Template(
        name=name,
        summary=file.summary,
        description=file.description,
        parameters=tuple(map(_drawn, parameters)),
        workflow=workflow,
    )


def read_graph(data: bytes) -> dict[str, Any]:
    """Parse a graph's file; only its form is looked at. Raises: FileProblem."""
    try:
        value = check(data)
    except InvalidRequest as error:
        raise FileProblem(_json_problem(data) or error.message, in_graph=True) from None
    if not isinstance(value, dict):
        raise FileProblem("is not an object; expected a graph in API format, {node id: node}", in_graph=True)
    return value


def _json_problem(data: bytes) -> str | None:
    try:
        orjson.loads(data.removeprefix(BOM))
    except orjson.JSONDecodeError as error:
        return f"line {error.lineno}: is not JSON: {error.msg} (column {error.colno})"
    return None


def _read_inputs(located: Located) -> InputsFile:
    if not isinstance(located.value, dict):
        raise YamlProblem(1, "is not a mapping; expected the keys inputs, and perhaps summary and description")
    try:
        return InputsFile.model_validate(located.value)
    except ValidationError as error:
        found = error.errors(include_url=False)
        first, *others = sorted(found, key=lambda item: item["type"] != _UNKNOWN)  # what is missing is often misspelt
        path = list(first["loc"])
        if len(path) > 3 and path[-1] in ("int", "float"):  # pydantic's name for a branch of the type
            path.pop()
        more = f" (and {len(others)} more)" if others else ""
        raise YamlProblem(located.line(path), f"{_dotted(path)}: {_expectation(first, path)}{more}") from None


def _expectation(problem: Any, path: list[str | int]) -> str:
    if problem["type"] == _UNKNOWN:
        known = list((ParameterFile if len(path) > 2 else InputsFile).model_fields)
        near = difflib.get_close_matches(str(path[-1]), known, n=1)
        meant = f", {near[0]} perhaps" if near else ""
        return f"is not known; expected one of {', '.join(known)}{meant}"
    if problem["type"] == "missing":
        return "is missing"
    return f"{problem['msg'][:1].lower()}{problem['msg'][1:]}, not {problem['input']!r:.60}"


def _dotted(path: Iterable[str | int]) -> str:
    return ".".join(map(str, path))


def _drawn(parameter: Parameter) -> Parameter:
    """A default that ComfyUI would never see is drawn here, so that the answer can show it."""
    if parameter.default != TOKEN or parameter.kind not in NUMERIC:
        return parameter
    return replace(parameter, default=None, random=True)
