"""An endpoint's input as a table in Markdown, for the descriptions in ``/docs``; from its JSON schema."""

from collections.abc import Mapping
from typing import Any

HEAD = "| Field | Type | Description | Default |\n|---|---|---|---|"
REQUIRED = "**Required**"


def markdown_table(schema: Mapping[str, Any]) -> str:
    """Return the table of an object's fields, one line each; of objects in a list or below, their fields too."""
    return "\n".join([HEAD, *_rows(schema, "")])


def _rows(schema: Mapping[str, Any], prefix: str) -> list[str]:
    required = schema.get("required", [])
    rows = []
    for name, field in schema.get("properties", {}).items():
        described = _plain(field)
        default = REQUIRED if name in required else _default(field)
        cells = (f"`{prefix}{name}`", _type(described), _text(name, field, described), default)
        rows.append(f"| {' | '.join(cells)} |")
        rows += _rows(described, f"{prefix}{name}.")
        rows += _rows(_plain(described.get("items", {})), f"{prefix}{name}[].")
    return rows


def _plain(field: Mapping[str, Any]) -> Mapping[str, Any]:
    """The schema without the branch for null."""
    branches = [branch for branch in field.get("anyOf", []) if branch.get("type") != "null"]
    return {**field, "anyOf": None, **_plain(branches[0])} if len(branches) == 1 else field


def _type(field: Mapping[str, Any]) -> str:
    if "enum" in field:
        return f"enum ({', '.join(f'`{_code(value)}`' for value in field['enum'])})"
    if "const" in field:
        return f"`{_code(field['const'])}`"
    if field.get("type") == "array":
        return f"array of {_type(_plain(field.get('items', {})))}"
    if branches := field.get("anyOf"):
        return " or ".join(dict.fromkeys(_type(_plain(branch)) for branch in branches))
    bounds = _bounds(field)
    return f"{field.get('type', 'string' if 'pattern' in field else 'any')}{f' ({bounds})' if bounds else ''}"


def _bounds(field: Mapping[str, Any]) -> str:
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<", "multipleOf": "step"}
    return ", ".join(f"{sign} {field[key]}" for key, sign in signs.items() if field.get(key) is not None)


def _text(name: str, field: Mapping[str, Any], described: Mapping[str, Any]) -> str:
    """The description, else a title that says more than the name does."""
    title = str(field.get("title") or "")
    said = title if title.lower().replace(" ", "_") != name.lower() else ""
    return _cell(field.get("description") or described.get("description") or said)


def _default(field: Mapping[str, Any]) -> str:
    default = field.get("default")
    return "" if default is None or default == "" else f"`{_code(default)}`"


def _cell(value: object) -> str:
    return " ".join(str(value).split()).replace("|", "\\|")


def _code(value: object) -> str:
    return _cell(value).replace("`", "'")
