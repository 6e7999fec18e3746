"""What the docs page says about workflow endpoints: their files' words, their inputs, an example that runs. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from http import HTTPStatus
from typing import Any

from lib.dialects.salad import examples
from lib.dialects.salad.answers import SaladAccepted, SaladResult
from lib.dialects.salad.docs import ENDPOINTS_TAG, SUBMIT
from lib.dialects.salad.schema import SaladWorkflowRequest
from lib.serving.access import Need
from lib.serving.openapi import Answer, Operation
from lib.serving.payloads import JSON_TYPE
from lib.serving.schemas import to_3_0
from lib.workflow.endpoints.endpoint import Endpoint, route_of
from lib.workflow.endpoints.tables import markdown_table
from lib.workflow.kinds import Kind
from lib.workflow.parameters import FILE_MARK, Options

TEXT = "a lighthouse at dawn"
_LEAST = {"integer": 1, "number": 1.0, "boolean": False, "array": [], "object": {}}


def endpoint_operations(endpoints: Iterable[Endpoint], *, options: Options, tables: bool) -> Sequence[Operation]:
    """Return an operation for each endpoint. ``tables``: inputs stand in the description too, as a table."""
    return [_operation(endpoint, endpoint.schema(options), tables=tables) for endpoint in endpoints]


def example_of(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return an input that has what is required, and nothing else."""
    fields = schema.get("properties", {})
    return {name: _value(fields.get(name, {})) for name in schema.get("required", ())}


def _operation(endpoint: Endpoint, schema: Mapping[str, Any], *, tables: bool) -> Operation:
    table = markdown_table(schema) if tables else ""
    return Operation(
        method="POST",
        path=f"/workflow/{route_of(endpoint)}",
        tag=ENDPOINTS_TAG,
        summary=endpoint.summary or endpoint.name,
        description="\n\n".join(filter(None, (endpoint.description, table))),
        other_requests={JSON_TYPE: _body(schema)},
        answers={
            **SUBMIT,
            HTTPStatus.OK: Answer(description="The result, and `input`.", model=SaladResult),
            HTTPStatus.ACCEPTED: Answer(description="Accepted.", model=SaladAccepted),
        },
        need=Need.SUBMIT,
    )


def _body(schema: Mapping[str, Any]) -> dict[str, Any]:
    """As of every endpoint, with this one's input."""
    own = {"type": "object", "required": ["input"], "properties": {"input": to_3_0(dict(schema))}}
    common = {"$ref": f"#/components/schemas/{SaladWorkflowRequest.__name__}"}
    return {"allOf": [common, own], "example": {"input": example_of(schema)}}


def _value(field: Mapping[str, Any]) -> Any:
    for key in ("default", "const"):
        if key in field:
            return field[key]
    for key in ("examples", "enum"):
        if field.get(key):
            return field[key][0]
    for branch in field.get("anyOf", ()):
        return _value(branch)
    if FILE_MARK in field:
        return examples.PIXEL if field[FILE_MARK] == Kind.IMAGE else "https://example.com/file"
    if field.get("type") == "object":
        return example_of(field)
    least = _LEAST.get(str(field.get("type")), TEXT)
    return field.get("minimum", least) if isinstance(least, int | float) and not isinstance(least, bool) else least
