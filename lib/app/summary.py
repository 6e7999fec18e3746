"""What a person who started the worker by hand wants to see; also the small files that tell other programs."""

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RECORD = Path("run") / "worker.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Addresses:
    """Base URLs without trailing slashes, for somebody on this host; and who may call the API listener."""

    api: str
    public: str
    plain: str
    beyond: bool = False
    """It is reached from other machines too."""
    keys: bool = False
    """It asks everybody for an API key."""


def write_record(workspace: Path, addresses: Addresses, pass_: str) -> None:
    """Say in ``<workspace>/run/worker.json`` where this worker listens; removed at the end. Blocks.

    ``pass_`` opens ``/internal/live`` to who may read the file: its owner."""
    path = workspace / RECORD
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    record = {
        "pid": os.getpid(),
        "api_base": addresses.api,
        "public": addresses.public,
        "plain": addresses.plain,
        "pass": pass_,
    }
    temporary.touch(mode=0o600)
    temporary.chmod(0o600)
    temporary.write_text(json.dumps(record, indent=2) + "\n")
    temporary.replace(path)


def remove_record(workspace: Path) -> None:
    """Take it away again. Blocks."""
    (workspace / RECORD).unlink(missing_ok=True)


def show(addresses: Addresses, *, score: Mapping[str, Any] | None, output_hint: str, problem: str | None) -> None:
    """Print the summary: addresses, score, docs page and a ``curl`` line to paste."""
    sys.stdout.write(text(addresses, score=score, output_hint=output_hint, problem=problem))
    sys.stdout.flush()


def text(addresses: Addresses, *, score: Mapping[str, Any] | None, output_hint: str, problem: str | None) -> str:
    """Return the summary as lines."""
    lines = [
        "",
        "-" * 78,
        f"  API        {addresses.api}   ({_who_may_call(addresses)})",
        f"  Docs       {addresses.api}/docs",
        f"  Health     {addresses.api}/health      Metrics  {addresses.api}/metrics",
        f"  Signed     {addresses.public}   (Vast's envelope)",
        f"  Outputs    {output_hint}",
        f"  Score      {_score(score)}",
        "",
    ]
    if problem is not None:
        lines += [f"  NOT READY  {problem}", ""]
    else:
        lines += ["  Ready. Paste this to make a picture:", "", f"    {curl(addresses.api, keys=addresses.keys)}", ""]
    lines += ["-" * 78, ""]
    return "\n".join(lines)


def _who_may_call(addresses: Addresses) -> str:
    asked = "with an API key" if addresses.keys else "no API keys"
    if addresses.beyond:
        return f"from other machines too, {asked}"
    return f"loopback: reach it through SSH with -L{', ' + asked if addresses.keys else ''}"


def curl(api: str, *, keys: bool) -> str:
    """A line that runs on any ComfyUI, without a model."""
    graph = {
        "1": {"class_type": "EmptyImage", "inputs": {"width": 256, "height": 256, "batch_size": 1, "color": 3368703}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "hello"}},
    }
    body = json.dumps({"input": {"workflow_json": graph}}, separators=(",", ":"))
    key = "-H 'Authorization: Bearer <key>' " if keys else ""
    return f"curl -s {api}/generate/sync {key}-H 'Content-Type: application/json' -d '{body}'"


def _score(score: Mapping[str, Any] | None) -> str:
    if score is None:
        return "not measured"
    cached = ", measured by an earlier start" if score.get("cached") else ""
    return f"{score['perf']:.4g} (100 / seconds, {score.get('workflow_title', 'benchmark')}{cached})"
