"""Every golden request against our own routes: statuses and bodies as documented."""

import json
from pathlib import Path
from typing import Any

import pytest

from .conftest import ALICE, World

FILES = sorted((Path(__file__).parents[3] / "golden" / "native").glob("*.json"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
async def test_golden(path: Path, world: World) -> None:
    """The answer is the one in the file; ``<text>`` stands for any text."""
    case = json.loads(path.read_text())
    asked, wanted = case["request"], case["response"]
    await world.job("order-17")
    headers = ({} if asked.get("anonymous") else ALICE) | asked.get("headers", {})
    data = asked["text"].encode() if "text" in asked else None
    status, body, _ = await world.get(asked["path"], method=asked["method"], headers=headers, data=data)
    assert status == wanted["status"], body
    assert _matches(body, wanted["json"]), f"{body} is not {wanted['json']}"


def _matches(value: Any, wanted: Any) -> bool:
    if wanted == "<text>":
        return isinstance(value, str) and value != ""
    if wanted == "<number>":
        return isinstance(value, int | float)
    if isinstance(wanted, dict) and isinstance(value, dict):
        return value.keys() == wanted.keys() and all(_matches(value[key], wanted[key]) for key in wanted)
    if isinstance(wanted, list) and isinstance(value, list):
        return len(value) == len(wanted) and all(map(_matches, value, wanted))
    return bool(value == wanted)
