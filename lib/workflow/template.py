"""A workflow with declared parameters: what a caller may set, of which type, and where it goes in the graph.

A template is a JSON file, ``{"name", "description", "parameters": {name: {...}}, "workflow": {...}}``; a parameter has
``type`` (``string``, ``integer``, ``number``, ``boolean``), ``targets`` (``"<node id>.<input>"``), and ``default`` or
``required``, ``minimum``, ``maximum``, ``choices``, ``description``.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from lib.errors import InvalidRequest, ServiceError
from lib.workflow.decoding import MAX_INTEGER, MIN_INTEGER
from lib.workflow.graph import check_graph
from lib.workflow.placeholders import TOKEN

BUILT_IN = Path(__file__).parent / "templates"


class Kind(StrEnum):
    """JSON types of parameters."""

    STRING = "string"
    INTEGER = "integer"
    NUMBER = "number"
    BOOLEAN = "boolean"


class TemplateError(Exception):
    """A template file can't be used; the text names file, parameter and what was expected."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """One declared input. ``targets`` are ``(node id, input name)``; ``default`` counts unless ``required``."""

    name: str
    kind: Kind
    targets: tuple[tuple[str, str], ...]
    default: Any = None
    required: bool = False
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[Any, ...] = ()
    description: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """A named graph and its parameters. ``bind`` makes the graph of one job."""

    name: str
    description: str
    parameters: tuple[Parameter, ...]
    workflow: Mapping[str, Any]

    def bind(self, values: Mapping[str, Any], *, loc: tuple[str | int, ...] = ()) -> dict[str, Any]:
        """Return the graph with ``values`` filled in; unknown keys are ignored, ``null`` counts as not given.

        Raises: InvalidRequest with every bad parameter; ``loc`` is where ``values`` stands in the request.
        """
        graph = {node_id: {**node, "inputs": dict(node["inputs"])} for node_id, node in self.workflow.items()}
        problems: list[dict[str, object]] = []
        for parameter in self.parameters:
            try:
                value = _value(parameter, values.get(parameter.name))
            except ValueError as error:
                problem: dict[str, object] = {
                    "type": "modification",
                    "loc": [*loc, parameter.name],
                    "msg": f"{parameter.name} {error}",
                }
                problems.append(problem)
                continue
            for node_id, name in parameter.targets:
                graph[node_id]["inputs"][name] = value
        if problems:
            message = f"{self.name}: " + "; ".join(str(problem["msg"]) for problem in problems)
            raise InvalidRequest(message, details={"errors": problems})
        return graph


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
        check_graph(file.workflow)
        parameters = tuple(_parameter(name, item) for name, item in file.parameters.items())
        template = Template(name=file.name, description=file.description, parameters=parameters, workflow=file.workflow)
        _check(template)
    except (ValidationError, ServiceError, ValueError) as error:
        raise TemplateError(f"{source}: {error}") from error
    return template


class _FileParameter(BaseModel):
    model_config = ConfigDict(extra="forbid")
    type: Kind
    targets: tuple[str, ...]
    default: Any = None
    required: bool = False
    minimum: float | int | None = None
    maximum: float | int | None = None
    choices: tuple[Any, ...] = ()
    description: str = ""


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: str
    description: str = ""
    parameters: dict[str, _FileParameter]
    workflow: dict[str, Any]


def _parameter(name: str, item: _FileParameter) -> Parameter:
    fields = item.model_dump(exclude={"type", "targets"})
    targets = []
    for target in item.targets:
        node_id, dot, field = target.rpartition(".")
        if not dot:
            raise ValueError(f"parameter {name}: target {target!r}, expected '<node id>.<input>'")
        targets.append((node_id, field))
    return Parameter(name=name, kind=item.type, targets=tuple(targets), **fields)


def _check(template: Template) -> None:
    for parameter in template.parameters:
        for node_id, field in parameter.targets:
            if node_id not in template.workflow or field not in template.workflow[node_id]["inputs"]:
                raise ValueError(f"parameter {parameter.name}: the graph has no input {node_id}.{field}")
        if not parameter.required:
            try:
                _value(parameter, parameter.default)
            except ValueError as error:
                raise ValueError(f"parameter {parameter.name}: its default {error}") from None


def _value(parameter: Parameter, given: Any) -> Any:
    """Return what goes into the graph. Raises: ValueError with what was expected."""
    if given is None:
        if parameter.required or parameter.default is None:
            raise ValueError("required but not set")
        given = parameter.default
    if given == TOKEN and parameter.kind in (Kind.INTEGER, Kind.NUMBER):
        return given
    value = _coerce(parameter.kind, given)
    if type(value) is int and not MIN_INTEGER <= value <= MAX_INTEGER:
        raise ValueError("must be an integer of 64 bits")
    if parameter.choices and value not in parameter.choices:
        raise ValueError(f"must be one of {', '.join(map(str, parameter.choices))}")
    if parameter.minimum is not None and value < parameter.minimum:
        raise ValueError(f"must be at least {parameter.minimum}")
    if parameter.maximum is not None and value > parameter.maximum:
        raise ValueError(f"must be at most {parameter.maximum}")
    return value


def _coerce(kind: Kind, given: Any) -> Any:
    """Take what ComfyUI itself would convert without loss: digits in a string, a number for a text."""
    match kind, given:
        case (Kind.BOOLEAN, bool()) | (Kind.STRING, str()):
            return given
        case (Kind.INTEGER | Kind.NUMBER | Kind.STRING, bool()):
            pass
        case (Kind.INTEGER | Kind.NUMBER, int()) | (Kind.NUMBER, float()):
            return given
        case (Kind.INTEGER, float()) if given.is_integer():
            return int(given)
        case (Kind.STRING, int() | float()):
            return str(given)
        case (Kind.INTEGER | Kind.NUMBER, str()):
            return _number(kind, given)
    raise ValueError(f"must be of type {kind.value}")


def _number(kind: Kind, text: str) -> float | int:
    try:
        if kind is Kind.INTEGER and len(text) <= 40:
            return int(text)
        if kind is Kind.NUMBER and math.isfinite(number := float(text)):
            return number
    except ValueError:
        pass
    raise ValueError(f"must be of type {kind.value}")
