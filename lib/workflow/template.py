"""A workflow with declared parameters: what a caller may set, of which type, and where it goes in the graph.

A template is a JSON file, ``{"name", "summary", "description", "parameters": {name: {...}}, "workflow": {...}}``; what
a parameter may hold is written in ``ParameterFile``. Endpoints (``lib.workflow.endpoints``) keep graph and parameters
in two files.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from lib.errors import InvalidRequest, ServiceError
from lib.workflow.graph import check_graph
from lib.workflow.kinds import Kind
from lib.workflow.parameters import OptionList, Options, Parameter, check_declared, no_options, object_schema

BUILT_IN = Path(__file__).parent / "templates"
Loc = tuple[str | int, ...]


class TemplateError(Exception):
    """A template file can't be used; the text names file, parameter and what was expected."""


class ParameterError(ValueError):
    """What is wrong with one parameter of a template."""

    def __init__(self, name: str, problem: str) -> None:
        super().__init__(f"parameter {name}: {problem}")
        self.name = name
        self.problem = problem


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """A named graph and its parameters. ``bind`` makes the graph of one job."""

    name: str
    description: str
    parameters: tuple[Parameter, ...]
    workflow: Mapping[str, Any]
    summary: str = ""

    def bind(self, values: Mapping[str, Any], *, loc: Loc = ()) -> dict[str, Any]:
        """Return the graph with ``values`` filled in, taken leniently; ``null`` counts as not given.

        Raises: InvalidRequest with every bad parameter; ``loc`` is where ``values`` stands in the request.
        """
        given = {name: value for name, value in values.items() if value is not None}
        return self.fill(self.check(given, loc=loc, lenient=True))

    def check(
        self, values: Mapping[str, Any], *, options: Options = no_options, loc: Loc = (), lenient: bool = False
    ) -> dict[str, Any]:
        """Return the value of every parameter, what was not given included; unknown keys are left out.

        Raises: InvalidRequest with every bad parameter.
        """
        checked: dict[str, Any] = {}
        problems: list[dict[str, object]] = []
        for parameter in self.parameters:
            name = parameter.name
            try:
                if name in values:
                    checked[name] = parameter.value(values[name], options, lenient=lenient)
                else:
                    checked[name] = parameter.unset(options)
            except ValueError as error:
                kind = "modification" if lenient else "parameter"
                problems.append({"type": kind, "loc": [*loc, name], "msg": f"{name} {error}"})
        if problems:
            message = f"{self.name}: " + "; ".join(str(problem["msg"]) for problem in problems)
            raise InvalidRequest(message, details={"errors": problems})
        return checked

    def fill(self, checked: Mapping[str, Any]) -> dict[str, Any]:
        """Return the graph with checked values at their places."""
        graph = {node_id: {**node, "inputs": dict(node["inputs"])} for node_id, node in self.workflow.items()}
        for parameter in self.parameters:
            for node_id, name in parameter.targets:
                graph[node_id]["inputs"][name] = checked[parameter.name]
        return graph

    def schema(self, options: Options = no_options) -> dict[str, Any]:
        """Return the JSON schema of ``values``."""
        return object_schema(self.parameters, options)


def load_templates(*folders: Path) -> dict[str, Template]:
    """Read our own templates and all ``*.json`` of ``folders``; of the same name the later one wins. Blocks.

    Raises: TemplateError."""
    templates: dict[str, Template] = {}
    for folder in (BUILT_IN, *folders):
        if not folder.is_dir():
            raise TemplateError(f"{folder}: expected a folder of template files")
        for path in sorted(folder.glob("*.json")):
            template = parse_template(path.read_bytes(), source=str(path))
            templates[template.name] = template
    return templates


def parse_template(data: bytes, *, source: str) -> Template:
    """Turn a template file's bytes into a template whose graph, targets and defaults are right.

    Raises: TemplateError."""
    try:
        file = _File.model_validate_json(data)
        parameters = declare(file.parameters, file.workflow)
    except ValidationError as error:
        raise TemplateError(f"{source}: {_said(error)}") from None
    except (ServiceError, ValueError) as error:
        raise TemplateError(f"{source}: {error}") from error
    return Template(
        name=file.name,
        summary=file.summary,
        description=file.description,
        parameters=parameters,
        workflow=file.workflow,
    )


def _said(error: ValidationError) -> str:
    found = error.errors(include_url=False, include_input=False, include_context=False)
    return "; ".join(": ".join(filter(None, (".".join(map(str, item["loc"])), item["msg"]))) for item in found)


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


class ParameterFile(BaseModel):
    """What a file says of one parameter."""

    model_config = ConfigDict(extra="forbid", strict=True)
    type: Annotated[Kind, Field(strict=False)]
    targets: Annotated[list[str], BeforeValidator(_as_list), Field(min_length=1)] = Field(
        description="One or more `<node id>.<input>`."
    )
    default: Any = Field(None, description="The graph's own value when it is not named.")
    required: bool = False
    minimum: float | int | None = None
    maximum: float | int | None = None
    multiple_of: float | int | None = None
    choices: list[Any] = Field([], description="The only values that are taken.")
    options: str = Field("", description="`<class_type>.<input>`: the choices are what ComfyUI offers there.")
    urls: bool = Field(False, description="Beside `options` a URL is taken, of a model that is to be downloaded.")
    random: bool = Field(False, description="Drawn anew for each job where it is not given.")
    title: str = ""
    description: str = ""


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: str
    summary: str = ""
    description: str = ""
    parameters: dict[str, ParameterFile]
    workflow: dict[str, Any]


def declare(described: Mapping[str, ParameterFile], workflow: Mapping[str, Any]) -> tuple[Parameter, ...]:
    """Make parameters of what a file says, and check them against the graph.

    Raises: ParameterError, ServiceError for the graph.
    """
    check_graph(workflow)
    parameters = []
    for name, item in described.items():
        try:
            parameters.append(_parameter(name, item, workflow))
        except ValueError as error:
            raise ParameterError(name, str(error)) from None
    return tuple(parameters)


def _parameter(name: str, item: ParameterFile, workflow: Mapping[str, Any]) -> Parameter:
    parameter = Parameter(
        name=name,
        kind=item.type,
        targets=tuple(_target(target, workflow) for target in item.targets),
        choices=tuple(item.choices),
        options=_options(item),
        **item.model_dump(exclude={"type", "targets", "choices", "options", "urls"}),
    )
    if not parameter.required and not parameter.random and parameter.default is None:
        parameter = replace(parameter, default=_own_value(parameter.targets, workflow))
    check_declared(parameter)
    if parameter.required or parameter.random:
        return parameter
    try:
        return replace(parameter, default=parameter.value(parameter.default, lenient=True))
    except ValueError as error:
        raise ValueError(f"its default {error}") from None


def _options(item: ParameterFile) -> OptionList | None:
    if not item.options:
        if item.urls:
            raise ValueError("urls stands beside options")
        return None
    class_type, _, name = item.options.partition(".")
    if not class_type or not name:
        raise ValueError(f"options {item.options!r}, expected '<class_type>.<input>'")
    return OptionList(class_type=class_type, name=name, urls=item.urls)


def _target(target: str, workflow: Mapping[str, Any]) -> tuple[str, str]:
    """Split a target; node ids as well as inputs may have dots in them."""
    parts = target.split(".")
    if len(parts) < 2:
        raise ValueError(f"target {target!r}, expected '<node id>.<input>'")
    for end in range(1, len(parts)):
        node_id, name = ".".join(parts[:end]), ".".join(parts[end:])
        if node_id in workflow and name in workflow[node_id]["inputs"]:
            return node_id, name
    raise ValueError(f"the graph has no input {target}{_instead(parts[0], workflow)}")


def _instead(node_id: str, workflow: Mapping[str, Any]) -> str:
    if (node := workflow.get(node_id)) is None:
        return f"; its nodes are {', '.join(list(workflow)[:20])}"
    return f"; inputs of node {node_id} are {', '.join(node['inputs']) or 'none'}"


def _own_value(targets: Sequence[tuple[str, str]], workflow: Mapping[str, Any]) -> Any:
    values = [workflow[node_id]["inputs"][name] for node_id, name in targets]
    if isinstance(values[0], list | dict):
        raise ValueError("needs a default, or required: in the graph it is no plain value")
    if any(value != values[0] or isinstance(value, bool) != isinstance(values[0], bool) for value in values):
        raise ValueError("needs a default, or required: in the graph its targets have different values")
    return values[0]
