"""Names of a job's files: ``<id>_<prefix>`` in each output node, with an id that is safe in a path. Pure."""

import re
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any

PREFIX = "filename_prefix"
SAVES = "save_output"
MAX_ID_BYTES = 80
DIGEST_BYTES = 4
_UNFIT = re.compile(r'[/\\%<>:"|?*#\x00-\x1f\x7f]|\A[. ~-]|[. ]\Z')
"""What separates folders, what ComfyUI or its web page fills in, and what file systems or URLs don't take."""


def safe_id(request_id: str) -> str:
    """Return an id as it may stand in a file's name: itself wherever that is possible. Another id has another name."""
    name = _UNFIT.sub("_", request_id)
    if not name.isprintable():
        name = "".join(letter if letter.isprintable() else "_" for letter in name)
    if name == request_id and len(name.encode()) <= MAX_ID_BYTES:
        return name
    digest = blake2b(request_id.encode("utf-8", "surrogatepass"), digest_size=DIGEST_BYTES).hexdigest()
    room = MAX_ID_BYTES - 2 * DIGEST_BYTES - 1
    return f"{name.encode('utf-8', 'replace')[:room].decode('utf-8', 'ignore')}-{digest}"


def prefixed(prompt: Mapping[str, Any], request_id: str, *, prepend: bool) -> tuple[dict[str, Any], bool]:
    """Return the graph with the id in each constant ``filename_prefix``, and whether one of these nodes counts as an
    output: all do, but for those that say that they save nothing. Nodes that are none are left as they are.
    ``prepend``: what the caller wrote stays behind the id."""
    changed: dict[str, Any] = dict(prompt)
    name, counts = safe_id(request_id), False
    for node_id, node in prompt.items():
        inputs = node.get("inputs") if isinstance(node, dict) else None
        prefix = inputs.get(PREFIX) if isinstance(inputs, dict) else None
        if not isinstance(inputs, dict) or not isinstance(prefix, str) or not prefix:
            continue
        changed[node_id] = {**node, "inputs": {**inputs, PREFIX: f"{name}_{prefix}" if prepend else name}}
        counts = counts or _saves(inputs)
    return changed, counts


def _saves(inputs: Mapping[str, Any]) -> bool:
    """As JavaScript sees it: a list is true, also an empty one."""
    value = inputs.get(SAVES, True)
    return isinstance(value, list | dict) or bool(value)
