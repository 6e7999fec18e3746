"""The OpenAPI document of our routes and the page that shows it, with every asset served by us (no internet needed).

OpenAPI 3.0.3, since the bundled Swagger UI 4 shows no newer one; pydantic's JSON Schema is rewritten accordingly.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web
from pydantic import BaseModel, Field
from pydantic.json_schema import models_json_schema

from lib.errors import Forbidden, ServiceError, Unauthorized
from lib.serving.access import Need, Needs
from lib.serving.errors import STATUS
from lib.serving.payloads import JSON_TYPE, json_response
from lib.serving.schemas import to_3_0

VERSION = "3.0.3"
References = Mapping[type[BaseModel], Mapping[str, Any]]
_ASSETS = {"swagger-ui.css": "text/css", "swagger-ui-bundle.js": "text/javascript", "favicon-32x32.png": "image/png"}
_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>API</title>
<link rel="stylesheet" href="docs/swagger-ui.css">
<link rel="icon" type="image/png" href="docs/favicon-32x32.png">
</head>
<body>
<div id="swagger-ui"></div>
<script src="docs/swagger-ui-bundle.js"></script>
<script src="docs/start.js"></script>
</body>
</html>
"""
_START = """window.ui = SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  tryItOutEnabled: true,
  validatorUrl: null,
  defaultModelsExpandDepth: 0,
  presets: [SwaggerUIBundle.presets.apis]
});
"""
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; connect-src 'self'"
)


TEXT: Mapping[str, Any] = {"type": "string"}
NUMBER: Mapping[str, Any] = {"type": "number", "minimum": 0}
FLAG: Mapping[str, Any] = {"type": "boolean"}
BINARY: Mapping[str, Any] = {"type": "string", "format": "binary"}
OBJECT: Mapping[str, Any] = {"type": "object"}
"""Schemas of what has no model; numbers are 0 or more."""


class Trouble(BaseModel):
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """A header, path or query parameter."""

    name: str
    place: str
    description: str
    required: bool = False
    schema: Mapping[str, Any] = field(default_factory=lambda: TEXT)
    example: Any = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One method on one path, as a caller needs to know it. ``examples`` are request bodies that run as they are.

    ``other_requests``: schemas of further forms of the body, by media type. ``free``: no key is asked for.
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
    free: bool = False


def trouble(error: type[ServiceError], description: str) -> Mapping[int, Answer]:
    """Describe an error of this class, in the form that no dialect shapes, under its status."""
    return {STATUS[error]: Answer(description=description, model=Trouble)}


EVERYWHERE: Mapping[int, Answer] = {
    **trouble(Forbidden, "A foreign `Host` or `Origin`: other web pages are refused; or the key may not do this."),
    **trouble(ServiceError, "A defect of ours; the log has it under the `request_id`."),
}
"""What the edge may answer on each route, where the operation does not describe it itself."""
KEYED: Mapping[int, Answer] = {**trouble(Unauthorized, "No API key, or a wrong one.")}
"""And on routes that are not free, where the worker has API keys."""
SECURITY: Mapping[str, Mapping[str, str]] = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "An API key."},
    "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
}
"""How a key is shown. On loopback none is needed, unless the operator asks for one."""


def build(*, title: str, version: str, description: str, operations: Sequence[Operation]) -> dict[str, Any]:
    """Return the OpenAPI document of the operations."""
    models = {item for operation in operations for item in _models(operation)}
    ordered = sorted(models, key=lambda model: (model.__name__, model.__module__))
    references, definitions = models_json_schema(
        [(model, "validation") for model in ordered], ref_template="#/components/schemas/{model}"
    )
    names: References = {model: dict(references[model, "validation"]) for model in ordered}
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _operation(operation, names)
    return {
        "openapi": VERSION,
        "info": {"title": title, "version": version, "description": description},
        "security": [{}, *({name: []} for name in SECURITY)],
        "paths": paths,
        "components": {
            "schemas": {name: to_3_0(schema) for name, schema in definitions.get("$defs", {}).items()},
            "securitySchemes": {name: dict(scheme) for name, scheme in SECURITY.items()},
        },
    }


class Docs:
    """``/docs``, ``/openapi.json`` and the page's assets. ``document`` is called once, at the first request."""

    def __init__(self, document: Callable[[], dict[str, Any]]) -> None:
        self._build = document
        self._document: dict[str, Any] | None = None

    def routes(self) -> Sequence[web.RouteDef]:
        """Everything that the page needs."""
        return [
            web.get("/", self._to_page),
            web.get("/docs", self._page),
            web.get("/openapi.json", self._show_document),
            web.get("/docs/start.js", self._start),
            web.get("/docs/{asset}", self._asset),
        ]

    def needs(self) -> Needs:
        """Anybody may read how to ask."""
        return {route.path: Need.FREE for route in self.routes() if isinstance(route, web.RouteDef)}

    async def _to_page(self, request: web.Request) -> web.Response:
        raise web.HTTPFound("docs")

    async def _page(self, request: web.Request) -> web.Response:
        headers = {"Content-Security-Policy": _POLICY, "X-Content-Type-Options": "nosniff"}
        return web.Response(text=_PAGE, content_type="text/html", headers=headers)

    async def _start(self, request: web.Request) -> web.Response:
        return web.Response(text=_START, content_type="text/javascript")

    async def _show_document(self, request: web.Request) -> web.Response:
        if self._document is None:
            self._document = self._build()
        return json_response(self._document)

    async def _asset(self, request: web.Request) -> web.StreamResponse:
        kind = _ASSETS.get(name := request.match_info["asset"])
        if kind is None:
            raise web.HTTPNotFound
        headers = {"Content-Type": kind, "Cache-Control": "public, max-age=86400"}
        return web.FileResponse(await asyncio.to_thread(_asset_path, name), headers=headers)


def _asset_path(name: str) -> Path:
    from swagger_ui_bundle import swagger_ui_path

    return Path(swagger_ui_path) / name


def _answers(operation: Operation) -> Mapping[int, Answer]:
    common = EVERYWHERE if operation.free else {**KEYED, **EVERYWHERE}
    return dict(sorted({**common, **operation.answers}.items()))


def _models(operation: Operation) -> list[type[BaseModel]]:
    described = [model for answer in _answers(operation).values() for model in _alternatives(answer)]
    return [*described, *([operation.request] if operation.request is not None else [])]


def _alternatives(answer: Answer) -> tuple[type[BaseModel], ...]:
    if answer.model is None:
        return ()
    return answer.model if isinstance(answer.model, tuple) else (answer.model,)


def _operation(operation: Operation, names: References) -> dict[str, Any]:
    described: dict[str, Any] = {
        "tags": [operation.tag],
        "summary": operation.summary,
        "description": operation.description,
        "responses": {str(int(status)): _answer(answer, names) for status, answer in _answers(operation).items()},
    }
    if operation.free:
        described["security"] = []
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
    return described if parameter.example is None else described | {"example": parameter.example}


def _answer(answer: Answer, names: References) -> dict[str, Any]:
    described: dict[str, Any] = {"description": answer.description}
    if answer.headers:
        described["headers"] = {
            name: {"description": text, "schema": {"type": "string"}} for name, text in answer.headers.items()
        }
    content: dict[str, Any] = {}
    models = _alternatives(answer)
    if models:
        content["schema"] = names[models[0]] if len(models) == 1 else {"anyOf": [names[model] for model in models]}
    elif answer.schema is not None:
        content["schema"] = dict(answer.schema)
    if answer.example is not None:
        content["example"] = answer.example
    if content or answer.media_type != JSON_TYPE:
        described["content"] = {answer.media_type: content}
    return described
