"""From what ComfyUI says went wrong to our errors; pure.

Decides by ``exception_type`` and ``exception_message`` only, never by inputs or tracebacks, which are the caller's
text; inputs and host paths stay out of everything that leaves this module, tracebacks unless they are asked for.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from itertools import islice, pairwise
from typing import Any

from lib.comfy import tracebacks
from lib.comfy.catalog import nearest
from lib.comfy.messages import Failed
from lib.comfy.rewrite import Plan, needed
from lib.errors import ExecutionFailed, InvalidWorkflow, OutOfMemory

Choices = Callable[[str, str], Iterable[str]]
"""Options of an input: ``(class_type, input name)``."""

_PATH = re.compile(r"(?<![\w:/.~%>])(?:~|[A-Za-z]:)?(?:[/\\][^\s/\\'\"<>|:,;]+)+[/\\](?=[^\s/\\])")
MOST_HINTS = 20
MOST_TOLD = 100
"""Nodes with errors, and items of their lists: ComfyUI tells of thousands with thousands each."""
MOST_CHARS = 600
WORDS_CHARS = 200
"""Of a warning, which is one of many, and of one reason in it."""
_OOM_TYPES = frozenset({"torch.OutOfMemoryError", "torch.cuda.OutOfMemoryError", "MemoryError"})
_OOM_TEXTS = (
    "out of memory",
    "not enough memory",
    "allocation on device",
    "insufficient memory",
    "failed to allocate",
    "memory allocation failed",
)
_GPU_TYPES = frozenset({"RuntimeError", "torch.AcceleratorError", "AcceleratorError"})
_GPU_TEXTS = (
    "illegal memory access",
    "device-side assert",
    "unspecified launch failure",
    "misaligned address",
    "cuda error: invalid device function",
    "cuda error: invalid configuration argument",
    "triton error [cuda]",
    "cuda runtime error",
    "uncorrectable ecc error",
)
_DEAD_EXECUTOR = re.compile(
    r"Exception in thread Thread-\d+ \(prompt_worker\):?|pyworker: the executor thread has ended"
)
_UNCAUGHT = re.compile(r'  File "[^"]*[/\\]execution\.py", line \d+, in \w+\n')
_HIDDEN = frozenset({"traceback", "current_inputs", "current_outputs"})


def scrub(text: str) -> str:
    """Cut host paths down to their last name; URLs stay."""
    return _PATH.sub("", text)


def scrubbed(value: Any) -> Any:
    """Scrub every string of a JSON value and leave tracebacks and inputs out; of a long list the first items stay."""
    if isinstance(value, str):
        return scrub(value)
    if isinstance(value, Mapping):
        return {key: scrubbed(item) for key, item in value.items() if key not in _HIDDEN}
    if isinstance(value, list | tuple):
        return [scrubbed(item) for item in value[:MOST_TOLD]]
    return value


def execution_error(failure: Failed, *, traceback: bool = False) -> ExecutionFailed:
    """Make the error of a node that raised, with its ``traceback`` where that is wanted."""
    message = scrub(failure.message)
    where = f"Node {failure.node_id} ({failure.node_type})"
    details: dict[str, object] = {
        "node_id": failure.node_id,
        "node_type": failure.node_type,
        "exception_type": failure.exception_type,
        "exception_message": message,
    }
    if traceback and failure.traceback:
        details["traceback"] = tracebacks.told(failure.traceback, scrub=scrub)
    if _is_oom(failure):
        return OutOfMemory(f"{where} ran out of memory: {message}", details=details)
    return ExecutionFailed(f"{where} failed: {failure.exception_type}: {message}", details=details)


def kept_in_spite_of(error: ExecutionFailed) -> str:
    """Tell of the node that failed beside results that are kept, in worker-comfyui's words."""
    told = error.details
    where = f"Node Type: {told.get('node_type')}, Node ID: {told.get('node_id')}"
    return f"Workflow execution error: {where}, Message: {told.get('exception_message')}"


def dropped(reply: Mapping[str, Any], plan: Plan) -> tuple[str, ...]:
    """Tell, for each wanted output that ComfyUI refused in a prompt that it took, why: in its own words.

    ``reply`` is its 200 with ``node_errors``. An output is dropped with any node that it needs."""
    nodes = reply.get("node_errors")
    blamed = {str(node_id): facts for node_id, facts in nodes.items()} if isinstance(nodes, Mapping) else {}
    told = []
    for output in plan.wanted:
        at_fault = sorted(needed(plan.graph, (output,)) & blamed.keys())
        if at_fault:
            why = "; ".join(_own_words(node_id, blamed[node_id]) for node_id in at_fault)
            what = f"Output node {output} ({plan.graph[output]['class_type']}) was dropped: {why}"
            told.append(_short(what, MOST_CHARS))
    return tuple(told[:MOST_TOLD])


def _own_words(node_id: str, facts: Any) -> str:
    errors = _errors(facts) if isinstance(facts, Mapping) else []
    words = (": ".join(str(error[part]) for part in ("message", "details") if error.get(part)) for error in errors)
    kind = facts.get("class_type") if isinstance(facts, Mapping) else None
    return f"node {node_id} ({kind or '?'}): {_short(scrub(', '.join(words)), WORDS_CHARS) or 'not accepted'}"


def _short(text: str, most_chars: int) -> str:
    return text if len(text) <= most_chars else f"{text[: most_chars - 3]}..."


def gpu_fault(failure: Failed) -> str | None:
    """Name a fault after which this ComfyUI process can't use its GPU any more; ``None`` where it was none."""
    if failure.exception_type not in _GPU_TYPES or _is_oom(failure):
        return None
    lowered = failure.message.lower()
    return next((text for text in _GPU_TEXTS if text in lowered), None)


def is_dead_executor(line: str) -> bool:
    """Whether this line of ComfyUI's log says that its only worker thread has ended. The whole line counts: what
    callers send is logged too, inside other lines."""
    return _DEAD_EXECUTOR.fullmatch(line.strip()) is not None


def tell_of_dead_executor(writes: Iterable[str]) -> bool:
    """Whether the last writes to ComfyUI's log tell that its worker thread has ended.

    The thread's last words may have pushed their own first line out: Python 3.11 and 3.12 write a traceback that
    nobody caught piece by piece. One that ComfyUI logs is a single write, and only that thread runs its executor."""
    pieces = [write for write in writes if write]
    if any(map(is_dead_executor, "".join(pieces).splitlines())):
        return True
    return any(_UNCAUGHT.fullmatch(piece) and after == "    " for piece, after in pairwise(pieces))


def _is_oom(failure: Failed) -> bool:
    if failure.exception_type in _OOM_TYPES:
        return True
    lowered = failure.message.lower()
    return any(text in lowered for text in _OOM_TEXTS)


def rejection(reply: Mapping[str, Any], *, classes: Iterable[str], choices: Choices) -> InvalidWorkflow:
    """Make the error of a prompt that ComfyUI did not accept as it is.

    ``reply`` is its body (400, or 200 with ``node_errors``). ``details`` are ``{"error", "node_errors"}``, both
    ComfyUI's own objects, scrubbed, and ``"nearest"`` where a model or class by another name was probably meant.
    """
    error, nodes = scrubbed(reply.get("error") or {}), reply.get("node_errors")
    nodes = scrubbed(dict(islice(nodes.items(), MOST_TOLD))) if isinstance(nodes, Mapping) else {}
    hints: dict[str, list[str]] = {}
    sentences = [
        sentence for node_id, facts in nodes.items() for sentence in _sentences(node_id, facts, choices, hints)
    ]
    if not sentences:
        sentences = [_headline(error, classes, hints)]
    shown = "; ".join(sentences[:5]) + (f"; and {len(sentences) - 5} more" if len(sentences) > 5 else "")
    details: dict[str, object] = {"error": error, "node_errors": nodes}
    return InvalidWorkflow(shown, details=details | ({"nearest": hints} if hints else {}))


def misfits(reply: Mapping[str, Any]) -> frozenset[str]:
    """Return the classes of nodes that were given a value which is not among their choices."""
    nodes = reply.get("node_errors")
    return frozenset(
        str(facts.get("class_type"))
        for facts in (nodes.values() if isinstance(nodes, Mapping) else ())
        if isinstance(facts, Mapping) and any(error.get("type") == "value_not_in_list" for error in _errors(facts))
    )


def _errors(facts: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    listed = facts.get("errors")
    return [error for error in listed if isinstance(error, Mapping)] if isinstance(listed, list) else []


def _headline(error: Any, classes: Iterable[str], hints: dict[str, list[str]]) -> str:
    if not isinstance(error, Mapping):
        return f"ComfyUI does not accept the workflow: {error}"
    message = str(error.get("message") or error.get("type") or "ComfyUI does not accept the workflow")
    details = str(error.get("details") or "")
    found = re.search(r"node '?(?P<name>.+?)'? (?:does not exist|not found)", message)
    info = error.get("extra_info")
    missing = (info.get("class_type") if isinstance(info, Mapping) else None) or (found and found["name"])
    text = f"{message} {details}".strip()
    if not isinstance(missing, str):
        return text
    alike = nearest(missing, classes)
    hints[missing] = list(alike)
    tail = f"; did you mean {' or '.join(alike)}?" if alike else "; its custom node pack is not installed here"
    return text.rstrip(".") + tail


def _sentences(node_id: str, facts: Any, choices: Choices, hints: dict[str, list[str]]) -> list[str]:
    if not isinstance(facts, Mapping):
        return []
    class_type = str(facts.get("class_type") or "?")
    return [f"node {node_id} ({class_type}){_sentence(class_type, error, choices, hints)}" for error in _errors(facts)]


def _sentence(class_type: str, error: Mapping[str, Any], choices: Choices, hints: dict[str, list[str]]) -> str:
    info = error.get("extra_info")
    info = info if isinstance(info, Mapping) else {}
    name = str(info.get("input_name") or "")
    field = f", input {name}" if name else ""
    if error.get("type") == "value_not_in_list":
        return f"{field}: {_not_in_list(class_type, name, info, choices, hints)}"
    text = f"{field}: {error.get('message')}"
    return f"{text} ({error['details']})" if error.get("details") not in (None, "", name) else text


def _not_in_list(
    class_type: str, name: str, info: Mapping[str, Any], choices: Choices, hints: dict[str, list[str]]
) -> str:
    wanted, allowed = str(info.get("received_value")), list(choices(class_type, name))
    alike = hints.get(wanted)
    if alike is None:  # as a search through all choices takes its time, not for each of thousands of nodes
        alike = list(nearest(wanted, allowed)) if len(hints) < MOST_HINTS else []
        hints |= {wanted: alike} if len(hints) < MOST_HINTS else {}
    files = any("." in choice for choice in allowed[:10]) if allowed else name.endswith("_name")
    what = "is not among this ComfyUI's files" if files else "is not a valid choice"
    if alike:
        return f"{wanted!r} {what}; nearest: {', '.join(alike)}"
    if not allowed:
        return f"{wanted!r} {what}; there are none"
    return f"{wanted!r} {what}; expected one of: {', '.join(allowed[:10])}{', ...' if len(allowed) > 10 else ''}"
