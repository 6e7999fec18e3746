"""lib.comfy.inputs: inputs are brought in and placed, unsafe ones refused, placeholders drawn. Hosts are real."""

import asyncio
import base64
import threading
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from lib.comfy.ports import Folders
from lib.errors import EngineUnreachable, InputFetchFailed, UnsafeInput
from lib.jobs.model import Credential, Job, NamedInput
from tests.comfyui_fixture import RealComfyUI
from tests.fakes.comfy_server import OwnedServer
from tests.fakes.engine_world import Recorder, engine_world
from tests.fakes.http_hosts import WebHost, png
from tests.fakes.input_bench import JOB, Bench, node


def owned(owner: str, credentials: tuple[Credential, ...] = ()) -> Job:
    return JOB.with_(spec=replace(JOB.spec, owner=owner, credentials=credentials))


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    files = {"/a.png": (png(shade=1), "image/png"), "/b.png": (png(shade=2), "image/png")}
    async with WebHost(files=files) as host, AsyncExitStack() as stack:
        yield Bench(tmp_path, host, stack)


async def test_a_url_becomes_a_file_in_the_input_folder(bench: Bench) -> None:
    """The name is the content's; the caller's graph is untouched; the echo shows the local name, never the URL."""
    folder = bench.engine()
    graph = {"1": node("LoadImage", image=bench.url("/a.png?sig=secret")), "2": node("X", text=bench.url("/a.png"))}
    prepared = await bench.prepare(graph)
    name = prepared.graph["1"]["inputs"]["image"]
    assert (folder / name).read_bytes() == png(shade=1)
    assert name.startswith("pyworker/") and name.endswith(".png")
    cached = prepared.files[0].path
    assert prepared.fetched_inputs == (str(folder / name), cached)
    assert prepared.caller_graph["1"]["inputs"]["image"] == name
    assert prepared.graph["2"]["inputs"]["text"] == bench.url("/a.png")
    assert graph["1"]["inputs"]["image"].endswith("sig=secret")


async def test_every_engine_gets_the_file_under_one_name(bench: Bench) -> None:
    """A job may run on any of them; engines that share a folder get it once."""
    first, second = bench.engine("a"), bench.engine("b")
    bench.engine("a")
    prepared = await bench.prepare({"1": node("MyLoader", clip=bench.url("/a.png"))})
    name = prepared.graph["1"]["inputs"]["clip"]
    assert (first / name).is_file() and (second / name).is_file()
    assert sorted(prepared.fetched_inputs[:2]) == [str(first / name), str(second / name)]


async def test_an_engine_without_file_access_gets_an_upload(bench: Bench) -> None:
    """To the same name, by ComfyUI's own route; one that is down is left out."""
    got: dict[str, bytes] = {}

    async def upload(request: web.Request) -> web.Response:
        form = await request.post()
        image = form["image"]
        assert isinstance(image, web.FileField) and form["type"] == "input" and form["overwrite"] == "true"
        got[f"{form['subfolder']}/{image.filename}"] = image.file.read()
        return web.json_response({"name": image.filename, "subfolder": form["subfolder"], "type": "input"})

    app = web.Application()
    app.router.add_post("/upload/image", upload)
    async with TestServer(app) as server:
        bench.engine("far", shared=False, base_url=str(server.make_url("")).rstrip("/"))
        bench.engine("down", shared=False)
        bench.servers[1].down_reason = "crashed"
        prepared = await bench.prepare({"1": node("LoadImage", image=bench.url("/a.png"))})
    assert got == {prepared.graph["1"]["inputs"]["image"]: png(shade=1)}
    assert prepared.fetched_inputs == (prepared.files[0].path,)


async def test_an_upload_that_fails_is_the_engines_fault(bench: Bench) -> None:
    """Not the caller's: another worker may do better. None up at all: the same."""
    bench.engine("far", shared=False)
    with pytest.raises(EngineUnreachable):
        await bench.prepare({"1": node("LoadImage", image=bench.url("/a.png"))})
    bench.servers[0].down_reason = "crashed"
    with pytest.raises(EngineUnreachable):
        await bench.prepare({"1": node("LoadImage", image=bench.url("/a.png"))})


PNG_BASE64 = base64.b64encode(png(shade=3)).decode()


@pytest.mark.parametrize(
    "value",
    [
        PNG_BASE64,
        f"data:image/png;base64,{PNG_BASE64}",
        PNG_BASE64.rstrip("=").replace("+", "-").replace("/", "_"),
        f"DATA:image/png;base64,{PNG_BASE64[:40]}\n{PNG_BASE64[40:]}",
    ],
)
async def test_inline_files_are_taken(bench: Bench, value: str) -> None:
    """A data URI, or plain base64 in either alphabet."""
    folder = bench.engine()
    prepared = await bench.prepare({"1": node("LoadImage", image=value)})
    assert (folder / prepared.graph["1"]["inputs"]["image"]).read_bytes() == png(shade=3)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("data:image/png;base64,@@@", "not_base64"),
        ("data:image/png;base64", "not_base64"),
        ("data:text/html,<html></html>", "not_media"),
        ("data:image/png;base64," + "A" * (2 << 20), "too_large"),
        (base64.b64encode(png() + b"\0" * (2 << 20)).decode(), "too_large"),
    ],
)
async def test_inline_files_that_are_none_are_refused(bench: Bench, value: str, reason: str) -> None:
    """With the field and the reason."""
    bench.engine()
    with pytest.raises(InputFetchFailed) as caught:
        await bench.prepare({"1": node("LoadImage", image=value)})
    assert caught.value.details["field"] == "workflow.1.inputs.image"
    assert caught.value.details["reason"] == reason


async def test_a_name_without_a_dot_is_no_base64(bench: Bench) -> None:
    """Folders and odd names stay names; only a known kind of file makes it inline data."""
    bench.engine()
    name = "abcdefghijklmnopqrstuvwxyz012345"
    prepared = await bench.prepare({"1": node("LoadImage", image=name)})
    assert prepared.graph["1"]["inputs"]["image"] == name


async def test_a_picture_field_refuses_other_media(bench: Bench) -> None:
    """Said before ComfyUI would fail on it, naming the field."""
    bench.engine()
    bench.host.files["/a.mp3"] = (b"ID3\x03\x00\x00\x00\x00\x00\x00" + b"\0" * 64, "audio/mpeg")
    with pytest.raises(InputFetchFailed) as caught:
        await bench.prepare({"1": node("LoadImage", image=bench.url("/a.mp3"))})
    assert caught.value.details["reason"] == "wrong_kind"


async def test_one_bad_url_of_many_fails_the_job_with_its_own_error(bench: Bench) -> None:
    """Not a group of errors."""
    bench.engine()
    graph = {str(number): node("LoadImage", image=bench.url(f"/{number}.png")) for number in range(12)}
    with pytest.raises(InputFetchFailed, match=r"workflow\.\d+\.inputs\.image: host .* status 404"):
        await bench.prepare(graph)


@pytest.mark.parametrize("url", ["http://169.254.169.254/latest", "http://127.0.0.1:1/x", "s3://bucket/key"])
async def test_private_and_foreign_urls_are_refused(bench: Bench, url: str) -> None:
    """The guard is the fetcher's; its error comes through with the field."""
    bench.engine()
    with pytest.raises((UnsafeInput, InputFetchFailed)) as caught:
        await bench.prepare({"1": node("LoadImage", image=url)})
    assert caught.value.details["field"] == "workflow.1.inputs.image"


async def test_unsafe_names_are_refused_and_windows_names_made_ours(bench: Bench) -> None:
    """In loader fields only: a text keeps its backslashes."""
    bench.engine()
    with pytest.raises(UnsafeInput):
        await bench.prepare({"1": node("LoadImage", image="../../secret.png")})
    prepared = await bench.prepare({"1": node("LoadImage", image="a\\b.png"), "2": node("X", text="a\\b ../x")})
    assert prepared.graph["1"]["inputs"]["image"] == "a/b.png"
    assert prepared.graph["2"]["inputs"]["text"] == "a\\b ../x"


async def test_a_list_of_urls_becomes_a_folder(bench: Bench) -> None:
    """Files keep their order; another list is another folder."""
    folder = bench.engine()
    urls = [bench.url("/b.png"), bench.url("/a.png")]
    prepared = await bench.prepare({"1": node("VHS_LoadImages", directory=urls)})
    name = prepared.graph["1"]["inputs"]["directory"]
    files = sorted((folder / name).iterdir())
    assert [file.read_bytes() for file in files] == [png(shade=2), png(shade=1)]
    turned = await bench.prepare({"1": node("VHS_LoadImages", directory=urls[::-1])})
    assert turned.graph["1"]["inputs"]["directory"] != name


async def test_a_node_that_reads_a_path_gets_one_where_all_engines_share_the_folder(bench: Bench) -> None:
    """Elsewhere it is refused: the node would fetch the URL itself, unguarded."""
    folder = bench.engine("a")
    bench.engine("a")
    prepared = await bench.prepare({"1": node("VHS_LoadVideoPath", video=bench.url("/a.png"))})
    path = Path(prepared.graph["1"]["inputs"]["video"])
    assert path.is_file() and path.parent == folder / "pyworker"
    bench.engine("b")
    with pytest.raises(UnsafeInput, match="VHS_LoadVideoPath"):
        await bench.prepare({"1": node("VHS_LoadVideoPath", video=bench.url("/a.png"))})


async def test_three_d_files_lie_where_their_loader_looks(bench: Bench) -> None:
    """ComfyUI lists ``3d/`` below its input folder."""
    folder = bench.engine()
    bench.host.files["/m.glb"] = (b"glTF\x02\0\0\0" + b"\0" * 32, "model/gltf-binary")
    prepared = await bench.prepare({"1": node("Load3D", model_file=bench.url("/m.glb"))})
    name = prepared.graph["1"]["inputs"]["model_file"]
    assert name.startswith("3d/pyworker/") and (folder / name).is_file()


async def test_with_urls_anywhere_the_wrappers_rule_holds(bench: Bench) -> None:
    """``INPUT_URLS=any``: every string that is a URL is fetched, wherever it stands."""
    folder = bench.engine()
    graph = {"1": node("X", deep=[{"picture": bench.url("/a.png")}], text=f"see {bench.url('/a.png')}")}
    prepared = await bench.prepare(graph, input_urls="any")
    assert (folder / prepared.graph["1"]["inputs"]["deep"][0]["picture"]).is_file()
    assert prepared.graph["1"]["inputs"]["text"] == graph["1"]["inputs"]["text"]


async def test_urls_come_before_placeholders(bench: Bench) -> None:
    """A token inside a URL is fetched as it is written; seeds are drawn, and the echo shows them."""
    bench.engine()
    bench.host.files["/__RANDOM_INT__.png"] = (png(), "image/png")
    graph = {
        "1": node("LoadImage", image=bench.url("/__RANDOM_INT__.png")),
        "2": node("KSampler", seed="__RANDOM_INT__", name="x-__RANDOM_INT__"),
    }
    prepared = await bench.prepare(graph)
    assert bench.host.seen[0].path == "/__RANDOM_INT__.png"
    seed = prepared.graph["2"]["inputs"]["seed"]
    assert isinstance(seed, int) and 0 <= seed < 2**32
    assert prepared.caller_graph["2"]["inputs"]["seed"] == seed
    assert graph["2"]["inputs"]["seed"] == "__RANDOM_INT__"


async def test_an_uploaded_file_is_placed_like_any_other(bench: Bench) -> None:
    """By its reference, for its owner only; its path is kept with the job."""
    folder = bench.engine()

    async def sent() -> AsyncIterator[bytes]:
        yield png(shade=6)

    await bench.prepare({"1": node("X")})
    reference = await bench.uploads.save(sent(), "a.png", "ann")
    graph = {"1": node("LoadImage", image=reference)}
    prepared = await bench.prepare(graph, job=owned("ann"))
    assert (folder / prepared.graph["1"]["inputs"]["image"]).read_bytes() == png(shade=6)
    with pytest.raises(InputFetchFailed, match=r"workflow\.1\.inputs\.image: .* upload it again"):
        await bench.prepare(graph, job=owned("bob"))


async def test_credentials_of_the_job_are_used_for_its_urls(bench: Bench) -> None:
    """They reach the decision with the tenant; what is refused names the field and tells no secret."""
    bench.engine()
    keys = {"access_key_id": "id", "secret_access_key": "hush", "endpoint_url": "http://127.0.0.1:9"}
    given = (Credential(kind="s3", pattern="s3://mine/*", values=keys),)
    graph = {"1": node("LoadImage", image="s3://mine/a.png")}
    with pytest.raises(UnsafeInput, match="private") as caught:
        await bench.prepare(graph, job=owned("ann", given))
    assert caught.value.details["field"] == "workflow.1.inputs.image"
    assert "hush" not in caught.value.message
    with pytest.raises(InputFetchFailed, match="give credentials of kind s3"):
        await bench.prepare(graph, job=owned("ann"))


async def test_a_job_that_is_prepared_again_is_the_same_job(bench: Bench) -> None:
    """After a restart: the same draws, and the file that it had, although its URL has expired."""
    bench.engine()
    bench.rng = None
    graph = {"1": node("LoadImage", image=bench.url("/a.png")), "2": node("KSampler", seed="__RANDOM_INT__")}
    first = await bench.prepare(graph)
    del bench.host.files["/a.png"]
    again = await bench.prepare(graph, job=JOB.with_(inputs=first.fetched_inputs))
    assert again.graph == first.graph
    with pytest.raises(InputFetchFailed, match="404"):
        await bench.prepare(graph, job=JOB.with_(job_id="another"))


async def test_paths_of_models_are_written_as_comfyui_lists_them(bench: Bench) -> None:
    """A graph that was saved on Windows runs here."""
    bench.engine()
    bench.options["CheckpointLoaderSimple", "ckpt_name"] = ("SDXL/a.safetensors",)
    prepared = await bench.prepare(
        {
            "1": node("CheckpointLoaderSimple", ckpt_name="SDXL\\a.safetensors"),
            "2": node("CLIPTextEncode", text="a \\(cat\\)"),
        }
    )
    assert prepared.caller_graph["1"]["inputs"]["ckpt_name"] == "SDXL/a.safetensors"
    assert prepared.graph["2"]["inputs"]["text"] == "a \\(cat\\)"


async def test_a_jpeg_as_base64_is_no_path(bench: Bench) -> None:
    """It begins with a slash."""
    folder = bench.engine()
    jpeg = b"\xff\xd8\xff\xe0\x00\x10JFIF\x00\x01" + bytes(200)
    value = base64.b64encode(jpeg).decode()
    assert value.startswith("/9j/")
    prepared = await bench.prepare({"1": node("LoadImage", image=value)})
    assert (folder / prepared.graph["1"]["inputs"]["image"]).read_bytes() == jpeg


async def test_a_file_that_is_there_is_used_again_and_a_damaged_one_replaced(bench: Bench) -> None:
    """Use renews its age, for the clean-up."""
    folder = bench.engine()
    graph = {"1": node("LoadImage", image=bench.url("/a.png"))}
    path = folder / (await bench.prepare(graph)).graph["1"]["inputs"]["image"]
    path.unlink()
    path.write_bytes(b"half")
    await bench.prepare(graph)
    assert path.read_bytes() == png(shade=1)
    assert not list(path.parent.glob(".*"))


@pytest.mark.comfyui
@pytest.mark.parametrize("shared", [True, False])
async def test_a_real_comfyui_accepts_what_was_placed(bench: Bench, real_comfyui: RealComfyUI, shared: bool) -> None:
    """Linked into its folder or uploaded: the loaders of its own find the names valid."""
    folders = Folders(output=real_comfyui.output, input=real_comfyui.input)
    bench.servers.append(OwnedServer(real_comfyui.base_url, folders=folders if shared else None))
    bench.host.files["/c.png"] = (png(shade=10 + shared), "image/png")
    url = bench.url("/c.png")
    prepared = await bench.prepare(
        {
            "1": node("LoadImage", image=url),
            "2": node("LoadImageMask", image=url, channel="alpha"),
            "3": node("PreviewImage", images=["1", 0]),
            "4": node("MaskPreview", mask=["2", 0]),
        }
    )
    assert (real_comfyui.input / prepared.graph["1"]["inputs"]["image"]).read_bytes() == png(shade=10 + shared)
    body = {"prompt": prepared.graph}
    async with aiohttp.ClientSession() as http, http.post(f"{real_comfyui.base_url}/prompt", json=body) as response:
        answer = await response.json()
    assert (response.status, answer.get("node_errors")) == (200, {})


def with_files(*given: tuple[str, str], **changes: Any) -> Job:
    """A job whose request brings these files: names and values."""
    named = tuple(
        NamedInput(name=name, value=value, field=f"images[{index}].image") for index, (name, value) in enumerate(given)
    )
    return JOB.with_(spec=replace(JOB.spec, files=named, **changes))


async def test_a_requests_own_files_replace_every_input_that_names_them(bench: Bench) -> None:
    """By URL, base64 or data URI; in any node; the echo shows the caller's own names."""
    folder = bench.engine()
    graph = {
        "1": node("LoadImage", image="photo.png"),
        "2": node(
            "Anything", where="sub\\scan.png", row={"file": "data.jpg"}, text="a photo.png", seed="__RANDOM_INT__"
        ),
        "3": node("SaveImage", filename_prefix="photo.png", images=["1", 0]),
    }
    data = f"data:image/png;base64,{PNG_BASE64}"
    job = with_files(("photo.png", bench.url("/a.png")), ("sub/scan.png", PNG_BASE64), ("data.jpg", data))
    prepared = await bench.prepare(graph, job=job)
    inputs = {node_id: node["inputs"] for node_id, node in prepared.graph.items()}
    assert (folder / inputs["1"]["image"]).read_bytes() == png(shade=1)
    assert (folder / inputs["2"]["where"]).read_bytes() == png(shade=3)
    assert inputs["2"]["row"]["file"] == inputs["2"]["where"]  # one content, one file
    assert (inputs["2"]["text"], inputs["3"]["filename_prefix"]) == ("a photo.png", "photo.png")
    shown = {node_id: node["inputs"] for node_id, node in prepared.caller_graph.items()}
    assert shown["1"]["image"] == "photo.png"
    assert (shown["2"]["where"], shown["2"]["row"]["file"]) == ("sub\\scan.png", "data.jpg")
    assert shown["2"]["seed"] == inputs["2"]["seed"]
    assert prepared.warnings == ()
    assert len(prepared.files) == 2 and len(bench.host.seen) == 1
    assert graph["1"]["inputs"]["image"] == "photo.png"


async def test_a_file_is_fetched_once_however_many_nodes_name_it(bench: Bench) -> None:
    """And decoded once."""
    bench.engine()
    graph = {str(number): node("LoadImage", image="photo.png") for number in range(20)}
    prepared = await bench.prepare(graph, job=with_files(("photo.png", bench.url("/a.png"))))
    assert len({node["inputs"]["image"] for node in prepared.graph.values()}) == 1
    assert len(bench.host.seen) == 1


@pytest.mark.parametrize("prefix", ["", "image/png;base64,", "data:image/png;base64,", "data:image/png,", "DATA:,"])
async def test_whatever_stands_before_the_first_comma_is_left_off(bench: Bench, prefix: str) -> None:
    """As worker-comfyui takes it."""
    folder = bench.engine()
    job = with_files(("photo.png", prefix + PNG_BASE64))
    prepared = await bench.prepare({"1": node("LoadImage", image="photo.png")}, job=job)
    assert (folder / prepared.graph["1"]["inputs"]["image"]).read_bytes() == png(shade=3)


async def test_a_file_that_no_node_names_is_brought_in_and_told(bench: Bench) -> None:
    """A bad one fails the job as any other would."""
    bench.engine()
    graph = {"1": node("LoadImage", image="other.png")}
    prepared = await bench.prepare(graph, job=with_files(("photo.png", bench.url("/a.png"))))
    assert prepared.graph == graph and prepared.files == () and len(bench.host.seen) == 1
    assert prepared.warnings == ("images[0].image ('photo.png'): no node uses this file",)
    with pytest.raises(InputFetchFailed, match="404"):
        await bench.prepare(graph, job=with_files(("photo.png", bench.url("/gone.png"))))


async def test_every_file_is_tried_and_every_failure_told(bench: Bench) -> None:
    """With field and name, never the URL's query; the other files don't matter then."""
    bench.engine()
    graph = {"1": node("LoadImage", image="a.png"), "2": node("LoadImage", image="song.png")}
    bench.host.files["/a.mp3"] = (b"ID3\x03\x00\x00\x00\x00\x00\x00" + b"\0" * 64, "audio/mpeg")
    job = with_files(
        ("a.png", bench.url("/a.png")),
        ("gone.png", bench.url("/gone.png?sig=hush")),
        ("song.png", bench.url("/a.mp3")),
        ("noise.png", "@@@@"),
        ("inside.png", "http://169.254.169.254/latest"),
    )
    with pytest.raises(InputFetchFailed) as caught:
        await bench.prepare(graph, job=job)
    details, told = caught.value.details, caught.value.details["errors"]
    assert isinstance(told, list) and len(told) == 4
    assert told[0] == "images[1].image ('gone.png'): host 'files.example' answered with status 404; nothing is there"
    assert told[1].startswith("images[2].image ('song.png'): the file is audio/mpeg, expected image")
    assert told[2].startswith("images[3].image ('noise.png'): inline data can't be decoded")
    assert told[3].startswith("images[4].image ('inside.png'): ")
    assert caught.value.message == "; ".join(told) and "hush" not in caught.value.message
    assert (details["field"], details["reason"]) == ("images[1].image", "status")


async def test_a_file_over_the_limit_or_with_a_bad_name_is_refused(bench: Bench) -> None:
    """Nothing is fetched for a request with a name that leads elsewhere."""
    bench.engine()
    graph = {"1": node("LoadImage", image="a.png")}
    large = base64.b64encode(png() + b"\0" * (2 << 20)).decode()
    with pytest.raises(InputFetchFailed, match="INPUT_MAX_BYTES"):
        await bench.prepare(graph, job=with_files(("a.png", large)))
    with pytest.raises(UnsafeInput, match="the name is not allowed"):
        await bench.prepare(graph, job=with_files(("a.png", bench.url("/a.png")), ("../b.png", PNG_BASE64)))
    assert bench.host.seen == []


async def test_named_files_of_a_folder_come_as_a_folder(bench: Bench) -> None:
    """Where a node reads one."""
    folder = bench.engine()
    job = with_files(("frames/2.png", bench.url("/a.png")), ("frames/1.png", bench.url("/b.png")))
    prepared = await bench.prepare({"1": node("VHS_LoadImages", directory="frames", limit=2)}, job=job)
    files = sorted((folder / prepared.graph["1"]["inputs"]["directory"]).iterdir())
    assert [file.read_bytes() for file in files] == [png(shade=2), png(shade=1)]
    assert prepared.caller_graph["1"]["inputs"] == {"directory": "frames", "limit": 2}


async def test_a_node_that_reads_a_path_gets_one_of_a_named_file_too(bench: Bench) -> None:
    """Where engines share the folder; elsewhere the node is named."""
    folder = bench.engine("a")
    job = with_files(("clip.mp4", bench.url("/a.png")))
    graph = {"1": node("VHS_LoadVideoPath", video="clip.mp4"), "2": node("Anything", where="clip.mp4")}
    prepared = await bench.prepare(graph, job=job)
    assert Path(prepared.graph["1"]["inputs"]["video"]).parent == folder / "pyworker"
    assert prepared.graph["2"]["inputs"]["where"].startswith("pyworker/")
    bench.engine("b")
    with pytest.raises(UnsafeInput, match=r"workflow\.1\.inputs\.video: VHS_LoadVideoPath"):
        await bench.prepare(graph, job=job)


async def test_an_upload_sent_before_may_get_a_name(bench: Bench) -> None:
    """For its owner only."""
    folder = bench.engine()

    async def sent() -> AsyncIterator[bytes]:
        yield png(shade=6)

    await bench.prepare({"1": node("X")})
    reference = await bench.uploads.save(sent(), "a.png", "ann")
    graph = {"1": node("LoadImage", image="photo.png")}
    prepared = await bench.prepare(graph, job=with_files(("photo.png", reference), owner="ann"))
    assert (folder / prepared.graph["1"]["inputs"]["image"]).read_bytes() == png(shade=6)
    with pytest.raises(InputFetchFailed, match=r"images\[0\]\.image .* upload it again"):
        await bench.prepare(graph, job=with_files(("photo.png", reference), owner="bob"))


async def test_what_was_written_on_another_system_is_told_once(bench: Bench) -> None:
    """Model paths and names of input files, but nothing that was replaced by a file."""
    bench.engine()
    bench.options["CheckpointLoaderSimple", "ckpt_name"] = ("SDXL/a.safetensors",)
    graph = {
        "1": node("CheckpointLoaderSimple", ckpt_name="SDXL\\a.safetensors"),
        "2": node("LoadImage", image="in\\b.png"),
        "3": node("LoadImage", image="in\\photo.png"),
        "4": node("CLIPTextEncode", text="a \\(cat\\)"),
    }
    prepared = await bench.prepare(graph, job=with_files(("in/photo.png", bench.url("/a.png"))))
    places = "node 1 input ckpt_name, node 2 input image"
    assert prepared.warnings == (f'paths written with "\\" were read as written with "/": {places}',)


@pytest.mark.comfyui
@pytest.mark.parametrize("shared", [True, False])
async def test_a_real_comfyui_reads_named_files_in_loaders_and_in_plain_texts(
    bench: Bench, real_comfyui: RealComfyUI, shared: bool, tmp_path: Path
) -> None:
    """As if they had been uploaded under their names."""
    folders = Folders(output=real_comfyui.output, input=real_comfyui.input)
    bench.servers.append(OwnedServer(real_comfyui.base_url, folders=folders if shared else None))
    bench.host.files["/d.png"] = (png(shade=20 + shared), "image/png")
    graph = {
        "1": node("LoadImage", image="in/photo.png"),
        "2": node("SaveImage", images=["1", 0], filename_prefix="named"),
        "3": node("HWRead", where="in\\photo.png"),
    }
    job = with_files(("in/photo.png", bench.url("/d.png")))
    prepared = await bench.prepare(graph, job=job)
    fetched = tmp_path / "fetched"
    async with engine_world(comfyui=real_comfyui, root=real_comfyui.folder, fetched=fetched) as world:
        execution = await world.engine.execute(
            job,
            prepared,
            observer=Recorder(),
            withdraw=asyncio.Event(),
            timeout_s=60,
            prompt_id=str(uuid.uuid4()),
        )
        collected = await world.engine.collect(job, execution)
    picture, size = collected.outputs
    assert (picture.width, picture.height, picture.error) == (2, 2, None)
    assert size.text == str(len(png(shade=20 + shared)))
    echoed = collected.response[execution.prompt_id]["prompt"][2]
    assert (echoed["1"]["inputs"]["image"], echoed["3"]["inputs"]["where"]) == ("in/photo.png", "in\\photo.png")


async def test_a_large_graph_does_not_keep_the_event_loop(bench: Bench) -> None:
    """It is gone through in a thread, with the same outcome."""
    folder, asking = bench.engine(), set[str]()
    graph = {"1": node("LoadImage", image=bench.url("/a.png")), "2": node("X", path="a\\b.png", text="x" * 300_000)}
    bench.options = Asked(asking)
    job = JOB.with_(spec=replace(JOB.spec, workflow=orjson.dumps(graph)))
    prepared = await bench.prepare(graph, job=job)
    assert (folder / prepared.graph["1"]["inputs"]["image"]).is_file()
    assert prepared.graph["2"]["inputs"]["path"] == "a/b.png"
    assert asking and threading.current_thread().name not in asking


async def test_a_stranger_can_not_name_another_ones_files(bench: Bench) -> None:
    """``lib.comfy.seclusion`` is asked for each of a stranger's jobs, and for no other."""
    bench.engine()
    graph = {"1": node("LoadImage", image="order-1/a.png [output]")}
    assert (await bench.prepare(graph)).graph == graph
    with pytest.raises(UnsafeInput):
        await bench.prepare(graph, job=JOB.with_(spec=replace(JOB.spec, stranger=True)))


class Asked(dict[tuple[str, str], tuple[str, ...]]):
    """Choices that note in which threads they are asked for."""

    def __init__(self, threads: set[str]) -> None:
        super().__init__()
        self._threads = threads

    def get(self, key: tuple[str, str], default: Any = None) -> Any:
        self._threads.add(threading.current_thread().name)
        return default
