"""Reads ``input`` as worker-comfyui's handler does: its four texts, in its order, then what it lets through and fails
of later. Whatever is refused here is a job that failed, not a request that was refused."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lib.dialects.runpod.schema import NO_INPUT
from lib.errors import InvalidRequest, UnsafeInput
from lib.jobs.model import NamedInput
from lib.workflow.decoding import check

NOT_JSON = "Invalid JSON format in input"
NO_WORKFLOW = "Missing 'workflow' parameter"
BAD_IMAGES = "'images' must be a list of objects with 'name' and 'image' keys"
NOT_AN_OBJECT = "'input' must be an object with the key 'workflow', or such an object as a JSON string"
KEY_FIELDS = ("comfy_org_api_key", "api_key_comfy_org")
"""As the code of worker-comfyui names it, and as its documentation does."""
MOST_NAME_CHARS = 255
_DRIVE = re.compile(r"[A-Za-z]:")


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """An input that can be made a job of; ``fields`` is all of it, decoded."""

    workflow: object
    images: tuple[NamedInput, ...] = ()
    api_key: str | None = field(default=None, repr=False)
    fields: Mapping[str, Any] = field(default_factory=dict, repr=False)


def read_input(raw: object) -> Given:
    """Return what an ``input`` holds; the graph itself is not looked at. Raises: InvalidRequest, UnsafeInput."""
    fields = _fields(raw)
    workflow = fields.get("workflow")
    if workflow is None and isinstance(older := fields.get("prompt"), dict):
        workflow = older
    if workflow is None:
        raise _refused(NO_WORKFLOW, "workflow")
    images = fields.get("images")
    if images is not None:
        _check_shape(images)
    return Given(workflow=workflow, images=_named(images or ()), api_key=_api_key(fields), fields=fields)


def _fields(raw: object) -> dict[str, Any]:
    if raw is None:
        raise _refused(NO_INPUT, "input")
    value = _decoded(raw) if isinstance(raw, str) else raw
    if not isinstance(value, dict):
        raise _refused(NOT_AN_OBJECT, "input")
    return value


def _decoded(text: str) -> object:
    """Decode an input that came as a string, under the same rules as the body itself."""
    try:
        return check(text.encode("utf-8", "surrogatepass"))
    except InvalidRequest as error:
        problems = error.details.get("errors")
        kind = problems[0].get("type") if isinstance(problems, list) and problems else ""
        raise _refused(NOT_JSON if kind == "json_invalid" else f"input: {error.message}", "input") from error


def _check_shape(images: object) -> None:
    if not isinstance(images, list):
        raise _refused(BAD_IMAGES, "images")
    for item in images:
        if not isinstance(item, dict) or "name" not in item or "image" not in item:
            raise _refused(BAD_IMAGES, "images")


def _named(images: Any) -> tuple[NamedInput, ...]:
    found: dict[str, NamedInput] = {}
    for number, item in enumerate(images):
        place = f"images[{number}]"
        name, content = _name(item["name"], f"{place}.name"), item["image"]
        if not isinstance(content, str) or not content.strip():
            raise _refused(f"{place}.image must be a string: base64, a data URI, or a URL", f"{place}.image")
        if name in found:
            raise _refused(f"{place}.name: {name!r} comes twice; each image needs a name of its own", f"{place}.name")
        found[name] = NamedInput(name=name, value=content, field=f"{place}.image")
    return tuple(found.values())


def _name(name: object, place: str) -> str:
    """A name below ComfyUI's input folder, perhaps with folders, written on whatever system."""
    if not isinstance(name, str) or not name.strip() or len(name) > MOST_NAME_CHARS:
        raise _refused(f"{place} must be a file name of 1 to {MOST_NAME_CHARS} characters", place)
    plain = name.replace("\\", "/")
    parts = plain.split("/")
    if _DRIVE.match(plain) or {"", ".", ".."} & {*parts} or any(ord(letter) < 32 for letter in plain):
        text = f"{place} must be a relative path inside ComfyUI's input folder, without '..'"
        raise UnsafeInput(text, details={"field": place, "reason": "unsafe_path"})
    return plain


def _api_key(fields: Mapping[str, Any]) -> str | None:
    for name in KEY_FIELDS:
        key = fields.get(name)
        if key is not None and not isinstance(key, str):
            raise _refused(f"'{name}' must be a string", name)
        if key:
            return key
    return None


def _refused(message: str, place: str) -> InvalidRequest:
    return InvalidRequest(message, details={"field": place})
