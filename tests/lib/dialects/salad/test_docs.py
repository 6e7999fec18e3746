"""What the docs page says about the routes is so."""

import asyncio
import re
from typing import Any

import pytest
from aiohttp import hdrs
from pydantic import BaseModel

from lib.dialects.salad import examples
from lib.dialects.salad.docs import operations
from lib.dialects.salad.routes import SaladDialect
from lib.errors import ExecutionFailed, StorageFailed
from lib.serving.access import Need
from lib.serving.openapi import Answer, Operation, build

from .conftest import HOOK, REQUEST, World

OPERATIONS = {(operation.method, operation.path): operation for operation in operations()}
SHARED = {("GET", "/result/{job_id}"), ("POST", "/cancel/{job_id}")}


def plain(path: str) -> str:
    """``/workflow/{path:.+}`` is ``/workflow/{path}``."""
    return re.sub(r"\{(\w+):[^}]*\}", r"{\1}", path)


def test_every_route_is_described() -> None:
    """No more, but for what is answered about its jobs on paths of others, and no less."""
    routes = object.__new__(SaladDialect).routes()
    assert {(route.method, plain(route.path)) for route in routes} | SHARED == set(OPERATIONS)


def test_the_page_says_what_a_route_asks_of_callers() -> None:
    """As it is mounted."""
    needs = {plain(path): need for path, need in object.__new__(SaladDialect).needs().items()}
    told = {path: operation.need for (_, path), operation in OPERATIONS.items()}
    assert {path: need for path, need in told.items() if need is not Need.KEY} == needs


@pytest.mark.parametrize("title", examples.REQUESTS)
async def test_the_examples_of_the_docs_run(world: World, title: str) -> None:
    """What the page puts into its form completes as it is, and is answered as described."""
    operation = OPERATIONS[hdrs.METH_POST, "/prompt"]
    done = await world.post("/prompt", operation.examples[title])
    assert described(operation.answers[200], done)
    accepted = await world.post("/prompt", {**operation.examples[title], "webhook": HOOK}, status=202)
    assert described(operation.answers[202], accepted)
    await world.idle()


async def test_the_other_examples_run(world: World) -> None:
    """Each on its route."""
    for path, status in (("/interrupt", 404), ("/download", 202)):
        operation = OPERATIONS[hdrs.METH_POST, path]
        (sent,) = operation.examples.values()
        assert described(operation.answers[status], await world.post(path, sent, status=status))
    done = await world.post("/download", {**examples.DOWNLOAD, "wait": True})
    assert described(OPERATIONS[hdrs.METH_POST, "/download"].answers[200], done)
    await asyncio.sleep(0)


@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=lambda item: f"{item.method} {item.path}")
def test_examples_of_answers_fit_their_models(operation: Operation) -> None:
    """The one model that each has."""
    for answer in operation.answers.values():
        if answer.example is not None and answer.model is not None:
            assert described(answer, answer.example)


def test_the_document_shows_no_null() -> None:
    """What may be left out is not null where it is there, and has no such default."""
    document = build(title="t", version="1", description="", operations=list(operations()))
    schemas = document["components"]["schemas"]
    for name in ("SaladRequest", "SaladWorkflowRequest", "SaladDownload", "S3Auth", "JpegOptions", "WebpOptions"):
        for field in schemas[name]["properties"].values():
            assert "nullable" not in field
            assert field.get("default", "") is not None
    assert schemas["SaladRequest"]["required"] == ["prompt"]
    quality = schemas["JpegOptions"]["properties"]["quality"]
    assert (quality["type"], quality["minimum"], quality["maximum"], quality["default"]) == ("integer", 1, 100, 80)


def described(answer: Answer, body: Any) -> bool:
    """Whether the model that an answer names takes the body, and knows all of it."""
    assert isinstance(answer.model, type)
    _known(answer.model.model_validate(body), body)
    return True


def _known(value: Any, body: Any) -> None:
    if isinstance(value, BaseModel):
        assert body.keys() <= type(value).model_fields.keys()
        for name in body:
            _known(getattr(value, name), body[name])
    elif isinstance(value, list):
        for item, told in zip(value, body, strict=True):
            _known(item, told)


@pytest.mark.parametrize(
    ("path", "sent"),
    [
        ("/prompt", {"json": {}}),
        ("/prompt", {"data": b"{", "headers": {"Content-Type": "application/json"}}),
        ("/prompt", {"data": b"{}", "headers": {"Content-Type": "text/plain"}}),
        ("/prompt", {"json": REQUEST, "headers": {"Origin": "https://evil.example"}}),
        ("/prompt", {"json": {"prompt": {"note": "x" * 500_000}}}),
        ("/workflow/{path}", {"json": {}}),
        ("/workflows/{path}", {"json": {}}),
        ("/interrupt", {"json": {}}),
        ("/interrupt", {"json": {"id": "nobody"}}),
        ("/download", {"json": {"url": "x", "model_type": "loras"}}),
        ("/download", {"json": {**examples.DOWNLOAD, "model_type": "x"}}),
    ],
)
async def test_refusals_are_as_described(world: World, path: str, sent: dict[str, Any]) -> None:
    """Status and body of whatever goes wrong stand in the document."""
    async with world.client.post(path.replace("{path}", "a/b"), **sent) as answer:
        body = await answer.json()
    told = OPERATIONS[hdrs.METH_POST, path].answers
    assert answer.status in told, body
    assert described(told[answer.status], body)


async def test_failures_are_as_described(slow: World) -> None:
    """Of a node, of an upload, of a full queue, of an id that is in use."""
    told = OPERATIONS[hdrs.METH_POST, "/prompt"].answers
    details = {"node_id": "3", "node_type": "K", "exception_type": "E", "exception_message": "m", "traceback": ["t"]}
    for error in (ExecutionFailed("no", details=details), StorageFailed("no")):
        call = asyncio.ensure_future(slow.call("POST", "/prompt", REQUEST))
        await slow.running()
        slow.engine.finish(error)
        status, body = await call
        assert described(told[status], body)
    for number in range(5):
        await slow.post("/prompt", {**REQUEST, "id": f"n{number}", "webhook": HOOK}, status=202)
    for body, status in (({**REQUEST, "id": "n0"}, 409), (REQUEST, 503)):
        assert described(told[status], await slow.post("/prompt", body, status=status))
    for number in range(5):
        await slow.post("/interrupt", {"id": f"n{number}"})
    await slow.idle()
