"""What a prompt carries so that a later life of this worker knows it again; pure.

ComfyUI keeps a prompt's ``extra_data`` in its queue and history and writes it into no file. Ours holds the job's folder
and the wanted output nodes: with them a prompt is followed and harvested as if it had been posted just now, whatever
was lost with the worker's memory. Callers never see it.
"""

from collections.abc import Mapping
from typing import Any

from lib.comfy.client import QueueItem
from lib.comfy.partner import EXTRA, SECRET
from lib.comfy.rewrite import NONCE, PREFIX, Plan
from lib.jobs.model import Workflow

KEY = "pyworker"
_GRAPH, _EXTRA, _OUTPUTS = 2, 3, 4
"""Where they stand in a queue item."""


def mark(plan: Plan, *, owner: str, api_key: str | None = None) -> dict[str, Any]:
    """Make a prompt's ``extra_data``. ``owner`` names the worker through all its lives; ``api_key`` pays for partner
    nodes."""
    marked: dict[str, Any] = {KEY: {"owner": owner, "folder": plan.folder, "wanted": plan.wanted}}
    return marked | ({EXTRA: api_key} if api_key else {})


def without_mark(extra_data: object) -> object:
    """Take our part, and what is secret, off an ``extra_data``."""
    if isinstance(extra_data, Mapping):
        return {key: value for key, value in extra_data.items() if key != KEY and key not in SECRET}
    return extra_data


def is_owned(item: QueueItem, owner: str) -> bool:
    """Whether a worker of this name posted it."""
    return bool(owner) and _mark_of(item).get("owner") == owner


def recalled(item: QueueItem, *, folder: str) -> Plan | None:
    """Return the plan with which a prompt was posted, ``None`` where its record can't be read.

    ``folder`` stands in for one that the record does not tell."""
    if len(item) <= _OUTPUTS or not isinstance(item[_GRAPH], dict) or not isinstance(item[_OUTPUTS], list):
        return None
    told = _mark_of(item)
    wanted, known = told.get("wanted"), told.get("folder")
    return Plan(
        graph=item[_GRAPH],
        wanted=tuple(map(str, wanted if isinstance(wanted, list) else item[_OUTPUTS])),
        folder=known if isinstance(known, str) and known else folder,
    )


def shown(plan: Plan, graph: Workflow) -> Workflow:
    """Return the caller's ``graph`` with the values that the prompt was really posted with: a seed that was drawn
    in an earlier life is another one than now."""
    return {
        node_id: _restored(plan.graph[node_id], plan.folder) if node_id in plan.graph else node
        for node_id, node in graph.items()
    }


def _restored(node: Mapping[str, Any], folder: str) -> dict[str, Any]:
    inputs = {name: value for name, value in node["inputs"].items() if name != NONCE}
    if isinstance(prefix := inputs.get(PREFIX), str):
        inputs[PREFIX] = prefix.removeprefix(f"{folder}/")
    return {**node, "inputs": inputs}


def _mark_of(item: QueueItem) -> Mapping[str, Any]:
    extra = item[_EXTRA] if len(item) > _EXTRA else None
    told = extra.get(KEY) if isinstance(extra, Mapping) else None
    return told if isinstance(told, Mapping) else {}
