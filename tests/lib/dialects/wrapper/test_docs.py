"""What the docs page says about the routes is so."""

import asyncio
import re
from typing import Any

import pytest
from aiohttp import hdrs

from lib.dialects.wrapper import examples
from lib.dialects.wrapper.docs import operations
from lib.dialects.wrapper.routes import WrapperDialect
from lib.serving.access import Need
from lib.serving.openapi import Answer, Operation, build

from .conftest import World

OPERATIONS = {(operation.method, operation.path): operation for operation in operations()}


def test_every_route_is_described() -> None:
    """No more and no less."""
    routes = object.__new__(WrapperDialect).routes()
    mounted = {(route.method, re.sub(r"\{(\w+):[^}]*\}", r"{\1}", route.path)) for route in routes}
    assert mounted == set(OPERATIONS)


def test_the_page_says_what_a_route_asks_of_callers() -> None:
    """As it is mounted."""
    needs = object.__new__(WrapperDialect).needs()
    told = {path: operation.need for (_, path), operation in OPERATIONS.items()}
    assert {path: need for path, need in told.items() if need is not Need.KEY} == needs


@pytest.mark.parametrize("title", examples.REQUESTS)
async def test_the_examples_of_the_docs_run(world: World, title: str) -> None:
    """What the page puts into its form completes as it is, on each route."""
    for path, status in (("/generate/sync", 200), ("/generate", 202), ("/generate/stream", 200)):
        assert OPERATIONS[hdrs.METH_POST, path].examples[title] == examples.REQUESTS[title]
        answer = await world.post(examples.REQUESTS[title], path)
        assert (answer.status, "failed" in await answer.text()) == (status, False)


@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=lambda operation: operation.path)
def test_examples_of_answers_fit_their_models(operation: Operation) -> None:
    """The first model, where there are several."""
    for answer in operation.answers.values():
        if isinstance(answer.model, tuple):
            answer.model[0].model_validate(answer.example)
        elif answer.model is not None and answer.example is not None:
            answer.model.model_validate(answer.example)


def test_the_document_has_every_form_of_a_request() -> None:
    """JSON with its examples, and multipart."""
    paths = build(title="t", version="1", description="", operations=list(operations()))["paths"]
    content = paths["/generate"]["post"]["requestBody"]["content"]
    assert set(content) == {"application/json", "multipart/form-data"}
    assert set(content["application/json"]["examples"]) == set(examples.REQUESTS)
    responses = paths["/generate/stream"]["post"]["responses"]
    assert set(responses["200"]["content"]) == {"text/event-stream"}
    assert len(responses["422"]["content"]["application/json"]["schema"]["anyOf"]) == 2


def described(answer: Answer, body: Any) -> bool:
    """Whether one of the models that an answer names takes the body."""
    models = answer.model if isinstance(answer.model, tuple) else (answer.model,)
    for model in models:
        if model is None:
            continue
        try:
            model.model_validate(body)
        except ValueError:
            continue
        return True
    return False


@pytest.mark.parametrize(
    ("method", "path", "sent"),
    [
        ("POST", "/generate", {"json": {}}),
        ("POST", "/generate", {"json": {"input": {"workflow_json": {"1": {"class_type": "A"}}}}}),
        ("POST", "/generate", {"data": b"{", "headers": {"Content-Type": "application/json"}}),
        ("POST", "/generate", {"data": b"{}", "headers": {"Content-Type": "text/plain"}}),
        ("POST", "/generate", {"json": examples.REQUESTS, "headers": {"Origin": "https://evil.example"}}),
        ("POST", "/generate", {"json": {"input": {"note": "x" * 500_000}}}),
        ("GET", "/result/{job_id}", {}),
        ("GET", "/result/{job_id}", {"params": {"wait": "x"}}),
        ("GET", "/result/{job_id}", {"headers": {"Host": "evil.example"}}),
        ("POST", "/cancel/{job_id}", {}),
        ("GET", "/generate/stream/{job_id}", {}),
        ("GET", "/queue-info", {}),
    ],
)
async def test_refusals_are_as_described(world: World, method: str, path: str, sent: dict[str, Any]) -> None:
    """Status and body of whatever goes wrong stand in the document."""
    answer = await world.client.request(method, path.replace("{job_id}", "nobody"), **sent)
    told = OPERATIONS[method, path].answers
    assert answer.status in told
    assert described(told[answer.status], await answer.json()), await answer.text()


async def test_a_worker_that_shuts_down_is_described(world: World) -> None:
    """503 with a moment to come again."""
    await asyncio.wait_for(world.service.drain(0.0), 60)
    answer = await world.post(examples.REQUESTS["Picture without a model"], "/generate")
    told = OPERATIONS[hdrs.METH_POST, "/generate"].answers
    assert (answer.status, "Retry-After" in answer.headers) == (503, True)
    assert described(told[503], await answer.json())
