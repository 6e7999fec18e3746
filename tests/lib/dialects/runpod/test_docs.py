"""What the docs page says about the routes is so."""

import asyncio
import re
from typing import Any

import pytest
from aiohttp import hdrs

from lib.dialects.runpod import examples
from lib.dialects.runpod.docs import operations
from lib.dialects.runpod.queries import PREFIX
from lib.dialects.runpod.routes import RunPodDialect
from lib.errors import ExecutionFailed
from lib.serving.access import Need
from lib.serving.openapi import Answer, Operation, build

from .conftest import World

OPERATIONS = {(operation.method, operation.path): operation for operation in operations()}


def test_every_route_is_described() -> None:
    """No more and no less."""
    routes = object.__new__(RunPodDialect).routes()
    mounted = {(route.method, re.sub(r"\{(\w+):[^}]*\}", r"{\1}", route.path)) for route in routes}
    assert mounted == set(OPERATIONS)


def test_the_page_says_what_a_route_asks_of_callers() -> None:
    """As it is mounted."""
    needs = {re.sub(r":[^}]*", "", path): need for path, need in object.__new__(RunPodDialect).needs().items()}
    told = {path: operation.need for (_, path), operation in OPERATIONS.items()}
    assert {path: need for path, need in told.items() if need is not Need.KEY} == needs


@pytest.mark.parametrize("title", examples.REQUESTS)
async def test_the_examples_of_the_docs_run(world: World, title: str) -> None:
    """What the page puts into its form completes as it is."""
    for prefix in ("", PREFIX):
        assert OPERATIONS[hdrs.METH_POST, f"{prefix}/runsync"].examples[title] == examples.REQUESTS[title]
        path = prefix.replace("{endpoint_id}", examples.ENDPOINT)
        assert (await world.post(f"{path}/runsync", examples.REQUESTS[title]))["status"] == "COMPLETED"
        assert (await world.post(f"{path}/run", examples.REQUESTS[title]))["status"] == "IN_QUEUE"
        await world.idle()


async def test_the_page_runs_from_the_top_down(world: World) -> None:
    """Every operation whose parameters have an example, in the page's order, is answered as described."""
    for operation in operations():
        ids = [item for item in operation.parameters if item.place == "path"]
        if any(item.example is None for item in ids):
            continue
        path, query = operation.path, {}
        for item in operation.parameters:
            if item.place == "path":
                path = path.replace(f"{{{item.name}}}", str(item.example))
            elif item.example is not None:
                query[item.name] = str(item.example)
        sent = {"json": next(iter(operation.examples.values()))} if operation.examples else {}
        async with world.client.request(operation.method, path, params=query, **sent) as answer:
            body = await answer.json()
        assert answer.status == 200, (operation.path, body)
        assert described(operation.answers[200], body)
        await world.idle()


@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=lambda item: f"{item.method} {item.path}")
def test_examples_of_answers_fit_their_models(operation: Operation) -> None:
    """The one model that each has."""
    for answer in operation.answers.values():
        if answer.example is not None:
            assert not isinstance(answer.model, tuple)
            assert answer.model is not None
            answer.model.model_validate(answer.example)


def test_the_document_knows_the_input() -> None:
    """``input`` is an object of a known form, or a text."""
    document = build(title="t", version="1", description="", operations=list(operations()))
    schemas = document["components"]["schemas"]
    kinds = schemas["RunPodRequest"]["properties"]["input"]["anyOf"]
    assert {"type": "string"} in kinds
    assert {"$ref": "#/components/schemas/RunPodInput"} in kinds
    assert schemas["RunPodRequest"]["required"] == ["input"]
    assert set(schemas["RunPodImage"]["required"]) == {"name", "image"}


def described(answer: Answer, body: Any) -> bool:
    """Whether the model that an answer names takes the body."""
    assert not isinstance(answer.model, tuple)
    assert answer.model is not None
    answer.model.model_validate(body)
    return True


@pytest.mark.parametrize(
    ("method", "path", "sent"),
    [
        ("POST", "/run", {"json": {}}),
        ("POST", "/runsync", {"data": b"{", "headers": {"Content-Type": "application/json"}}),
        ("POST", "/run", {"data": b"{}", "headers": {"Content-Type": "text/plain"}}),
        ("POST", "/run", {"json": examples.REQUESTS, "headers": {"Origin": "https://evil.example"}}),
        ("POST", "/run", {"json": {"input": {"note": "x" * 500_000}}}),
        ("GET", "/status/{job_id}", {}),
        ("POST", "/status/{job_id}", {}),
        ("GET", "/status/{job_id}", {"params": {"ttl": "x"}}),
        ("GET", "/status-sync/{job_id}", {"params": {"wait": "x"}}),
        ("GET", "/stream/{job_id}", {"params": {"wait": "x"}}),
        ("GET", "/stream/{job_id}", {"headers": {"Host": "evil.example"}}),
        ("POST", f"{PREFIX}/cancel/{{job_id}}", {}),
        ("POST", "/retry/{job_id}", {}),
    ],
)
async def test_refusals_are_as_described(world: World, method: str, path: str, sent: dict[str, Any]) -> None:
    """Status and body of whatever goes wrong stand in the document."""
    named = path.replace("{job_id}", "nobody").replace("{endpoint_id}", "e")
    async with world.client.request(method, named, **sent) as answer:
        body = await answer.json()
    told = OPERATIONS[method, path].answers
    assert answer.status in told, body
    assert described(told[answer.status], body)


async def test_states_are_as_described(slow: World) -> None:
    """Waiting, running, failed, stopped."""
    slow.engine.left_files = False
    told = OPERATIONS["GET", f"{PREFIX}/status/{{job_id}}"].answers[200]
    first = await slow.post("/run", next(iter(examples.REQUESTS.values())))
    second = await slow.post("/run", next(iter(examples.REQUESTS.values())))
    await slow.running()
    slow.engine.tell(percent=10.0, node_id="3")
    for job in (first, second):
        assert described(told, await slow.get(f"/status/{job['id']}"))
    await slow.post(f"/cancel/{second['id']}")
    slow.engine.finish(ExecutionFailed("no"))
    await slow.idle()
    for job in (first, second):
        assert described(told, await slow.get(f"/status/{job['id']}"))


async def test_a_worker_that_shuts_down_is_described(world: World) -> None:
    """503 with a moment to come again."""
    await asyncio.wait_for(world.service.drain(0.0), 60)
    async with world.client.post("/run", json=examples.REQUESTS["Picture without a model"]) as answer:
        body = await answer.json()
    assert (answer.status, "Retry-After" in answer.headers) == (503, True)
    assert described(OPERATIONS["POST", "/run"].answers[503], body)
