"""Asks the running worker what is live and which folders are its; falls back to what lies in the workspace.

``GET /internal/live`` on the API listener answers ``{"paths": [str], "folders": {"output": [str], "input": [str],
"temp": [str]}}``. The listener's address, and the pass that opens this, are in ``<workspace>/run/worker.json``
(``{"api_base": "http://...", "pass": "..."}``), since its port may have moved; without that file it is the configured
port.
"""

import http.client
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import orjson

from lib.upkeep.retention import Live
from lib.upkeep.sweep import Areas, own_inputs

log = logging.getLogger(__name__)

PASS_HEADER = "X-Pyworker-Pass"  # noqa: S105 - a name
TIMEOUT_S = 10.0
DEFAULT_PORT = 18288


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """The worker's answer."""

    live: Live
    areas: Areas


@dataclass(frozen=True, slots=True, kw_only=True)
class Door:
    """Where the worker's API listener is, and the pass that its record gives to programs on this host."""

    base: str
    pass_: str = field(default="", repr=False)


def door(workspace: Path, port: int | None) -> Door:
    """Read the worker's record; without one it is the configured port."""
    record = _json(workspace / "run" / "worker.json") or {}
    told, pass_ = record.get("api_base"), record.get("pass")
    base = told if isinstance(told, str) else f"http://127.0.0.1:{port or DEFAULT_PORT}"
    return Door(base=base, pass_=pass_ if isinstance(pass_, str) else "")


def ask(at: Door) -> Told | None:
    """Return the worker's answer, or None when there is none. Blocks."""
    address = urlsplit(at.base)
    connection = http.client.HTTPConnection(address.hostname or "127.0.0.1", address.port, timeout=TIMEOUT_S)
    try:
        connection.request("GET", "/internal/live", headers={PASS_HEADER: at.pass_})
        response = connection.getresponse()
        body = response.read()
        answer = orjson.loads(body) if response.status == 200 else None
        return None if answer is None else _told(answer)
    except (OSError, http.client.HTTPException, orjson.JSONDecodeError, KeyError, TypeError) as error:
        log.info("no worker to ask", extra={"event": "upkeep.no_worker", "base": at.base, "reason": str(error)})
        return None
    finally:
        connection.close()


def _told(answer: Mapping[str, Any]) -> Told:
    folders = answer["folders"]
    return Told(
        live=Live.of([str(path) for path in answer["paths"]]),
        areas=Areas(outputs=_paths(folders["output"]), inputs=_paths(folders["input"]), temps=_paths(folders["temp"])),
    )


def recorded_areas(workspace: Path, *, fetched: Path) -> Areas:
    """Folders as the launched processes recorded them, the workspace's own, and ``fetched``, where inputs lie that the
    worker brought in."""
    records = [_json(path) for path in sorted((workspace / "run").glob("comfyui-*.json"))]
    outputs = [record["output"] for record in records if record and record.get("output")]
    inputs = [record["input"] for record in records if record and record.get("input")]
    temps = [record["temp"] for record in records if record and record.get("temp")]
    return Areas(
        outputs=_paths([*outputs, workspace / "output", workspace / "outputs"]),
        inputs=(
            *(own for folder in _paths([*inputs, workspace / "input"]) for own in own_inputs(folder)),
            fetched,
        ),
        temps=_paths(temps),
    )


def _paths(values: Iterable[str | Path]) -> tuple[Path, ...]:
    return tuple(dict.fromkeys(Path(value) for value in values))


def _json(path: Path) -> Mapping[str, Any] | None:
    try:
        value = orjson.loads(path.read_bytes())
    except (OSError, orjson.JSONDecodeError):
        return None
    return value if isinstance(value, dict) else None


def chosen_areas(given: Areas, told: Told | None, workspace: Path, *, fetched: Path) -> Areas:
    """What the command line names, else what the worker tells, else what ``recorded_areas`` finds."""
    if given.all:
        return given
    return told.areas if told is not None else recorded_areas(workspace, fetched=fetched)


def arguments(outputs: Sequence[Path], inputs: Sequence[Path], temps: Sequence[Path]) -> Areas:
    """Folders of a command line; of an input folder only our own part counts."""
    return Areas(
        outputs=_paths(path.resolve() for path in outputs),
        inputs=tuple(own for path in inputs for own in own_inputs(path.resolve())),
        temps=_paths(path.resolve() for path in temps),
    )
