"""Checks of a graph in ComfyUI's API format, ``{node_id: {"class_type": str, "inputs": {...}}}``; pure, no catalogue.

Refuses, with the place and what was expected, each prompt that ComfyUI accepts with 200 and then dies of, and each
mistake whose message from ComfyUI would not help.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from lib.errors import InvalidWorkflow
from lib.workflow.decoding import check as check
from lib.workflow.files import check_files

MAX_ID_LENGTH = 200
MAX_CLASS_LENGTH = 200
MAX_NODES = 10_000
MAX_CHAIN = 512
"""Nodes one after the other. ComfyUI goes along them by recursion: near a thousand its executor thread dies of it."""
_OURS = frozenset({"client_id", "prompt_id", "extra_data", "number", "front", "partial_execution_targets"})
_EXPORT = (
    "This is a graph in the format of ComfyUI's editor. Export it for the API: in ComfyUI open the menu Workflow > "
    "Export (API); in older versions switch on the dev mode options in the settings and use 'Save (API Format)'."
)
_LITERAL = 'a literal list is written {"__value__": [...]}'


def check_graph(workflow: object) -> None:
    """Check a whole graph; return when it is well formed.

    Raises: InvalidWorkflow (``details``: ``node_id``, ``field``, ``expected``, where they apply), UnsafeInput (a file
    input or prefix that leaves ComfyUI's folders).
    """
    if not isinstance(workflow, dict):
        raise _bad("The workflow must be an object of nodes", expected="an object {node_id: node}")
    _check_top(workflow)
    for node_id, node in workflow.items():
        _check_node(node_id, node)
    for node_id, node in workflow.items():
        _check_links(workflow, node_id, node["inputs"])
    check_files(workflow)
    check_cycles(workflow, _sinks(workflow))


def is_link(value: object) -> bool:
    """Tell whether ComfyUI takes this input value for a link to another node."""
    return (
        isinstance(value, list) and len(value) == 2 and isinstance(value[0], str) and isinstance(value[1], int | float)
    )


def check_cycles(workflow: Mapping[str, Any], outputs: Iterable[str]) -> None:
    """Refuse a cycle that one of ``outputs`` depends on, which ComfyUI drops without a word; and an endless chain."""
    done: dict[str, int] = {}
    for root in outputs:
        path: dict[str, None] = {}
        stack: list[tuple[str, bool]] = [(root, False)]
        while stack:
            node_id, leaving = stack.pop()
            if leaving:
                del path[node_id]
                done[node_id] = 1 + max((done[source] for source in _sources(workflow[node_id]["inputs"])), default=0)
                if done[node_id] > MAX_CHAIN:
                    raise _bad(
                        f"Node {node_id!r} depends on more than {MAX_CHAIN} nodes one after the other",
                        node_id=node_id,
                        expected=f"at most {MAX_CHAIN} in a row",
                    )
            elif node_id in path:
                raise _cycle([*path], node_id)
            elif node_id not in done:
                path[node_id] = None
                stack.append((node_id, True))
                stack.extend((source, False) for source in _sources(workflow[node_id]["inputs"]))


def _cycle(path: list[str], node_id: str) -> InvalidWorkflow:
    nodes = [*path[path.index(node_id) :], node_id]
    shown = " <- ".join(nodes[:12]) + (" <- ..." if len(nodes) > 12 else "")
    return _bad(
        f"The nodes {shown} depend on each other in a circle",
        node_id=node_id,
        expected="links that lead from the outputs back to nodes without links",
    )


def _check_top(workflow: dict[Any, Any]) -> None:
    if not workflow:
        raise _bad("The workflow is empty", expected="at least one node")
    if isinstance(workflow.get("nodes"), list) and ("links" in workflow or "last_node_id" in workflow):
        raise _bad(_EXPORT, expected="a graph in API format")
    if isinstance(prompt := workflow.get("prompt"), dict) and "class_type" not in prompt:
        raise _bad("Send the object under `prompt` itself as the workflow", expected="an object {node_id: node}")
    if len(workflow) > MAX_NODES:
        raise _bad(f"The workflow has {len(workflow)} nodes", expected=f"at most {MAX_NODES} nodes")


def _check_node(node_id: object, node: object) -> None:
    if not isinstance(node_id, str):
        raise _bad(f"Node id {node_id!r} is not a string", expected='a string such as "3"')
    if not 0 < len(node_id) <= MAX_ID_LENGTH or not node_id.isprintable():
        raise _bad(f"Node id {node_id[:40]!r} can't be used", expected=f"1 to {MAX_ID_LENGTH} printable characters")
    if not isinstance(node, dict):
        note = "; the worker sets that field itself, leave it out" if node_id in _OURS else ""
        raise _bad(f"Node {node_id!r} is not an object{note}", node_id=node_id, expected='{"class_type", "inputs"}')
    kind = node.get("class_type")
    if not isinstance(kind, str) or not 0 < len(kind) <= MAX_CLASS_LENGTH:
        raise _bad(
            f"Node {node_id!r} has no valid class_type",
            node_id=node_id,
            field="class_type",
            expected=f"a node class's name of 1 to {MAX_CLASS_LENGTH} characters",
        )
    if not isinstance(node.get("inputs"), dict):
        raise _bad(
            f"Node {node_id!r} ({kind}) has no inputs object",
            node_id=node_id,
            field="inputs",
            expected="an object, {} for a node without inputs",
        )
    if not isinstance(node.get("_meta", {}), dict | None):
        raise _bad(f"Node {node_id!r}: _meta is not an object", node_id=node_id, field="_meta", expected="an object")


def _check_links(workflow: Mapping[str, Any], node_id: str, inputs: Mapping[str, Any]) -> None:
    for name, value in inputs.items():
        if type(value) is not list or len(value) != 2:
            continue
        source, slot = value
        if isinstance(source, str) and isinstance(slot, int | float):
            if source not in workflow:
                raise _bad_link(node_id, name, f"names node {source[:40]!r}, which is not in the workflow")
            if type(slot) is not int or slot < 0:
                raise _bad_link(node_id, name, f"names slot {slot!r} of node {source!r}")
        elif type(source) is int and type(slot) is int:
            hint = f'write ["{source}", {slot}]' if str(source) in workflow else "a node id is a string"
            raise _bad_link(node_id, name, f"holds [{source}, {slot}]: {hint}")


def _bad_link(node_id: str, name: str, problem: str) -> InvalidWorkflow:
    return _bad(
        f"Input {name!r} of node {node_id!r} {problem}",
        node_id=node_id,
        field=name,
        expected=f'a link ["<id of a node>", <slot from 0>]; {_LITERAL}',
    )


def _sources(inputs: Mapping[str, Any]) -> list[str]:
    return [value[0] for value in inputs.values() if type(value) is list and is_link(value)]


def _sinks(workflow: Mapping[str, Any]) -> Iterable[str]:
    """Nodes that no other one uses; all of them where each is used, which only a cycle can do."""
    used = {source for node in workflow.values() for source in _sources(node["inputs"])}
    return [node_id for node_id in workflow if node_id not in used] or workflow


def _bad(message: str, *, expected: str, node_id: str | None = None, field: str | None = None) -> InvalidWorkflow:
    details: dict[str, object] = {"expected": expected}
    if node_id is not None:
        details["node_id"] = node_id
    if field is not None:
        details["field"] = field
    return InvalidWorkflow(f"{message}; expected {expected}", details=details)
