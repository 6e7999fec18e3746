"""JSON schemas of inputs, made ready for a document: choices of the moment filled in, references resolved."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

from lib.workflow.authoring import OPTIONS_MARK
from lib.workflow.parameters import OptionList, Options

_REFERENCE = "$ref"
_DEFINITIONS = "$defs"


def inlined(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return a schema with each reference replaced by what it names, so that it can stand anywhere in a document.

    A model that holds itself is cut where it comes again: that place is any object.
    """
    definitions = schema.get(_DEFINITIONS, {})
    plain = {key: item for key, item in schema.items() if key != _DEFINITIONS}
    return cast(dict[str, Any], _inlined(plain, definitions, ()))


def _inlined(schema: Any, definitions: Mapping[str, Any], above: tuple[str, ...]) -> Any:
    if isinstance(schema, list):
        return [_inlined(item, definitions, above) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if not isinstance(reference := schema.get(_REFERENCE), str):
        return {key: _inlined(item, definitions, above) for key, item in schema.items()}
    beside = {key: item for key, item in schema.items() if key != _REFERENCE}
    name = reference.rpartition("/")[2]
    if name in above:
        return {"type": "object", "title": name, **beside}
    return {**_inlined(definitions.get(name, {}), definitions, (*above, name)), **beside}


def resolve(schema: Any, options: Options) -> Any:
    """Return a JSON schema with the choices of the moment in the place of ``OPTIONS_MARK``."""
    if isinstance(schema, Sequence) and not isinstance(schema, str):
        return [resolve(item, options) for item in schema]
    if not isinstance(schema, Mapping):
        return schema
    marked = schema.get(OPTIONS_MARK)
    changed = {key: resolve(item, options) for key, item in schema.items() if key != OPTIONS_MARK}
    if marked is None:
        return changed
    class_type, name, urls = marked
    return _with_choices(changed, OptionList(class_type=class_type, name=name, urls=urls).schema(options))


def _with_choices(schema: dict[str, Any], choices: Mapping[str, Any]) -> dict[str, Any]:
    """Put the choices where the text is: in one branch of a value that may be null."""
    branches = schema.get("anyOf")
    if not isinstance(branches, list):
        return {**schema, **choices}
    texts = [{**branch, **choices} if branch.get("type") == "string" else branch for branch in branches]
    return {**schema, "anyOf": texts}
