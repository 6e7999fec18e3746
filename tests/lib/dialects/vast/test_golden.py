"""Every golden envelope against the dialect: statuses and bodies as PyWorker's, or better where it had none."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.vast_worker import URL, World

FILES = sorted((Path(__file__).parents[3] / "golden" / "vast").glob("*.json"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
async def test_golden(path: Path, world: World) -> None:
    """The answer is the one in the file; ``<text>`` stands for any sentence, ``<word>`` for any word."""
    case = json.loads(path.read_text())
    asked, wanted = case["request"], case["response"]
    body = asked["text"].encode() if "text" in asked else _filled(asked["json"], world)
    answer = await world.post(asked["path"], body)
    assert answer.status == wanted["status"], answer.body
    assert _matches(answer.body, wanted["json"]), f"{answer.body} is not {wanted['json']}"


def _filled(body: Any, world: World) -> Any:
    if not isinstance(body, dict) or "auth_data" not in body:
        return body
    auth = body["auth_data"]
    if auth == "<auth>":
        auth = world.router.auth_data(URL, request_idx=77)
    elif auth == "<auth of another worker>":
        auth = world.router.auth_data("http://203.0.113.77:40001", request_idx=77)
    elif isinstance(auth, dict) and auth.get("url") == "<url>":
        auth = {**auth, "url": URL}
    return {**body, "auth_data": auth}


def _matches(value: Any, wanted: Any) -> bool:
    if wanted == "<word>":
        return isinstance(value, str) and value.isalpha()
    if wanted == "<text>":
        return isinstance(value, str) and len(value) > 10
    if isinstance(wanted, dict) and isinstance(value, dict):
        return value.keys() == wanted.keys() and all(_matches(value[key], wanted[key]) for key in wanted)
    return bool(value == wanted)
