"""Workflow endpoints: a folder's files, as routes and on the docs page."""

import json
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from lib.dialects.salad import examples
from lib.dialects.salad.endpoints import example_of
from tests.fakes.clock import settle

from .conftest import HOOK_2, World, open_world

GRAPH = {
    "1": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": 255}},
    "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "ComfyUI"}},
    "3": {"class_type": "KSampler", "inputs": {"sampler_name": "euler", "seed": 1}},
    "4": {"class_type": "LoadImage", "inputs": {"image": "a.png"}},
}
INPUTS = """
summary: A plain picture
description: Of one colour.
inputs:
  width: {type: integer, targets: 1.width, minimum: 8, maximum: 512, description: In pixels.}
  sampler: {type: string, targets: 3.sampler_name, options: KSampler.sampler_name}
  seed: {type: integer, targets: 3.seed, random: true}
  image: {type: image, targets: 4.image, required: true}
"""
CODE = '''"""A file in Python."""

from pydantic import BaseModel


class Request(BaseModel):
    prompt: str
    fail: bool = False


def generate_workflow(input):
    if input.fail:
        raise ValueError("no such style")
    return {"2": {"class_type": "SaveImage", "inputs": {"filename_prefix": input.prompt}}}
'''
VALUES = {"width": 64, "sampler": "euler", "image": "b.png"}


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[World]:
    """A worker with two endpoints, one in a folder."""
    (tmp_path / "sd").mkdir()
    (tmp_path / "sd" / "plain.json").write_text(json.dumps(GRAPH))
    (tmp_path / "sd" / "plain.yaml").write_text(INPUTS)
    (tmp_path / "coded.py").write_text(CODE)
    async with open_world(workflows=tmp_path) as world:
        yield world


@pytest.mark.parametrize("prefix", ["workflow", "workflows"])
async def test_an_endpoint_answers_as_prompt_does(served: World, prefix: str) -> None:
    """With ``input`` besides, defaults and drawn numbers in it."""
    done = await served.post(f"/{prefix}/sd/plain", {"id": "abc", "input": {"image": "b.png", "other": 1}})
    assert done["input"].keys() == {"width", "sampler", "seed", "image"}
    assert {name: done["input"][name] for name in VALUES} == VALUES
    assert done["prompt"]["3"]["inputs"]["seed"] == done["input"]["seed"]
    assert done["prompt"]["2"]["inputs"]["filename_prefix"] == "abc_ComfyUI"
    assert done["images"] == [served.delivery.data]
    assert list(done)[:2] == ["prompt", "id"]


async def test_an_endpoint_in_the_background(served: World) -> None:
    """202 with ``input``; the webhook gets the graph, and no ``input``."""
    body = {"id": "abc", "input": {"prompt": "cat"}, "webhook_v2": HOOK_2}
    accepted = await served.post("/workflow/coded", body, status=202)
    assert (accepted["status"], accepted["input"]) == ("ok", {"prompt": "cat", "fail": False})
    await served.idle()
    ((_, told),) = served.told
    assert "input" not in told
    assert told["prompt"]["2"]["inputs"]["filename_prefix"] == "abc_cat"


@pytest.mark.parametrize(
    ("path", "body", "place", "text"),
    [
        ("sd/plain", {}, "input", "input: Field required"),
        ("sd/plain", {"input": []}, "input", "input: must be an object"),
        ("sd/plain", {"input": {}}, "input.image", "required"),
        ("sd/plain", {"input": {**VALUES, "width": 4}}, "input.width", "at least 8"),
        ("sd/plain", {"input": {**VALUES, "width": "64"}}, "input.width", ""),
        ("sd/plain", {"input": {**VALUES, "sampler": "x"}}, "input.sampler", "euler, ddim"),
        ("sd/plain", {"input": VALUES, "webhook": 5}, "webhook", "string"),
        ("coded", {"input": {}}, "input.prompt", "Field required"),
        ("coded", {"input": {"prompt": 5}}, "input.prompt", "string"),
        ("coded", {"input": {"prompt": ""}}, "prompt", "filename_prefix"),
    ],
)
async def test_what_is_refused(served: World, path: str, body: Any, place: str, text: str) -> None:
    """400, with the place and the reason; nothing runs."""
    told = await served.post(f"/workflow/{path}", body, status=400)
    assert told["location"] == place
    assert text in told["error"]
    assert served.engine.ran == []


async def test_a_file_that_fails_says_why(served: World) -> None:
    """In comfyui-api's words."""
    told = await served.post("/workflow/coded", {"input": {"prompt": "a", "fail": True}}, status=400)
    assert told["error"] == "Failed to generate workflow prompt: no such style"
    assert told["location"] == "input"


async def test_the_same_id_is_the_same_request(served: World) -> None:
    """Although its graph has another seed."""
    served.delivery.gate.clear()
    body = {"id": "abc", "input": {"image": "b.png"}, "webhook_v2": HOOK_2}
    first = await served.post("/workflow/sd/plain", body, status=202)
    again = await served.post("/workflow/sd/plain", body, status=202)
    assert first["prompt"] == again["prompt"]
    await served.post("/workflow/coded", {**body, "input": {"prompt": "a"}}, status=409)
    served.delivery.gate.set()
    await served.idle()


async def test_choices_are_those_that_the_caller_may_see(served: World) -> None:
    """A tenant's are his own and the operator's; the page is for anybody."""
    served.models.shown_to.clear()
    await served.post("/workflow/coded", {"input": {"prompt": "a"}}, X_Tenant="alice")
    await served.post("/workflow/coded", {"input": {"prompt": "a"}})
    await served.call("GET", "/docs/json")
    assert served.models.shown_to == ["alice", "", None]


async def test_endpoints_come_and_go(served: World, tmp_path: Path) -> None:
    """Without a restart."""
    (tmp_path / "coded.py").unlink()
    await served.post("/workflow/coded", {"input": {"prompt": "a"}}, status=404)
    (tmp_path / "new.py").write_text(CODE)
    await served.post("/workflow/new", {"input": {"prompt": "a"}})
    await settle(10)


# -- the docs page -------------------------------------------------------------------------------------------------


async def test_the_document_has_every_endpoint(served: World) -> None:
    """With types, ranges, what ComfyUI offers, a table, and an example that runs as it is."""
    status, document = await served.call("GET", "/docs/json")
    assert status == 200
    plain = document["paths"]["/workflow/sd/plain"]["post"]
    assert (plain["summary"], plain["tags"]) == ("A plain picture", ["Workflow endpoints"])
    assert plain["description"].startswith("Of one colour.\n\n| Field | Type | Description | Default |")
    assert "enum (`euler`, `ddim`)" in plain["description"]
    fields = _input(plain)["properties"]
    assert (fields["width"]["minimum"], fields["width"]["maximum"], fields["width"]["default"]) == (8, 512, 64)
    assert fields["sampler"]["enum"] == ["euler", "ddim"]
    assert "default" not in fields["seed"]
    for path in ("/workflow/sd/plain", "/workflow/coded"):
        sent = _schema(document["paths"][path]["post"])["example"]
        assert (await served.post(path, sent))["images"] == [served.delivery.data]


async def test_the_document_as_yaml(served: World) -> None:
    """The same one; its server is how the caller found us."""
    async with served.client.get("/docs/yaml") as answer:
        told = yaml.safe_load(await answer.text())
    assert told == (await served.call("GET", "/docs/json"))[1]
    (server,) = told["servers"]
    assert server["url"] == "{accessDomainName}"
    assert server["variables"]["accessDomainName"]["default"].startswith("http://127.0.0.1:")


async def test_tables_can_be_left_out(tmp_path: Path) -> None:
    """MARKDOWN_SCHEMA_DESCRIPTIONS=false: the file's own words."""
    (tmp_path / "coded.py").write_text(CODE)
    async with open_world(workflows=tmp_path, markdown_descriptions=False) as world:
        (operation,) = await world.dialect.endpoint_operations()
        assert (operation.summary, operation.description) == ("A file in Python.", "")


async def test_without_a_folder_there_are_none(world: World) -> None:
    """And nothing to describe."""
    assert await world.dialect.endpoint_operations() == ()


def test_examples_have_what_is_required() -> None:
    """A value of the right kind for each; what has a default is left out."""
    fields = {
        "text": {"type": "string"},
        "count": {"type": "integer", "minimum": 3},
        "share": {"type": "number"},
        "flag": {"type": "boolean"},
        "one": {"enum": ["a", "b"]},
        "fixed": {"const": 5},
        "model": {"type": "string", "anyOf": [{"enum": ["m"]}, {"pattern": "^https"}]},
        "image": {"type": "string", "x-input-file": "image"},
        "more": {"type": "object", "required": ["x"], "properties": {"x": {"type": "integer"}}},
        "list": {"type": "array", "items": {"type": "string"}},
        "free": {"type": "string", "default": "d"},
    }
    required = [name for name in fields if name != "free"]
    assert example_of({"properties": fields, "required": required}) == {
        "text": "a lighthouse at dawn",
        "count": 3,
        "share": 1.0,
        "flag": False,
        "one": "a",
        "fixed": 5,
        "model": "m",
        "image": examples.PIXEL,
        "more": {"x": 1},
        "list": [],
    }


def _schema(operation: Mapping[str, Any]) -> Any:
    return operation["requestBody"]["content"]["application/json"]["schema"]


def _input(operation: Mapping[str, Any]) -> Any:
    return _schema(operation)["allOf"][1]["properties"]["input"]
