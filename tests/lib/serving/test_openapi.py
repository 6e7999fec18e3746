"""The OpenAPI document and the docs page."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, Field

from lib.serving.access import Need
from lib.serving.application import Site
from lib.serving.docs_page import Docs
from lib.serving.openapi import Answer, Operation, Parameter, build
from lib.serving.schemas import to_3_0

from .conftest import Serve


class Inner(BaseModel):
    """Something nested."""

    examples: str
    kind: Literal["only"]


class Asked(BaseModel):
    """A request body."""

    number: Annotated[float, Field(gt=0)] = 1
    maybe: int | None = None
    inner: Inner | None = None
    either: int | str | None = None
    described: Inner = Field(description="text beside a reference", examples=[{"examples": "a", "kind": "only"}])


OPERATION = Operation(
    method="POST",
    path="/jobs/{job_id}",
    tag="Jobs",
    summary="Do it",
    request=Asked,
    examples={"one": {"number": 2}, "two": {"number": 3}},
    parameters=[Parameter(name="job_id", place="path", description="which")],
    answers={
        200: Answer(description="done", model=Inner),
        503: Answer(description="later", headers={"Retry-After": "s"}),
    },
)


def document() -> dict[str, Any]:
    """A document with one operation."""
    return build(title="T", version="1", description="D", operations=[OPERATION])


def walk(value: Any) -> list[dict[str, Any]]:
    """All objects of a JSON value."""
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [*([value] if isinstance(value, dict) else []), *(found for child in children for found in walk(child))]


def test_every_reference_leads_somewhere() -> None:
    """Models and nested models are in the components."""
    made = document()
    references = {item["$ref"] for item in walk(made) if isinstance(item.get("$ref"), str)}
    assert references == {f"#/components/schemas/{name}" for name in ("Asked", "Inner", "Trouble")}
    assert set(made["components"]["schemas"]) == {"Asked", "Inner", "Trouble"}


def test_nothing_newer_than_3_0_is_left() -> None:
    """The bundled page shows OpenAPI 3.0 only: no null type, no const, no numeric exclusive bounds."""
    made = document()
    assert made["openapi"] == "3.0.3"
    properties = made["components"]["schemas"]["Asked"]["properties"]
    assert properties["number"]["exclusiveMinimum"] is True
    assert properties["number"]["minimum"] == 0
    assert (properties["maybe"]["type"], properties["maybe"]["nullable"]) == ("integer", True)
    assert properties["inner"]["allOf"] == [{"$ref": "#/components/schemas/Inner"}]
    assert len(properties["either"]["anyOf"]) == 2
    assert properties["described"]["example"] == {"examples": "a", "kind": "only"}
    assert "$ref" not in properties["described"]
    inner = made["components"]["schemas"]["Inner"]["properties"]
    assert inner["examples"]["type"] == "string"
    assert inner["kind"]["enum"] == ["only"]
    for item in walk(made["components"]):
        assert item.get("type") != "null"


@pytest.mark.parametrize("schema", [True, {"type": "array", "prefixItems": [{"type": "string"}]}])
def test_other_forms_are_rewritten(schema: Any) -> None:
    """Booleans stay, tuples become arrays."""
    assert to_3_0(schema) in (True, {"type": "array", "items": {"anyOf": [{"type": "string"}]}})


def test_an_operation_is_described_whole() -> None:
    """Parameters, examples and answers; the first example fills the page's form."""
    described = document()["paths"]["/jobs/{job_id}"]["post"]
    assert described["parameters"][0]["required"] is True
    content = described["requestBody"]["content"]["application/json"]
    assert set(content["examples"]) == {"one", "two"}
    assert content["schema"]["example"] == {"number": 2}
    assert described["responses"]["200"]["content"]["application/json"]["schema"]["$ref"].endswith("/Inner")
    assert "Retry-After" in described["responses"]["503"]["headers"]


def test_the_ways_in_are_told() -> None:
    """Free routes ask for nothing; the others for a key, a job's also take its token; only where keys are required
    there is no way without."""
    keys = [{"bearer": []}, {"key": []}]
    routes = {
        ("/free", Need.FREE): ([], []),
        ("/jobs", Need.KEY): ([{}, *keys], keys),
        ("/jobs", Need.SUBMIT): ([{}, *keys], keys),
        ("/metrics", Need.ADMIN): ([{}, *keys], keys),
        ("/jobs/{job_id}", Need.KEY): ([{}, *keys, {"job_token": []}], [*keys, {"job_token": []}]),
        ("/outputs/{job_id}", Need.LINK): ([{}, *keys, {"job_token": []}], [{}, *keys, {"job_token": []}]),
    }
    for (path, need), wanted in routes.items():
        operation = Operation(method="GET", path=path, tag="T", summary="s", need=need)
        for required, security in zip((False, True), wanted, strict=True):
            made = build(title="T", version="1", description="D", operations=[operation], keys_required=required)
            assert made["paths"][path]["get"]["security"] == security, (path, need)
            assert {name for way in security for name in way} <= set(made["components"]["securitySchemes"])


def test_a_refused_key_is_told_how_to_show_one() -> None:
    """Every 401 has its header, whoever described it; free routes have no 401."""
    own = {401: Answer(description="mine", headers={"X-Mine": "m"})}
    for answers, wanted in (({}, {"WWW-Authenticate"}), (own, {"WWW-Authenticate", "X-Mine"})):
        operation = Operation(method="GET", path="/a", tag="T", summary="s", answers=answers)
        made = build(title="T", version="1", description="D", operations=[operation])
        assert set(made["paths"]["/a"]["get"]["responses"]["401"]["headers"]) == wanted
    free = Operation(method="GET", path="/a", tag="T", summary="s", need=Need.FREE)
    made = build(title="T", version="1", description="D", operations=[free])
    assert "401" not in made["paths"]["/a"]["get"]["responses"]


def test_operations_have_names_of_their_own() -> None:
    """For programs that make clients from the document."""
    paths = [("GET", "/jobs"), ("GET", "/jobs/{job_id}"), ("POST", "/jobs")]
    operations = [Operation(method=method, path=path, tag="T", summary="s") for method, path in paths]
    made = build(title="T", version="1", description="D", operations=operations)["paths"]
    names = [made[path][method.lower()]["operationId"] for method, path in paths]
    assert names == ["get_jobs", "get_jobs_job_id", "post_jobs"]


def test_lists_in_queries_are_comma_lists() -> None:
    """``a,b``, not the name twice."""
    listed = Parameter(name="status", place="query", description="d", schema={"type": "array", "items": {}})
    operation = Operation(method="GET", path="/a", tag="T", summary="s", parameters=[listed])
    made = build(title="T", version="1", description="D", operations=[operation])
    (parameter,) = made["paths"]["/a"]["get"]["parameters"]
    assert (parameter["explode"], parameter["allowEmptyValue"]) == (False, True)


async def shown() -> Mapping[str, Any]:
    """The document, as the page asks for it."""
    return document()


async def test_the_page_needs_nothing_from_outside(serve: Serve) -> None:
    """Page, script, style and document come from us; the page may load nothing else."""
    site = Site(max_body_bytes=1)
    site.mount(Docs(shown).routes(), owner="docs")
    client = (await serve(site)).client
    page = await client.get("/")
    assert page.url.path == "/docs"
    text = await page.text()
    policy = page.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "img-src 'self' data: blob:" in policy, "a picture that a route answers with is shown"
    assert "://" not in text
    for path in re.findall(r'(?:href|src)="([^"]+)"', text):
        asset = await client.get(f"/{path}")
        assert asset.status == 200, path
        assert await asset.read()
        if path.endswith(".js"):
            assert asset.content_type == "text/javascript"
    assert (await (await client.get("/openapi.json")).json())["info"]["title"] == "T"


@pytest.mark.parametrize("name", ["../lib/settings.py", "%2e%2e%2fsettings.py", "index.html", "swagger-ui.js.map"])
async def test_only_listed_assets_are_served(serve: Serve, name: str) -> None:
    """No way to other files."""
    site = Site(max_body_bytes=1)
    site.mount(Docs(shown).routes(), owner="docs")
    assert (await (await serve(site)).client.get(f"/docs/{name}")).status == 404
