"""The OpenAPI document of our routes and the page that shows it, with every asset served by us (no internet needed).

OpenAPI 3.0.3, since the bundled Swagger UI 4 shows no newer one; pydantic's JSON Schema is rewritten accordingly.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from lib.serving.payloads import JSON_TYPE, json_response

VERSION = "3.0.3"
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One possible response of an operation."""

    description: str
    model: type[BaseModel] | None = None
    example: Any = None
    media_type: str = JSON_TYPE
    headers: Mapping[str, str] = field(default_factory=dict)
    """Name and description."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """A header, path or query parameter; always a string on the wire."""

    name: str
    place: str
    description: str
    required: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One method on one path, as a caller needs to know it. ``examples`` are request bodies that run as they are."""

    method: str
    path: str
    tag: str
    summary: str
    description: str = ""
    request: type[BaseModel] | None = None
    examples: Mapping[str, Any] = field(default_factory=dict)
    parameters: Sequence[Parameter] = ()
    answers: Mapping[int, Answer] = field(default_factory=dict)


def build(*, title: str, version: str, description: str, operations: Sequence[Operation]) -> dict[str, Any]:
    """Return the OpenAPI document of the operations."""
    models = {item for operation in operations for item in _models(operation)}
    ordered = sorted(models, key=lambda model: model.__name__)
    _, definitions = models_json_schema(
        [(model, "validation") for model in ordered], ref_template="#/components/schemas/{model}"
    )
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _operation(operation)
    return {
        "openapi": VERSION,
        "info": {"title": title, "version": version, "description": description},
        "paths": paths,
        "components": {"schemas": {name: to_3_0(schema) for name, schema in definitions.get("$defs", {}).items()}},
    }


def to_3_0(schema: Any) -> Any:
    """Rewrite JSON Schema 2020-12, as pydantic writes it, to the dialect of OpenAPI 3.0."""
    if isinstance(schema, list):
        return [to_3_0(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    changed = dict(schema)
    _nullable(changed)
    if len(changed) > 1 and "$ref" in changed:
        changed["allOf"] = [{"$ref": changed.pop("$ref")}]
    if "const" in changed:
        changed["enum"] = [changed.pop("const")]
    if "examples" in changed:
        changed["example"] = next(iter(changed.pop("examples")), None)
    for bound, name in (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")):
        if isinstance(changed.get(name), int | float) and not isinstance(changed[name], bool):
            changed[bound], changed[name] = changed[name], True
    if "prefixItems" in changed:
        changed["items"] = {"anyOf": changed.pop("prefixItems")}
    return {key: _part(key, value) for key, value in changed.items()}


def _part(key: str, value: Any) -> Any:
    if key in ("example", "default", "enum"):
        return value
    if key in ("properties", "$defs") and isinstance(value, dict):
        return {name: to_3_0(schema) for name, schema in value.items()}
    return to_3_0(value)


def _nullable(schema: dict[str, Any]) -> None:
    options = schema.get("anyOf")
    if not isinstance(options, list) or {"type": "null"} not in options:
        return
    rest = [option for option in options if option != {"type": "null"}]
    del schema["anyOf"]
    schema["nullable"] = True
    if len(rest) == 1 and "$ref" not in rest[0]:
        schema.update(rest[0])
    elif rest:
        schema["allOf" if len(rest) == 1 else "anyOf"] = rest


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


def _models(operation: Operation) -> list[type[BaseModel]]:
    answers = [answer.model for answer in operation.answers.values() if answer.model is not None]
    return [*answers, *([operation.request] if operation.request is not None else [])]


def _operation(operation: Operation) -> dict[str, Any]:
    described: dict[str, Any] = {
        "tags": [operation.tag],
        "summary": operation.summary,
        "description": operation.description,
        "responses": {str(status): _answer(answer) for status, answer in operation.answers.items()},
    }
    if operation.parameters:
        described["parameters"] = [_parameter(parameter) for parameter in operation.parameters]
    if operation.request is not None:
        examples = {name: {"summary": name, "value": value} for name, value in operation.examples.items()}
        schema: dict[str, Any] = {"allOf": [_reference(operation.request)]}
        if operation.examples:
            schema["example"] = next(iter(operation.examples.values()))  # what the page puts into the form at first
        content = {"schema": schema, "examples": examples}
        described["requestBody"] = {"required": True, "content": {JSON_TYPE: content}}
    return described


def _parameter(parameter: Parameter) -> dict[str, Any]:
    return {
        "name": parameter.name,
        "in": parameter.place,
        "description": parameter.description,
        "required": parameter.required or parameter.place == "path",
        "schema": {"type": "string"},
    }


def _answer(answer: Answer) -> dict[str, Any]:
    described: dict[str, Any] = {"description": answer.description}
    if answer.headers:
        described["headers"] = {
            name: {"description": text, "schema": {"type": "string"}} for name, text in answer.headers.items()
        }
    content: dict[str, Any] = {}
    if answer.model is not None:
        content["schema"] = _reference(answer.model)
    if answer.example is not None:
        content["example"] = answer.example
    if content:
        described["content"] = {answer.media_type: content}
    return described


def _reference(model: type[BaseModel]) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{model.__name__}"}
