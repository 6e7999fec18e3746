"""Every golden conversation against the dialect: operations, validation, outputs and errors as the reference has them.

A file is what the worker's engine does (``worker``) and what is asked and answered (``steps``). In requests
``<picture>`` is a workflow and ``<id>`` the id of the last answer that had one. In answers ``<id>`` is an id as
RunPod's, ``<int>`` a whole number, and a text may end in ``<text>``, which is any. Keys are all that there are.
"""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lib import errors
from lib.errors import ServiceError
from lib.jobs.model import Output, OutputKind

from .conftest import IMAGE, PICTURE, World, open_world

FILES = sorted((Path(__file__).parents[3] / "golden" / "runpod").glob("*.json"))
ID = re.compile(r"(sync-)?[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}-u1")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
async def test_golden(path: Path) -> None:
    """Statuses and bodies are the ones in the file."""
    case = json.loads(path.read_text())
    script = case.get("worker", {})
    async with open_world(automatic=not script.get("held", False), **case.get("settings", {})) as world:
        _prepare(world, script)
        told: dict[str, str] = {}
        for step in case["steps"]:
            if "do" in step:
                await _do(world, step["do"])
                continue
            status, body = await _ask(world, step["request"], told)
            assert status == step["status"], body
            assert _matches(body, step["answer"]), json.dumps(body, indent=1)
            told["id"] = body.get("id", told.get("id", ""))
        await world.idle()


def _prepare(world: World, script: dict[str, Any]) -> None:
    engine = world.engine
    engine.left_files = "outputs" in script
    if "outputs" in script:
        engine.outputs = tuple(_output(entry) for entry in script["outputs"])
    engine.warnings = tuple(script.get("warnings", ()))
    if "unprepared" in script:
        world.preparer.error = _error(script["unprepared"])


async def _do(world: World, act: dict[str, Any]) -> None:
    await world.running()
    if "progress" in act:
        world.engine.tell(**act["progress"])
        return
    world.engine.finish(_error(act["fail"]) if "fail" in act else None)
    await world.idle()


async def _ask(world: World, request: dict[str, Any], told: dict[str, str]) -> tuple[int, Any]:
    path = request["path"].replace("<id>", told.get("id", ""))
    headers = {"Content-Type": "application/json"} | request.get("headers", {})
    text = request.get("text", "")
    if "json" in request:
        text = json.dumps(request["json"]).replace('"<picture>"', json.dumps(PICTURE))
    async with world.client.request(request["method"], path, data=text.encode(), headers=headers) as answer:
        return answer.status, await answer.json()


def _output(entry: dict[str, Any]) -> Output:
    return replace(IMAGE, **{**entry, "kind": OutputKind(entry.get("kind", "image"))})


def _error(entry: dict[str, Any]) -> ServiceError:
    kind = getattr(errors, entry["class"])
    more = {"started": True} if kind is errors.EngineDied else {}
    found: ServiceError = kind(entry["message"], details=entry.get("details"), **more)
    return found


def _matches(value: Any, wanted: Any) -> bool:
    match wanted:
        case "<id>":
            return isinstance(value, str) and ID.fullmatch(value) is not None
        case "<int>":
            return type(value) is int and value >= 0
        case str() if wanted.endswith("<text>"):
            return isinstance(value, str) and value.startswith(wanted.removesuffix("<text>"))
        case dict():
            return isinstance(value, dict) and value.keys() == wanted.keys() and all(
                _matches(value[key], wanted[key]) for key in wanted
            )  # fmt: skip
        case list():
            return isinstance(value, list) and len(value) == len(wanted) and all(map(_matches, value, wanted))
    return bool(value == wanted and type(value) is type(wanted))
