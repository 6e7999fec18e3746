"""Models of what goes over the wire, and their JSON Schema 2020-12 in the dialect of OpenAPI 3.0."""

from typing import Any

from pydantic import BaseModel, ConfigDict


class WireModel(BaseModel):
    """Its validator is made when it is first used: of most APIs that we speak a worker is asked one, and many models
    describe answers for the docs page only."""

    model_config = ConfigDict(defer_build=True)


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
