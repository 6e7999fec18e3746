"""Salad's workflow endpoints, section 5 of its reference: ours run, are documented, change while the worker runs, and
say by name what is wrong with them. On a real ComfyUI."""

import base64
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.comfyui_fixture import RealComfyUI
from tests.integration.salad import (
    BUCKET,
    Salad,
    Storages,
    decoded,
    eventually,
    noise,
    opened,
    salad,
    storages,
    text,
)
from tests.peers.azure.azurite import CONTAINER, AzureServer, azurite_server
from tests.router.page.browser import CHROMIUM, MISSING, chromium
from tests.s3_fixture import S3Server

__all__ = ["azurite_server"]
pytestmark = pytest.mark.comfyui
CHECKPOINT = "v1-5-pruned-emaonly-fp16.safetensors"
SMALL = {"prompt": "a lighthouse", "width": 256, "height": 256, "steps": 1}
ENDPOINTS = (
    "sd1.5/txt2img",
    "sd1.5/img2img",
    "sdxl/txt2img",
    "sdxl/img2img",
    "sdxl/txt2img-with-refiner",
    "flux/txt2img",
    "flux/img2img",
)
CODE = """
from typing import Any
from pydantic import BaseModel, Field

class Request(BaseModel):
    width: int = Field(64, ge=16, le=512, description="Pixels.")
    wrong: bool = False

async def generate_workflow(request: Request) -> dict[str, Any]:
    if request.wrong:
        raise ValueError("this can't be")
    size = {"width": request.width, "height": 32, "batch_size": 1, "color": 5}
    return {
        "1": {"class_type": "EmptyImage", "inputs": size},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "plain"}},
    }
"""


@pytest.fixture(scope="module")
def places(nanio_server: S3Server, azurite_server: AzureServer) -> Iterator[Storages]:
    with storages(nanio_server, azurite_server) as made:
        yield made


@pytest.fixture(scope="module")
def api(real_comfyui: RealComfyUI, places: Storages, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Salad]:
    with salad(tmp_path_factory.mktemp("salad-workflows"), real_comfyui.base_url, places) as made:
        (folder(made) / "plain.py").write_text(CODE)
        made.process.wait_for(lambda: "plain" in mounted(made), "mounted")
        yield made


def folder(api: Salad) -> Path:
    return Path(api.process.env["WORKFLOW_DIR"])


def mounted(api: Salad) -> set[str]:
    """Names of the endpoints in the document."""
    paths = api.ask("GET", "/docs/json").json()["paths"]
    return {path.removeprefix("/workflow/") for path in paths if path.startswith("/workflow/") and "{" not in path}


def operation(api: Salad, name: str) -> dict[str, Any]:
    return dict(api.ask("GET", "/docs/json").json()["paths"][f"/workflow/{name}"]["post"])


def fields(api: Salad, name: str) -> dict[str, Any]:
    """What the document says of an endpoint's inputs."""
    schema = operation(api, name)["requestBody"]["content"]["application/json"]["schema"]
    return dict(schema["allOf"][1]["properties"]["input"]["properties"])


@pytest.mark.parametrize("name", ENDPOINTS)
def test_ours_are_documented(api: Salad, name: str) -> None:
    """Types, ranges, defaults and what ComfyUI offers now; an example; no fixed seed for everybody."""
    assert name in mounted(api)
    told = fields(api, name)
    assert told["prompt"]["type"] == "string"
    assert (told["steps"]["minimum"], told["steps"]["maximum"], told["steps"]["type"]) == (1, 100, "integer")
    assert "default" not in told["seed"]
    assert told["width"]["maximum"] == 2048
    if "sampler_name" in told:
        assert "euler" in str(told["sampler_name"])
    shown = operation(api, name)
    assert shown["summary"]
    assert "| prompt | " in shown["description"].replace("`", "")
    example = shown["requestBody"]["content"]["application/json"]["schema"]["example"]
    assert example["input"]["prompt"]


def test_what_comfyui_offers_is_in_the_document(api: Salad) -> None:
    """Checkpoints and samplers of the engine that runs."""
    told = fields(api, "sd1.5/txt2img")
    assert CHECKPOINT in str(told["checkpoint"])
    assert "dpmpp_2m" in str(told["sampler_name"])


def section(name: str) -> str:
    """Where Swagger's page has an endpoint."""
    return f"#operations-Workflow_endpoints-post_workflow_{re.sub('[^a-z0-9]', '_', name)}"


@pytest.mark.parametrize("width", [1280, 390])
async def test_the_page_in_a_browser(api: Salad, width: int) -> None:
    """It lists every endpoint; one that is opened shows its inputs in a table, bounds and samplers among them, and its
    example runs at a click."""
    if CHROMIUM is None:
        pytest.skip(MISSING)
    async with chromium() as browser:
        tab = await browser.tab()
        await tab.size(width, 1000)
        await tab.open(f"{api.process.api}/docs")
        for name in ENDPOINTS:
            await tab.until(f"document.querySelector('{section(name)}') !== null")
        await tab.click(f"{section('sd1.5/txt2img')} .opblock-summary-control")
        table = await tab.until(f"document.querySelector('{section('sd1.5/txt2img')} table')?.innerText")
        for told in ("steps\tinteger (≥ 1, ≤ 100)\tSampling steps.\t20", "dpmpp_2m", CHECKPOINT, "Required"):
            assert told in table
        plain = section("plain")
        await tab.click(f"{plain} .opblock-summary-control")
        await tab.until(f"document.querySelector('{plain} .execute') !== null")
        await tab.click(f"{plain} .execute")
        answer = await tab.until(f"document.querySelector('{plain} .live-responses-table .response')?.innerText")
        assert answer.startswith("200") and '"filenames"' in answer
        assert await tab.look("document.documentElement.scrollWidth <= innerWidth")
        assert tab.complaints == []


def test_text_to_image(api: Salad) -> None:
    """The picture, the graph, and ``input`` with defaults and the seed that was drawn."""
    done = api.answer("/workflow/sd1.5/txt2img", {"input": SMALL, "id": "wf"})
    assert list(done)[-1] == "input"
    assert (opened(done["images"][0]).width, opened(done["images"][0]).height) == (256, 256)
    assert done["filenames"] == ["wf_txt2img_00001_.png"]
    assert done["input"]["negative_prompt"] == "text, watermark"
    assert isinstance(done["input"]["seed"], int)
    assert done["prompt"]["sampler"]["inputs"]["seed"] == done["input"]["seed"]


def test_image_to_image(api: Salad, places: Storages) -> None:
    """A picture as base64, and by a URL; what is in the graph is not the file."""
    places.s3.client().put_object(Bucket=BUCKET, Key="wf/in.png", Body=noise())
    own = {"width": 64, "height": 64, "prompt": "x", "steps": 1, "denoise": 0.5}
    for image in (text(noise()), f"s3://{BUCKET}/wf/in.png"):
        done = api.answer("/workflow/sd1.5/img2img", {"input": {**own, "image": image}})
        assert opened(done["images"][0]).width == 64


def drawn(image: str, **top: Any) -> dict[str, Any]:
    """A body for our endpoint that makes a picture from a picture."""
    own = {"width": 64, "height": 64, "prompt": "x", "steps": 1, "denoise": 0.5, "image": image}
    return {"input": own, **top}


@pytest.mark.parametrize("form", ["http", "azure", "hf model", "hf dataset"])
def test_image_to_image_from_every_storage(api: Salad, places: Storages, form: str) -> None:
    """A picture of a web server, of the operator's Azure account, of repositories of both kinds."""
    hub = places.hub.server
    hub.repo("u/r")["in put/a b.png"] = hub.repo("u/d", kind="dataset")["in.png"] = noise()
    url = {
        "http": places.files.put("/wf/in.png", noise(), "image/png"),
        "azure": places.put_blob("wf/in.png", noise()),
        "hf model": f"{hub.endpoint}/u/r/resolve/main/in%20put/a%20b.png",
        "hf dataset": f"{hub.endpoint}/datasets/u/d/resolve/main/in.png",
    }[form]
    done = api.answer("/workflow/sd1.5/img2img", drawn(url))
    assert opened(done["images"][0]).width == 64
    assert done["input"]["image"] == url


@pytest.mark.parametrize("later", [False, True])
@pytest.mark.parametrize("kind", ["azure", "http", "hf"])
def test_uploads_of_an_endpoint(api: Salad, places: Storages, kind: str, later: bool) -> None:
    """The picture lies in the storage, and its URL is in the answer; at once with ``async``."""
    hub, key = places.hub.server, f"up-{kind}-{later}".lower()
    hub.repo("u/wf", kind="dataset")
    name = f"{key}_img2img_00001_.png"
    blocks: dict[str, tuple[str, dict[str, Any], str, Callable[[], bytes | None]]] = {
        "azure": (
            "azure_blob_upload",
            {"container": CONTAINER, "blob_prefix": "wf/"},
            f"{places.azure.endpoint}/{CONTAINER}/wf/{name}",
            lambda: places.blobs("wf/").get(f"wf/{name}"),
        ),
        "http": (
            "http_upload",
            {"url_prefix": places.files.url("/wf")},
            places.files.url(f"/wf/{name}"),
            lambda: places.files.files.get(f"/wf/{name}", (None,))[0],
        ),
        "hf": (
            "hf_upload",
            {"repo": "u/wf", "repo_type": "dataset", "directory": "d"},
            f"{hub.endpoint}/datasets/u/wf/resolve/main/d/{name}",
            lambda: hub.repo("u/wf", kind="dataset").get(f"d/{name}"),
        ),
    }
    field, block, url, stored = blocks[kind]
    body = drawn(text(noise()), id=key, **{field: {**block, "async": later}})
    done = api.answer("/workflow/sd1.5/img2img", body, status=202 if later else 200)
    assert done["status"] == "ok" if later else done["images"] == [url]
    assert decoded(eventually(stored)).width == 64


def test_both_paths_and_all_fields(api: Salad, places: Storages) -> None:
    """``/workflows`` too; conversion, uploads and webhooks as of ``/prompt``; the webhook is told no ``input``."""
    body: dict[str, Any] = {"input": {"width": 48}, "convert_output": {"format": "webp"}}
    done = api.answer("/workflows/plain", body | {"s3": {"bucket": BUCKET, "prefix": "wf/"}, "id": "all"})
    assert done["images"] == [f"s3://{BUCKET}/wf/all_plain_00001_.webp"]
    assert done["input"] == {"width": 48, "wrong": False}
    accepted = api.answer("/workflow/plain", body | {"webhook_v2": api.hook("wf")}, status=202)
    assert (accepted["status"], accepted["input"]) == ("ok", {"width": 48, "wrong": False})
    told = api.verified("wf")
    assert base64.b64decode(told["images"][0]).startswith(b"RIFF")
    assert "input" not in told and told["prompt"]["1"]["inputs"]["width"] == 48


@pytest.mark.parametrize(
    ("given", "said", "place"),
    [
        ({"input": {"width": 5}}, "16", "input.width"),
        ({"input": {"width": "64"}}, "integer", "input.width"),
        ({}, "", "input"),
        ({"input": {"wrong": True}}, "Failed to generate workflow prompt: this can't be", "input"),
    ],
)
def test_wrong_inputs(api: Salad, given: dict[str, Any], said: str, place: str) -> None:
    """400 with the reason and its place."""
    answer = api.answer("/workflow/plain", given, status=400)
    assert said in answer["error"]
    assert answer["location"] == place


def test_an_option_that_comfyui_lacks(api: Salad) -> None:
    """Refused by name, before ComfyUI sees it."""
    answer = api.answer("/workflow/sd1.5/txt2img", {"input": {**SMALL, "sampler_name": "magic"}}, status=400)
    assert answer["location"] == "input.sampler_name"


def test_no_such_endpoint(api: Salad) -> None:
    """404 in Fastify's words, as for any route."""
    answer = api.answer("/workflow/nothing/here", {"input": {}}, status=404)
    assert answer == {"message": "Route POST:/workflow/nothing/here not found", "error": "Not Found", "statusCode": 404}


def test_hot_reload(api: Salad) -> None:
    """A file that comes, changes and goes does so at once, in routes and document."""
    path = folder(api) / "later" / "made.py"
    path.parent.mkdir(exist_ok=True)
    path.write_text(CODE)
    api.process.wait_for(lambda: "later/made" in mounted(api), "mounted")
    assert opened(api.answer("/workflow/later/made", {"input": {}})["images"][0]).width == 64
    path.write_text(CODE.replace("Field(64,", "Field(80,"))
    api.process.wait_for(lambda: fields(api, "later/made")["width"]["default"] == 80, "changed")
    assert opened(api.answer("/workflow/later/made", {"input": {}})["images"][0]).width == 80
    path.unlink()
    api.process.wait_for(lambda: "later/made" not in mounted(api), "gone")
    api.answer("/workflow/later/made", {"input": {}}, status=404)


def test_files_that_are_wrong(api: Salad) -> None:
    """Named at /health, each with what to do; the others don't mind."""
    (folder(api) / "broken.py").write_text("def generate_workflow(:\n")
    (folder(api) / "old.ts").write_text("export default { RequestSchema, generateWorkflow };\n")
    named = lambda: str(api.process.health().get("workflow_problems"))  # noqa: E731
    try:
        api.process.wait_for(lambda: mounted(api) and "broken.py" in named() and "old.ts" in named(), "named")
        assert "python -m lib.workflow" in named()
        assert api.answer("/workflow/plain", {"input": {}})["images"]
        assert api.ask("GET", "/ready").status_code == 200
    finally:
        for name in ("broken.py", "old.ts"):
            (folder(api) / name).unlink()
    api.process.wait_for(lambda: mounted(api) and named() == "[]", "well again")
