"""What the graph of a stranger (``JobSpec.stranger``) may not name, so that nobody reads another one's files; pure.

All jobs share ComfyUI's folders, and its loaders open whatever is named there. A file of a job lies in a folder that
nobody can guess, so a name alone gives nothing away; what would lead there without it is refused here. Nodes of packs
that read paths of their own making are beyond this: a host for strangers should not have them.
"""

import posixpath
import re
from collections.abc import Iterator, Mapping
from typing import Any

from lib.comfy.fields import LOADERS, UploadInputs
from lib.comfy.placing import FOLDER
from lib.errors import UnsafeInput
from lib.jobs.ids import is_job_id
from lib.jobs.model import Workflow
from lib.workflow.files import PREFIX
from lib.workflow.graph import is_link

MOST_CHARS = 4096
_MARKED = re.compile(r"(?P<name>.*?) ?\[(?P<where>input|output|temp)\]", re.DOTALL)
_FILE = re.compile(r"[^\n]+\.[A-Za-z0-9]{1,12}")
_INPUTS = re.compile(rf"(?:3d/)?{FOLDER}(?:/[0-9a-f]{{32}})?")
"""The folders of what was brought in: nodes that take a folder would list other ones' files."""
OWN_OUTPUT = "an output of a job of your own as '<job_id>/<file> [output]', a URL, or an uploaded file"
WRITTEN_OUT = "a file's name, written out: of what comes from another node nobody can say which file it is"


def check_stranger(graph: Workflow, uploads: UploadInputs) -> None:
    """Look at every constant text of a well-formed graph. Raises: UnsafeInput, naming node and field."""
    for node_id, node in graph.items():
        kind, inputs = node["class_type"], node["inputs"]
        loads = {*LOADERS.get(kind, ()), *uploads(kind)}
        for name, value in inputs.items():
            if name == PREFIX:
                continue
            if name in loads and is_link(value):
                raise _refused(node_id, name, WRITTEN_OUT)
            for text in _texts(value):
                if len(text) <= MOST_CHARS and (expected := _problem(text, loads=name in loads)) is not None:
                    raise _refused(node_id, name, expected)


def _problem(text: str, *, loads: bool) -> str | None:
    """Say what is expected instead of a text; ``loads``: it is known to be the name of a file or folder."""
    marked = _MARKED.fullmatch(text)
    name = posixpath.normpath((marked["name"] if marked else text).replace("\\", "/"))
    if marked and marked["where"] != "input" and (loads or _FILE.fullmatch(name)):
        own = marked["where"] == "output" and is_job_id(name.partition("/")[0])
        return None if own else OWN_OUTPUT
    return "another folder" if _INPUTS.fullmatch(name) else None


def _texts(value: Any) -> Iterator[str]:
    """A text, or those in lists and objects, which ComfyUI unwraps."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | Mapping):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _texts(item)


def _refused(node_id: str, name: str, expected: str) -> UnsafeInput:
    field = f"workflow.{node_id}.inputs.{name}"
    details = {"field": field, "node_id": node_id, "reason": "not_yours", "expected": expected}
    return UnsafeInput(f"{field} is not allowed here; expected {expected}", details=details)
