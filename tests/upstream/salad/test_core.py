"""comfyui-api's ``test/core.spec.ts``, group by group. Its pictures come from Stable Diffusion on a GPU; ours, of the
same sizes, from nodes that need none. What the groups also assert everywhere: as many ``images`` as ``filenames``, and
each picture decodes to the size asked for, in the format that its name ends with."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import pyvips

from tests.comfyui_fixture import install_record
from tests.fakes import workflows
from tests.fakes.comfyui_models import safetensors
from tests.integration.salad import (
    BUCKET,
    SYSTEM,
    Salad,
    Storages,
    decoded,
    eventually,
    fresh,
    loading,
    noise,
    text,
    verified,
)
from tests.peers.azure.azurite import CONTAINER

pytestmark = pytest.mark.comfyui
LOADERS = {"png": "pngload", "jpeg": "jpegload", "webp": "webpload"}


def txt2img(count: int = 1) -> dict[str, Any]:
    """What stands for ``txt2img.json``: so many pictures, 512x512."""
    return fresh(count, width=512, height=512)


def checked(told: dict[str, Any], count: int, size: tuple[int, int] = (512, 512)) -> list[pyvips.Image]:
    """The pictures in an answer, looked at."""
    assert len(told["images"]) == len(told["filenames"]) == count
    pictures = [decoded(base64.b64decode(image, validate=True)) for image in told["images"]]
    for picture, name in zip(pictures, told["filenames"], strict=True):
        assert (picture.width, picture.height) == size
        assert picture.get("vips-loader").startswith(LOADERS[name.rpartition(".")[2]])
    return pictures


# -- Return content in response -----------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 4])
def test_content_txt2img(server: Salad, count: int) -> None:
    """Batch of 1 and of 4."""
    checked(server.prompt(txt2img(count)), count)


def sources(places: Storages) -> dict[str, tuple[str, tuple[int, int]]]:
    """Where a picture of img2img comes from, and its size."""
    wide, small = noise(768, 768), noise(640, 480)
    jpeg = bytes(pyvips.Image.new_from_buffer(small, "").jpegsave_buffer())
    hub = places.hub.server
    hub.repo("u/up")["in.png"] = wide
    hub.repo("u/up", kind="dataset").update({"a dir/in.png": wide, "in.png": wide})
    places.s3.client().put_object(Bucket=BUCKET, Key="up/in.png", Body=wide)
    return {
        "base64 PNG": (text(wide), (768, 768)),
        "base64 JPEG": (text(jpeg), (640, 480)),
        "HTTP": (places.files.put("/up/in.png", wide, "image/png"), (768, 768)),
        "S3": (f"s3://{BUCKET}/up/in.png", (768, 768)),
        "Azure": (places.put_blob("up/in.png", wide), (768, 768)),
        "HF model": (f"{hub.endpoint}/u/up/resolve/main/in.png", (768, 768)),
        "HF dataset": (f"{hub.endpoint}/datasets/u/up/resolve/main/in.png", (768, 768)),
        "HF %20": (f"{hub.endpoint}/datasets/u/up/resolve/main/a%20dir/in.png", (768, 768)),
    }


SOURCES = ("base64 PNG", "base64 JPEG", "HTTP", "S3", "Azure", "HF model", "HF dataset", "HF %20")


@pytest.mark.parametrize("source", SOURCES)
def test_content_img2img(server: Salad, places: Storages, source: str) -> None:
    """From everywhere; upstream's Azure cases can't end (W8)."""
    value, size = sources(places)[source]
    checked(server.prompt(loading(value)), 1, size)


def test_content_two_save_nodes(server: Salad) -> None:
    """Two SaveImage nodes give two outputs."""
    graph = txt2img()
    graph["9"] = {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "other"}}
    checked(server.prompt(graph), 2)


@pytest.fixture
def loras(server: Salad, places: Storages) -> Iterator[list[str]]:
    """Models under a URL with a query, at Hugging Face, and under a plain URL; taken out of ComfyUI afterwards."""
    root = Path(str(install_record()["root"])) / "models" / "loras"
    before = set(root.iterdir())
    places.hub.server.repo("u/lora")["x/tiny.safetensors"] = safetensors(64, seed=91)
    yield [
        places.files.put("/api/models/1", safetensors(64, seed=92)) + "?type=Model&format=SafeTensor",
        f"{places.hub.server.endpoint}/u/lora/resolve/main/x/tiny.safetensors",
        places.files.put("/plain.safetensors", safetensors(64, seed=93)),
    ]
    for path in set(root.iterdir()) - before:
        path.unlink()


@pytest.mark.parametrize("count", [2, 3])
def test_content_independent_graphs(server: Salad, loras: list[str], count: int) -> None:
    """Graphs beside one another in one prompt, each with a model by URL. (Upstream's are checkpoints of gigabytes; a
    checkpoint by URL is in tests/integration/test_salad_files.py.)"""
    graph: dict[str, Any] = {}
    for number in range(count):
        one = workflows.diffusion(steps=1, seed=number)
        one["5"]["inputs"] |= {"width": 64, "height": 64}
        inputs = {"model": ["4", 0], "lora_name": loras[number], "strength_model": 1.0}
        one["10"] = {"class_type": "LoraLoaderModelOnly", "inputs": inputs}
        one["3"]["inputs"]["model"] = ["10", 0]
        graph |= {f"{number}-{key}": renamed(node, number) for key, node in one.items()}
    checked(server.prompt(graph), count, (64, 64))


def renamed(node: dict[str, Any], number: int) -> dict[str, Any]:
    """A node whose links lead into its own graph."""
    links = {
        name: [f"{number}-{value[0]}", value[1]] if isinstance(value, list) else value
        for name, value in node["inputs"].items()
    }
    return {**node, "inputs": links}


@pytest.mark.parametrize("form", ["jpeg", "webp"])
def test_content_converted(server: Salad, form: str) -> None:
    """The name ends as the format; a single frame."""
    done = server.prompt(txt2img(), convert_output={"format": form})
    (picture,) = checked(done, 1)
    assert done["filenames"][0].endswith(f".{form}")
    assert "n-pages" not in picture.get_fields()


# -- Webhook v1 ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "count"), [("one", 1), ("four", 4), ("img2img", 1)])
def test_webhook_v1(server: Salad, name: str, count: int) -> None:
    """One POST a picture; the id of the 202; name and picture belong together."""
    graph = loading(text(noise(512, 512))) if name == "img2img" else txt2img(count)
    accepted = server.prompt(graph, status=202, webhook=server.hook(f"up-v1-{name}"))
    for seen in server.told(f"up-v1-{name}", count):
        body = json.loads(seen.body)
        assert body["id"] == accepted["id"]
        checked({"images": [body["image"]], "filenames": [body["filename"]]}, 1)


# -- Webhook v2 ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 4])
def test_webhook_v2(server: Salad, count: int) -> None:
    """Exactly one POST, signed over the three headers; ``webhook-id`` is the request's id."""
    accepted = server.prompt(txt2img(count), status=202, webhook_v2=server.hook(f"up-v2-{count}"))
    (seen,) = server.told(f"up-v2-{count}")
    assert seen.headers["webhook-id"] == accepted["id"]
    checked(verified(seen), count)


def test_webhook_v2_s3(server: Salad, places: Storages) -> None:
    """With an ``s3`` block: URLs, and the object is there."""
    server.prompt(txt2img(), status=202, s3={"bucket": BUCKET, "prefix": "upv2/"}, webhook_v2=server.hook("up-v2-s3"))
    (url,) = server.verified("up-v2-s3")["images"]
    assert url.startswith("s3://") and url.endswith(".png")
    assert decoded(places.object(url)).width == 512


# -- Upload, sync and async: S3, Azure, Hugging Face, HTTP ----------------------------------------------------------


@pytest.mark.parametrize(("count", "form"), [(1, ""), (4, ""), (1, "webp"), (1, "jpeg")])
def test_s3_sync(server: Salad, places: Storages, count: int, form: str) -> None:
    """URLs of readable objects, of converted ones too (#121)."""
    extra = {"convert_output": {"format": form}} if form else {}
    done = server.prompt(txt2img(count), s3={"bucket": BUCKET, "prefix": "up-sync/", "async": False}, **extra)
    assert len(done["images"]) == len(done["filenames"]) == count
    for url in done["images"]:
        assert url.startswith(f"s3://{BUCKET}/up-sync/") and url.endswith(form or ".png")
        assert decoded(places.object(url)).width == 512


@pytest.mark.parametrize("count", [1, 4])
def test_s3_async(server: Salad, places: Storages, count: int) -> None:
    """``ok`` at once; the objects appear under the prefix."""
    block = {"bucket": BUCKET, "prefix": f"up-async-{count}/", "async": True}
    assert server.prompt(txt2img(count), status=202, s3=block)["status"] == "ok"
    eventually(lambda: len(places.keys(block["prefix"])) == count)


@pytest.mark.parametrize("count", [1, 4])
def test_azure_sync(server: Salad, places: Storages, count: int) -> None:
    """Without an ``async`` key it is synchronous; the URL has container and prefix."""
    done = server.prompt(txt2img(count), azure_blob_upload={"container": CONTAINER, "blob_prefix": f"up-{count}/"})
    assert len(places.blobs(f"up-{count}/")) == count
    for url in done["images"]:
        assert f"/{CONTAINER}/up-{count}/" in url and url.endswith(".png")


@pytest.mark.parametrize("count", [1, 4])
def test_azure_async(server: Salad, places: Storages, count: int) -> None:
    """``ok``; the blobs appear."""
    block = {"container": CONTAINER, "blob_prefix": f"up-async-{count}/", "async": True}
    assert server.prompt(txt2img(count), status=202, azure_blob_upload=block)["status"] == "ok"
    eventually(lambda: len(places.blobs(block["blob_prefix"])) == count)


@pytest.mark.parametrize("later", [False, True], ids=["sync", "async"])
def test_hugging_face(server: Salad, places: Storages, later: bool) -> None:
    """In a dataset, under a folder: URLs of its files; async, the files appear in the repository."""
    hub = places.hub.server
    files = hub.repo("u/made", kind="dataset")
    block = {"repo": "u/made", "repo_type": "dataset", "directory": f"dir-{later}", "async": later}
    done = server.prompt(txt2img(), status=202 if later else 200, hf_upload=block)
    if not later:
        assert done["images"][0].startswith(f"{hub.endpoint}/datasets/u/made/resolve/main/dir-False/")
    eventually(lambda: [name for name in files if name.startswith(f"dir-{later}/")])


@pytest.mark.parametrize("count", [1, 4])
@pytest.mark.parametrize("prefix", ["/up-http", "/up-http/some/dir"])
def test_http_sync(server: Salad, count: int, prefix: str) -> None:
    """``<url_prefix>/<file>``, retrievable; folders in the prefix too."""
    done = server.prompt(txt2img(count), http_upload={"url_prefix": server.files.url(prefix)})
    assert done["images"] == [server.files.url(f"{prefix}/{name}") for name in done["filenames"]]
    for name in done["filenames"]:
        assert decoded(server.files.files[f"{prefix}/{name}"][0]).width == 512


def test_http_async(server: Salad) -> None:
    """``ok``; the file appears."""
    block = {"url_prefix": server.files.url("/up-later"), "async": True}
    assert server.prompt(txt2img(), status=202, http_upload=block)["status"] == "ok"
    eventually(lambda: [path for path in server.files.files if path.startswith("/up-later/")])


# -- Workflow endpoints -------------------------------------------------------------------------------------------

WORKFLOW = {"prompt": "a lighthouse", "width": 256, "height": 256, "steps": 1}


def test_workflow_txt2img(server: Salad) -> None:
    """Parameters count, conversion and the first webhook too. (Upstream's other cases of this group, storages and
    sources of pictures, are in tests/integration/test_salad_workflows.py: the endpoint submits as ``/prompt`` does.)"""
    hook = server.hook("up-workflow")
    body = {"input": WORKFLOW, "convert_output": {"format": "jpeg"}, "webhook": hook}
    accepted = server.answer("/workflow/sd1.5/txt2img", body, status=202)
    (seen,) = server.told("up-workflow")
    told = json.loads(seen.body)
    assert told["id"] == accepted["id"]
    checked({"images": [told["image"]], "filenames": [told["filename"]]}, 1, (256, 256))


# -- Download endpoint --------------------------------------------------------------------------------------------


@pytest.fixture
def model(places: Storages) -> Iterator[str]:
    """The URL of a LoRA; it is taken out of ComfyUI afterwards."""
    root = Path(str(install_record()["root"])) / "models" / "loras"
    before = set(root.iterdir())
    yield places.files.put("/dl/upstreams.safetensors", safetensors(64, seed=94))
    for path in set(root.iterdir()) - before:
        path.unlink()


@pytest.mark.parametrize("extra", [{}, {"wait": False}])
def test_download_async(server: Salad, model: str, extra: dict[str, Any]) -> None:
    """202 ``started``, no size, no duration; so it is without ``wait``."""
    done = server.answer("/download", {"url": model, "model_type": "loras", **extra}, status=202)
    assert done["status"] == "started"
    assert not {"size", "duration"} & set(done)
    eventually(lambda: "upstreams.safetensors" in server.ask("GET", "/models").json()["loras"])


def test_download_sync(server: Salad, model: str) -> None:
    """200 ``completed``, its size, how long; the name is the last part of the URL."""
    done = server.answer("/download", {"url": model, "model_type": "loras", "wait": True})
    assert (done["status"], done["filename"]) == ("completed", "upstreams.safetensors")
    assert done["size"] > 0 and done["duration"] >= 0


@pytest.mark.parametrize("change", [{"model_type": "no-such-type"}, {"url": "not-a-url"}, {"url": "404"}])
def test_download_errors(server: Salad, model: str, change: dict[str, str]) -> None:
    """400 with a text for a type, a URL, a source that is none."""
    if change.get("url") == "404":
        change = {"url": server.files.url("/status/404")}
    body = {"url": model, "model_type": "loras", "filename": "x.safetensors", "wait": True, **change}
    assert isinstance(server.answer("/download", body, status=400)["error"], str)


# -- System events ------------------------------------------------------------------------------------------------


def test_system_events(server: Salad) -> None:
    """One uncached prompt, by the caller's id: exactly 1 executed, exactly 1 execution_success, progress."""
    done = server.prompt(workflows.through("HWTicks", prefix="x", seconds=0.2, ticks=5))

    def count(name: str) -> int:
        bodies = [verified(seen) for seen in server.files.told(SYSTEM)]
        mine = [body for body in bodies if body["data"].get("data", {}).get("prompt_id") == done["id"]]
        return sum(body["event"] == f"comfy.{name}" for body in mine)

    eventually(lambda: count("execution_success"))
    assert (count("executed"), count("execution_success")) == (1, 1)
    assert count("progress") >= 1
