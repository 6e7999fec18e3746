"""The OpenAPI document of our routes, from what their owners say about them; ``docs_page`` shows it.

OpenAPI 3.0.3, since the bundled Swagger UI 4 shows no newer one; pydantic's JSON Schema is rewritten accordingly.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from typing import Any

from pydantic import BaseModel, Field
from pydantic.json_schema import models_json_schema

from lib.errors import Forbidden, ServiceError, Unauthorized
from lib.serving.access import KEY_HEADER, TOKEN_HEADER, Need
from lib.serving.errors import STATUS
from lib.serving.payloads import JSON_TYPE
from lib.serving.schemas import WireModel, to_3_0

VERSION = "3.0.3"
References = Mapping[type[BaseModel], Mapping[str, Any]]
TEXT: Mapping[str, Any] = {"type": "string"}
NUMBER: Mapping[str, Any] = {"type": "number", "minimum": 0}
BINARY: Mapping[str, Any] = {"type": "string", "format": "binary"}
OBJECT: Mapping[str, Any] = {"type": "object"}
"""Schemas of what has no model; numbers are 0 or more."""


class Trouble(WireModel):
    """An error that no dialect shapes."""

    error: str = Field(description="Stable code.")
    message: str
    detail: str
    request_id: str = Field(description="Also in the header `X-Request-ID` and in the worker's log.")
    retryable: bool | None = None
    details: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One possible response of an operation. Several models: one of them. ``schema`` is for a body without model."""

    description: str
    model: type[BaseModel] | tuple[type[BaseModel], ...] | None = None
    schema: Mapping[str, Any] | None = None
    example: Any = None
    media_type: str = JSON_TYPE
    headers: Mapping[str, str] = field(default_factory=dict)
    """Name and description."""

    @property
    def models(self) -> tuple[type[BaseModel], ...]:
        """The alternatives of the body."""
        if self.model is None:
            return ()
        return self.model if isinstance(self.model, tuple) else (self.model,)


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """A header, path or query parameter; a query's array is a comma list, that may be empty."""

    name: str
    place: str
    description: str
    required: bool = False
    schema: Mapping[str, Any] = field(default_factory=lambda: TEXT)
    example: Any = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One method on one path, as a caller needs to know it. ``examples`` are request bodies that run as they are.

    ``other_requests``: schemas of further forms of the body, by media type. ``need`` is what the route asks of callers.
    """

    method: str
    path: str
    tag: str
    summary: str
    description: str = ""
    request: type[BaseModel] | None = None
    examples: Mapping[str, Any] = field(default_factory=dict)
    other_requests: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    parameters: Sequence[Parameter] = ()
    answers: Mapping[int, Answer] = field(default_factory=dict)
    need: Need = Need.KEY


def trouble(error: type[ServiceError], description: str) -> Mapping[int, Answer]:
    """Describe an error of this class, in the form that no dialect shapes, under its status."""
    shown = {"error": error.code, "message": description, "detail": description, "retryable": error.retryable}
    example = {**shown, "request_id": "9ee5cbe661f34f1a817da35080daf52e"}
    return {STATUS[error]: Answer(description=description, model=Trouble, example=example)}


EVERYWHERE: Mapping[int, Answer] = {
    **trouble(Forbidden, "A foreign `Host` or `Origin`: other web pages are refused; or the key may not do this."),
    **trouble(ServiceError, "A defect of ours; the log has it under the `request_id`."),
}
"""What the edge may answer on each route, where the operation does not describe it itself."""
KEYED: Mapping[int, Answer] = {**trouble(Unauthorized, "No API key, or a wrong one.")}
"""And on routes that are not free, where the worker has API keys."""
CHALLENGE: Mapping[str, str] = {"WWW-Authenticate": "How to show a key."}
KEYS: Mapping[str, Mapping[str, str]] = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "An API key."},
    "key": {"type": "apiKey", "in": "header", "name": KEY_HEADER, "description": "The same key, in another header."},
}
"""How a key is shown. On loopback none is needed, unless the operator asks for one."""
TOKEN: Mapping[str, Mapping[str, str]] = {
    "job_token": {
        "type": "apiKey",
        "in": "header",
        "name": TOKEN_HEADER,
        "description": "Opens one job, whoever asks. The links of its answers carry it as `?job_token=`.",
    }
}
_OF_A_JOB = "{job_id}"


def build(
    *, title: str, version: str, description: str, operations: Sequence[Operation], keys_required: bool = False
) -> dict[str, Any]:
    """Return the OpenAPI document of the operations. ``keys_required``: who shows no key is turned away."""
    models = {item for operation in operations for item in _models(operation)}
    ordered = sorted(models, key=lambda model: (model.__name__, model.__module__))
    references, definitions = models_json_schema(
        [(model, "validation") for model in ordered], ref_template="#/components/schemas/{model}"
    )
    names: References = {model: dict(references[model, "validation"]) for model in ordered}
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        described = _operation(operation, names) | {"security": _security(operation, keys_required=keys_required)}
        paths.setdefault(operation.path, {})[operation.method.lower()] = described
    return {
        "openapi": VERSION,
        "info": {"title": title, "version": version, "description": description},
        "paths": paths,
        "components": {
            "schemas": {name: to_3_0(schema) for name, schema in definitions.get("$defs", {}).items()},
            "securitySchemes": {name: dict(scheme) for name, scheme in {**KEYS, **TOKEN}.items()},
        },
    }


def _answers(operation: Operation) -> Mapping[int, Answer]:
    common = EVERYWHERE if operation.need is Need.FREE else {**KEYED, **EVERYWHERE}
    answers = {**common, **operation.answers}
    if (refusal := answers.get(HTTPStatus.UNAUTHORIZED)) is not None:
        answers[HTTPStatus.UNAUTHORIZED] = replace(refusal, headers={**CHALLENGE, **refusal.headers})
    return dict(sorted(answers.items()))


def _security(operation: Operation, *, keys_required: bool) -> list[dict[str, list[str]]]:
    """The ways in: any one of them."""
    if operation.need is Need.FREE:
        return []
    ways: list[dict[str, list[str]]] = [] if keys_required and operation.need is not Need.LINK else [{}]
    ways += [{name: []} for name in KEYS]
    return ways + [{name: []} for name in TOKEN if _OF_A_JOB in operation.path]


def _models(operation: Operation) -> list[type[BaseModel]]:
    described = [model for answer in _answers(operation).values() for model in answer.models]
    return [*described, *([operation.request] if operation.request is not None else [])]


def _operation(operation: Operation, names: References) -> dict[str, Any]:
    described: dict[str, Any] = {
        "operationId": re.sub(r"\W+", "_", f"{operation.method.lower()}{operation.path}").strip("_"),
        "tags": [operation.tag],
        "summary": operation.summary,
        "description": operation.description,
        "responses": {str(int(status)): _answer(answer, names) for status, answer in _answers(operation).items()},
    }
    if operation.parameters:
        described["parameters"] = [_parameter(parameter) for parameter in operation.parameters]
    if operation.request is not None or operation.other_requests:
        described["requestBody"] = {"required": True, "content": _request(operation, names)}
    return described


def _request(operation: Operation, names: References) -> dict[str, Any]:
    content: dict[str, Any] = {}
    if operation.request is not None:
        examples = {name: {"summary": name, "value": value} for name, value in operation.examples.items()}
        schema: dict[str, Any] = {"allOf": [names[operation.request]]}
        if operation.examples:
            schema["example"] = next(iter(operation.examples.values()))  # what the page puts into the form at first
        content[JSON_TYPE] = {"schema": schema, "examples": examples}
    return content | {kind: {"schema": dict(schema)} for kind, schema in operation.other_requests.items()}


def _parameter(parameter: Parameter) -> dict[str, Any]:
    described = {
        "name": parameter.name,
        "in": parameter.place,
        "description": parameter.description,
        "required": parameter.required or parameter.place == "path",
        "schema": dict(parameter.schema),
    }
    if parameter.schema.get("type") == "array":
        described |= {"explode": False, "allowEmptyValue": True}
    return described if parameter.example is None else described | {"example": parameter.example}


def _answer(answer: Answer, names: References) -> dict[str, Any]:
    described: dict[str, Any] = {"description": answer.description}
    if answer.headers:
        described["headers"] = {
            name: {"description": text, "schema": {"type": "string"}} for name, text in answer.headers.items()
        }
    content: dict[str, Any] = {}
    models = answer.models
    if models:
        content["schema"] = names[models[0]] if len(models) == 1 else {"anyOf": [names[model] for model in models]}
    elif answer.schema is not None:
        content["schema"] = dict(answer.schema)
    if answer.example is not None:
        content["example"] = answer.example
    if content or answer.media_type != JSON_TYPE:
        described["content"] = {answer.media_type: content}
    return described
