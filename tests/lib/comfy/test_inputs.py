"""lib.comfy.inputs: inputs are brought in and placed, unsafe ones refused, placeholders drawn. Hosts are real."""

import base64
import random
import threading
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from lib.comfy.inputs import InputPreparer
from lib.comfy.placing import Placer
from lib.comfy.ports import Folders
from lib.comfy.uploads import UploadStore
from lib.errors import EngineUnreachable, InputFetchFailed, UnsafeInput
from lib.jobs.model import Credential, Job, JobSpec, Timings
from lib.jobs.ports import Prepared
from lib.lifecycle import Tasks
from lib.settings import DeliverySettings, StorageSettings
from lib.storage.downloads import Downloads
from lib.storage.guard import AddressGuard
from lib.storage.http import GuardedHttp
from lib.storage.local import ContentStore
from lib.storage.sources import Sources
from tests.comfyui_fixture import RealComfyUI
from tests.fakes.comfy_server import OwnedServer
from tests.fakes.http_hosts import Names, WebHost, png

JOB = Job(
    job_id="j",
    spec=JobSpec(request_id="r", dialect="wrapper", workflow=b"{}"),
    sequence=1,
    cost=1.0,
    timings=Timings(accepted_at=datetime(2026, 1, 1, tzinfo=UTC)),
)


def owned(owner: str, credentials: tuple[Credential, ...] = ()) -> Job:
    return JOB.with_(spec=replace(JOB.spec, owner=owner, credentials=credentials))


@dataclass
class Bench:
    """A preparer with a real store, a real web host and as many servers as a test wants."""

    root: Path
    host: WebHost
    stack: AsyncExitStack
    servers: list[OwnedServer] = field(default_factory=list)
    options: dict[tuple[str, str], tuple[str, ...]] = field(default_factory=dict)
    rng: random.Random | None = field(default_factory=lambda: random.Random(1))

    def engine(self, name: str = "a", *, shared: bool = True, base_url: str = "http://127.0.0.1:1") -> Path:
        folder = self.root / name
        folders = Folders(output=folder / "output", input=folder / "input")
        self.servers.append(OwnedServer(base_url, folders=folders if shared else None, name=name))
        return folders.input

    async def prepare(self, graph: dict[str, Any], *, job: Job = JOB, **settings: object) -> Prepared:
        limits = StorageSettings.model_validate({"input_max_bytes": 1 << 20} | settings)
        guard = AddressGuard(allow=("files.example",), lookup=Names(files_example=[["127.0.0.1"]]))
        guarded = await self.stack.enter_async_context(GuardedHttp(guard))
        tasks = await self.stack.enter_async_context(Tasks())
        http = await self.stack.enter_async_context(aiohttp.ClientSession())
        store = ContentStore(self.root / "cache", quota_bytes=1 << 30)
        self.placer = Placer(self.servers, http=http)
        self.uploads = UploadStore(store.root, settings=limits)
        preparer = InputPreparer(
            placer=self.placer,
            fetcher=Downloads(store=store, http=guarded, settings=limits, tasks=tasks, retry_wait_s=0.0),
            rights=Sources(settings=DeliverySettings(), guard=guard),
            uploaded=self.uploads,
            settings=limits,
            uploads=lambda name: ("clip",) if name == "MyLoader" else (),
            options=lambda class_type, name: self.options.get((class_type, name), ()),
            rng=self.rng,
        )
        return await preparer.prepare(job, graph)

    def url(self, path: str) -> str:
        return self.host.url(path, host="files.example")


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    files = {"/a.png": (png(shade=1), "image/png"), "/b.png": (png(shade=2), "image/png")}
    async with WebHost(files=files) as host, AsyncExitStack() as stack:
        yield Bench(tmp_path, host, stack)


def node(class_type: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": class_type, "inputs": inputs}


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
