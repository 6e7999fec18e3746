"""Every golden conversation against the dialect: the rows of the reference's tables, as they are to be here.

A file is what the worker has and does (``settings``, ``worker``), and what is asked and answered (``steps``). In
requests ``<picture>`` is a graph. In answers ``<picture PREFIX>`` is that graph with another ``filename_prefix``,
``<uuid>`` an id of ours, ``<stats>`` and ``<v1 stats>`` times in their shapes, ``<outputs>`` what is known of the
files; a text may end in ``<text>`` or ``...``, which is any. Keys are all that there are.
"""

import asyncio
import json
import re
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lib import errors
from lib.dialects.salad.answers import SaladOutput, SaladStats
from lib.errors import ServiceError
from lib.jobs.model import Output, OutputKind

from .conftest import IMAGE, PICTURE, World, open_world

FILES = sorted((Path(__file__).parents[3] / "golden" / "salad").glob("*.json"))
UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
LATE = ("upload_time", "total_time")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
async def test_golden(path: Path) -> None:
    """Statuses, bodies and webhooks are the ones in the file, and no secret is in any of them."""
    case = json.loads(path.read_text())
    script = case.get("worker", {})
    async with open_world(automatic=not script.get("held", False), **case.get("settings", {})) as world:
        _prepare(world, script)
        for step in case["steps"]:
            if "do" in step:
                await _do(world, step["do"])
            elif "webhooks" in step:
                await world.idle()
                _check_webhooks(world, step["webhooks"])
            else:
                await _check(world, step)
        await world.idle()


async def _check(world: World, step: dict[str, Any]) -> None:
    async with asyncio.TaskGroup() as group:
        asking = group.create_task(_ask(world, step["request"]))
        if "meanwhile" in step:
            await _do(world, step["meanwhile"])
    status, body = asking.result()
    assert status == step["status"], body
    assert _matches(body, step["answer"]), json.dumps(body, indent=1)
    assert "hidden-value" not in json.dumps(body)


def _check_webhooks(world: World, wanted: list[dict[str, Any]]) -> None:
    told = [{"url": url, "body": body} for url, body in world.told]
    assert len(told) == len(wanted), json.dumps(told, indent=1)
    for found, expected in zip(told, wanted, strict=True):
        assert _matches(found, expected), json.dumps(found, indent=1)
    assert "hidden-value" not in json.dumps(told)
    world.told.clear()


def _prepare(world: World, script: dict[str, Any]) -> None:
    if "outputs" in script:
        world.engine.outputs = tuple(_output(entry) for entry in script["outputs"])
    world.preparer.error = _error(script.get("unprepared"))
    world.delivery.error = _error(script.get("undelivered"))
    world.models.error = _error(script.get("undownloaded"))


async def _do(world: World, act: dict[str, Any]) -> None:
    await world.running()
    if "wait" not in act:
        world.engine.finish(_error(act.get("fail")))
        await world.idle()


async def _ask(world: World, request: dict[str, Any]) -> tuple[int, Any]:
    headers = {"Content-Type": "application/json"} | request.get("headers", {})
    text = request.get("text", "")
    if "json" in request:
        text = json.dumps(request["json"]).replace('"<picture>"', json.dumps(PICTURE))
    async with world.client.request(request["method"], request["path"], data=text.encode(), headers=headers) as answer:
        return answer.status, await answer.json()


def _output(entry: dict[str, Any]) -> Output:
    return replace(IMAGE, **{**entry, "kind": OutputKind(entry.get("kind", "image"))})


def _error(entry: dict[str, Any] | None) -> ServiceError | None:
    if entry is None:
        return None
    kind = getattr(errors, entry["class"])
    more = {"started": True} if kind is errors.EngineDied else {}
    found: ServiceError = kind(entry["message"], details=entry.get("details"), **more)
    return found


def _matches(value: Any, wanted: Any) -> bool:
    match wanted:
        case "<uuid>":
            return isinstance(value, str) and UUID.fullmatch(value) is not None
        case "<time>":
            return isinstance(value, str) and TIME.fullmatch(value) is not None
        case "<outputs>":
            return [SaladOutput.model_validate(item).model_dump(exclude_none=True) for item in value] == value
        case "<stats>":
            return SaladStats.model_validate(value).model_dump().keys() == value.keys()
        case "<v1 stats>":
            whole = {**value, **dict.fromkeys(LATE, 0)}
            return not value.keys() & set(LATE) and SaladStats.model_validate(whole).model_dump().keys() == whole.keys()
        case str() if wanted.startswith("<picture "):
            return _is_picture(value, wanted.removeprefix("<picture ").removesuffix(">"))
        case str() if wanted.endswith(("<text>", "...")):
            return isinstance(value, str) and value.startswith(wanted.removesuffix("<text>").removesuffix("..."))
        case dict():
            return isinstance(value, dict) and value.keys() == wanted.keys() and all(
                _matches(value[key], wanted[key]) for key in wanted
            )  # fmt: skip
        case list():
            return isinstance(value, list) and len(value) == len(wanted) and all(map(_matches, value, wanted))
    return bool(value == wanted and type(value) is type(wanted))


def _is_picture(value: Any, prefix: str) -> bool:
    """The graph, but for its prefix."""
    found, plain = deepcopy(value), deepcopy(PICTURE)
    name = found["2"]["inputs"].pop("filename_prefix")
    del plain["2"]["inputs"]["filename_prefix"]  # type: ignore[attr-defined]
    own, blank, rest = prefix.partition("<uuid>")
    fits = bool(UUID.fullmatch(name.removesuffix(rest))) if blank else _matches(name, own)
    return bool(found == plain and fits)
