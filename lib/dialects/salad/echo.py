"""The request as its answers and webhooks tell it again: defaults filled in, no secrets, no files. Pure."""

from collections.abc import Mapping
from typing import Any

import orjson

from lib.dialects.salad.schema import SaladOptions

MOST_TEXT_CHARS = 64 * 1024
"""A text of a graph that is longer is a file, not a prompt."""
LEFT_OUT = "(left out)"
_TOLD_OF_AUTH = ("type", "username", "header_name", "query_param", "endpoint", "region")
_ORDER = ("id", "webhook", "webhook_v2", "convert_output", "credentials")


def echo(asked: SaladOptions, *, request_id: str, uploads: Mapping[str, Any]) -> dict[str, Any]:
    """Return the request's own fields, the graph aside. ``uploads`` are the upload blocks that count, by field."""
    given = asked.model_dump(by_alias=True, exclude_none=True, include=set(_ORDER))
    given |= {"id": request_id}
    converted = given.get("convert_output", {})
    if converted.pop("keep_metadata", False):  # ours comes last, where it is asked for
        converted["keep_metadata"] = True
    if credentials := given.get("credentials"):
        given["credentials"] = [_without_secrets(credential) for credential in credentials]
    return {name: given[name] for name in _ORDER if given.get(name)} | dict(uploads)


def told_graph(workflow: bytes) -> Any:
    """Return a graph, as JSON, for an answer: without the files in it."""
    if len(workflow) <= MOST_TEXT_CHARS:
        return orjson.Fragment(workflow)
    return lean(orjson.loads(workflow))


def lean(value: Any) -> Any:
    """Return a JSON value without the files in it."""
    if isinstance(value, str):
        return LEFT_OUT if len(value) > MOST_TEXT_CHARS else value
    if isinstance(value, dict):
        return {name: lean(item) for name, item in value.items()}
    return [lean(item) for item in value] if isinstance(value, list) else value


def _without_secrets(credential: Mapping[str, Any]) -> dict[str, Any]:
    auth = {name: value for name, value in credential["auth"].items() if name in _TOLD_OF_AUTH}
    return {"url_pattern": credential["url_pattern"], "auth": auth}
