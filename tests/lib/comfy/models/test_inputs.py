"""lib.comfy.models.inputs: which URLs of a graph are models, for whom they are brought in, what the graph says then."""

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

import aiohttp
import pytest

from lib.comfy.models.desk import ModelDesk
from lib.comfy.models.fields import LOADERS, url_sites
from lib.comfy.models.folders import ModelFolders
from lib.comfy.models.index import Index
from lib.comfy.models.inputs import ModelInputs, allowed
from lib.comfy.models.library import Library, Limits
from lib.comfy.models.privacy import Privacy
from lib.comfy.ports import Folders
from lib.errors import EngineUnreachable, InputFetchFailed, InvalidRequest, ServiceError, UnsafeInput
from lib.jobs.model import Job, Workflow
from lib.lifecycle import Tasks
from lib.settings import DeliverySettings, Who
from lib.storage.guard import AddressGuard
from lib.storage.http import GuardedHttp
from lib.storage.reading import Reader
from lib.storage.sources import Sources
from tests.fakes.comfy_server import OwnedServer
from tests.fakes.comfyui_models import GGUF, ModelComfyUI, ModelHost, safetensors
from tests.fakes.http_hosts import Names, WebHost, png
from tests.fakes.input_bench import JOB, node
from tests.fakes.input_bench import Bench as InputBench

FOLDERS = {folder: (folder,) for inputs in LOADERS.values() for folder in inputs.values()} | {
    "diffusion_models": ("unet", "diffusion_models"),
    "text_encoders": ("text_encoders", "clip"),
    "ipadapter": ("ipadapter",),
    "unet_gguf": ("unet", "diffusion_models"),
}


@dataclass
class Bench:
    root: Path
    host: ModelHost
    comfyui: ModelComfyUI
    stack: AsyncExitStack
    told: list[str] = field(default_factory=list)
    ready: list[tuple[Library, ModelFolders, Index]] = field(default_factory=list)

    async def parts(self, *, up: bool = True) -> tuple[Library, ModelFolders]:
        if self.ready:
            return self.ready[0][:2]
        guard = AddressGuard(allow=("models.example",), lookup=Names(models_example=[["127.0.0.1"]]))
        guarded = await self.stack.enter_async_context(GuardedHttp(guard))
        http = await self.stack.enter_async_context(aiohttp.ClientSession())
        server = OwnedServer(self.comfyui.base_url, folders=Folders(output=self.root / "o", input=self.root / "i"))
        server.down_reason = None if up else "it is being restarted"
        folders = ModelFolders([server], http=http, models_dir=None, timeout_s=5)
        library = Library(
            folders=folders,
            reader=Reader(guarded, redirects=5),
            rights=Sources(settings=DeliverySettings(), guard=guard),
            index=(index := Index(self.root / "models.json")),
            limits=Limits(max_bytes=1 << 30, timeout_s=30),
            tasks=await self.stack.enter_async_context(Tasks()),
            retry_wait_s=0.0,
        )
        self.ready.append((library, folders, index))
        return library, folders

    async def bring(
        self, graph: Workflow, *, job: Job = JOB, urls: Who = "known", pickles: Who = "operator", up: bool = True
    ) -> dict[str, str]:
        """The names of what was brought, by place."""
        library, folders = await self.parts(up=up)
        inputs = ModelInputs(library=library, folders=folders, urls=urls, pickles=pickles)
        brought = await inputs.bring(list(url_sites(graph)), job, tell=self.told.append)
        assert len(brought.holds) == len(brought.names)
        return {".".join(map(str, path)): name for path, name in brought.names.items()}

    def folder(self, name: str) -> list[str]:
        return sorted(path.name for path in (self.comfyui.root / name).glob("*"))


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    files = {f"/{name}.safetensors": safetensors(100 + at) for at, name in enumerate("abcd")}
    files |= {"/q.gguf": b"GGUF" + bytes(60), "/c.yaml": b"model:\n  x: 1\n", "/p.ckpt": b"PK\x03\x04" + bytes(60)}
    comfyui = ModelComfyUI(root=tmp_path / "models", folders=dict(FOLDERS), suffixes={"unet_gguf": GGUF})
    comfyui.suffixes["configs"] = frozenset({".yaml"})
    async with ModelHost(files=files) as host, comfyui, AsyncExitStack() as stack:
        yield Bench(tmp_path, host, comfyui, stack)


ROWS = [
    (class_type, field, folder)
    for class_type, inputs in LOADERS.items()
    for field, folder in inputs.items()
    if "GGUF" not in class_type
]


@pytest.mark.parametrize(("class_type", "field", "folder"), ROWS)
async def test_each_loader_gets_its_model_where_it_looks(
    bench: Bench, class_type: str, field: str, folder: str
) -> None:
    """2.4, with the folders of UNETLoader and CLIPVisionLoader put right: ComfyUI lists it there."""
    bench.comfyui.classes[class_type] = {field: folder}
    path = "/c.yaml" if folder == "configs" else "/a.safetensors"
    names = await bench.bring({"4": node(class_type, **{field: bench.host.url(path)})})
    name = names[f"4.inputs.{field}"]
    assert name in bench.comfyui.listed(folder) and name.startswith(path[1] + "-")
    assert bench.told[-1].endswith("100 %")


async def test_gguf_packs_read_the_same_folders(bench: Bench) -> None:
    """Their lists are other ones; a file that they don't take is told as such."""
    bench.comfyui.classes["UnetLoaderGGUF"] = {"unet_name": "unet_gguf"}
    names = await bench.bring({"1": node("UnetLoaderGGUF", unet_name=bench.host.url("/q.gguf"))})
    assert bench.folder("diffusion_models") == [names["1.inputs.unet_name"]]
    with pytest.raises(InvalidRequest, match="does not list it for UnetLoaderGGUF") as refused:
        await bench.bring({"1": node("UnetLoaderGGUF", unet_name=bench.host.url("/a.safetensors"))})
    assert refused.value.details["field"] == "workflow.1.inputs.unet_name"
    assert refused.value.details["node_id"] == "1"


@pytest.mark.parametrize("further", [(), ("None",)])
async def test_inputs_of_other_classes_are_known_by_their_lists(bench: Bench, further: tuple[str, ...]) -> None:
    """All files of a folder, perhaps with a choice before them, whatever the input's name."""
    bench.comfyui.put("ipadapter", "ip.safetensors")
    bench.comfyui.put("loras", "l.safetensors")
    bench.comfyui.further = further
    bench.comfyui.classes["IPAdapterModelLoader"] = {
        "ipadapter_file": "ipadapter",
        "other": ["x", "y"],
        "text": "STRING",
    }
    graph = {
        "1": node(
            "IPAdapterModelLoader",
            ipadapter_file=bench.host.url("/a.safetensors"),
            other=bench.host.url("/b.safetensors"),
            text=bench.host.url("/c.safetensors"),
        ),
        "2": node("NoSuchClass", lora_name=bench.host.url("/a.safetensors")),
    }
    names = await bench.bring(graph)
    assert list(names) == ["1.inputs.ipadapter_file"]
    assert names["1.inputs.ipadapter_file"] in bench.folder("ipadapter")


@pytest.mark.parametrize("name", ["lora_name", "lora_01", "lora_name_2", "Lora"])
async def test_empty_lists_are_known_by_the_usual_names(bench: Bench, name: str) -> None:
    """A fresh machine has no model yet, so every list is the same."""
    bench.comfyui.further = ()
    bench.comfyui.classes["LoraLoader|pysssss"] = {name: "loras", "mode": []}
    names = await bench.bring(
        {"1": node("LoraLoader|pysssss", **{name: bench.host.url("/a.safetensors"), "mode": "x"})}
    )
    assert bench.folder("loras") == [names[f"1.inputs.{name}"]]


async def test_of_two_folders_alike_the_name_decides(bench: Bench) -> None:
    """The same file in both."""
    bench.comfyui.put("clip_vision", "one.safetensors")
    bench.comfyui.put("vae", "one.safetensors")
    bench.comfyui.classes["SomeLoader"] = {"vae_name": ["one.safetensors"], "clip_vision": ["one.safetensors"]}
    url = bench.host.url("/a.safetensors")
    with pytest.raises(InvalidRequest):  # the list of this fake does not grow
        await bench.bring({"1": node("SomeLoader", vae_name=url)})
    assert len(bench.folder("vae")) == 2 and len(bench.folder("clip_vision")) == 1


async def test_rows_of_packs_hold_models_too(bench: Bench) -> None:
    """As rgthree's: an object with the model in lora; nothing lists them."""
    row = {"on": True, "lora": bench.host.url("/a.safetensors"), "strength": 1}
    names = await bench.bring({"1": node("Power Lora Loader (rgthree)", lora_1=row, model=["2", 0])})
    assert bench.folder("loras") == [names["1.inputs.lora_1.lora"]]


async def test_several_models_come_side_by_side(bench: Bench) -> None:
    """One graph, its loaders, one of them twice."""
    for class_type in ("DualCLIPLoader", "LoraLoader"):
        bench.comfyui.classes[class_type] = LOADERS[class_type]
    one, two, three = (bench.host.url(f"/{name}.safetensors") for name in "abc")
    graph = {
        "1": node("DualCLIPLoader", clip_name1=one, clip_name2=two),
        "2": node("LoraLoader", lora_name=three),
        "3": node("LoraLoader", lora_name=three),
    }
    names = await bench.bring(graph)
    assert len(names) == 4 and len(bench.host.asked) == 3
    assert names["2.inputs.lora_name"] == names["3.inputs.lora_name"]


@pytest.mark.parametrize(
    ("owner", "stranger", "words"),
    [("", False, ("operator", "known", "any")), ("t", True, ("known", "any")), ("", True, ("any",))],
)
def test_a_word_covers_callers(owner: str, stranger: bool, words: Sequence[Who]) -> None:
    """The operator is covered first, tenants with a key next, strangers last."""
    every: tuple[Who, ...] = ("off", "operator", "known", "any")
    assert [who for who in every if allowed(who, owner=owner, stranger=stranger)] == list(words)


async def test_strangers_bring_no_models(bench: Bench) -> None:
    """Whoever is behind a signed URL could fill the disk; a tenant may, by default, but no pickles."""
    stranger = JOB.with_(spec=replace(JOB.spec, stranger=True))
    tenant = JOB.with_(spec=replace(JOB.spec, stranger=True, owner="t"))
    graph = {"4": node("CheckpointLoaderSimple", ckpt_name=bench.host.url("/a.safetensors"))}
    pickle = {"4": node("CheckpointLoaderSimple", ckpt_name=bench.host.url("/p.ckpt"))}
    bench.comfyui.classes["CheckpointLoaderSimple"] = {"ckpt_name": "checkpoints"}
    with pytest.raises(UnsafeInput, match="MODEL_URLS=known") as refused:
        await bench.bring(graph, job=stranger)
    assert refused.value.details["node_id"] == "4"
    with pytest.raises(UnsafeInput, match="MODEL_PICKLES"):
        await bench.bring(pickle, job=tenant)
    assert bench.host.asked == []
    assert await bench.bring(graph, job=tenant) and await bench.bring(pickle)


async def test_a_folder_of_files_is_no_file(bench: Bench) -> None:
    """DiffusersLoader wants a repository."""
    with pytest.raises(InvalidRequest, match="folder of files"):
        await bench.bring({"1": node("DiffusersLoader", model_path=bench.host.url("/a.safetensors"))})


async def test_the_error_of_a_fetch_names_node_and_field(bench: Bench) -> None:
    """As those of other inputs."""
    with pytest.raises(InputFetchFailed, match=r"^workflow\.4\.inputs\.ckpt_name: host 'models.example'") as failed:
        await bench.bring({"4": node("CheckpointLoaderSimple", ckpt_name=bench.host.url("/gone.safetensors"))})
    details = failed.value.details
    assert (details["field"], details["node_id"]) == ("workflow.4.inputs.ckpt_name", "4")


async def test_names_and_other_texts_are_no_urls(bench: Bench) -> None:
    """Nothing is asked for them."""
    graph = {
        "1": node("CheckpointLoaderSimple", ckpt_name="sd.safetensors"),
        "2": node("CLIPTextEncode", text="see https://example.com/a for it", clip=["1", 1]),
        "3": {"inputs": None},
        "4": node("LoraLoader", lora_name="ftp://models.example/a.safetensors"),
    }
    assert list(url_sites(graph)) == []


async def test_a_comfyui_that_is_down_is_said(bench: Bench) -> None:
    """For a class that nobody but ComfyUI knows."""
    with pytest.raises(EngineUnreachable):
        await bench.bring({"1": node("SomeLoader", x=bench.host.url("/a.safetensors"))}, up=False)


# -- on request ------------------------------------------------------------------------------------------------------


async def desk(bench: Bench, *, urls: Who = "known", pickles: Who = "operator") -> ModelDesk:
    library, folders = await bench.parts()
    privacy = Privacy(bench.ready[0][2])
    return ModelDesk(library=library, folders=folders, privacy=privacy, urls=urls, pickles=pickles)


async def test_a_model_on_request_is_called_as_its_url_says(bench: Bench) -> None:
    """Its size and the time are told."""
    made = await desk(bench)
    got = await made.bring(url=bench.host.url("/a.safetensors"), model_type="loras")
    assert got.filename == "a.safetensors" and got.size_bytes == len(bench.host.files["/a.safetensors"])
    assert got.duration_s >= 0 and bench.folder("loras") == ["a.safetensors"]
    assert (
        await made.bring(url=bench.host.url("/b.safetensors"), model_type="loras", filename="x.sft")
    ).filename == "x.sft"


@pytest.mark.parametrize(
    "name",
    ["../x.safetensors", "a/b.safetensors", "/etc/x.safetensors", "..", ".safetensors", "x.py", "x", "", "a\0.ckpt"],
)
async def test_a_name_is_a_name(bench: Bench, name: str) -> None:
    """W6: nothing leaves the folder, and nothing that is no model's."""
    made = await desk(bench)
    with pytest.raises(UnsafeInput) as refused:
        await made.bring(url=bench.host.url("/a.safetensors"), model_type="loras", filename=name)
    assert refused.value.details["field"] == "filename" and bench.host.asked == []


@pytest.mark.parametrize("model_type", ["custom_nodes", "nothing", "../loras"])
async def test_a_type_is_a_model_folder(bench: Bench, model_type: str) -> None:
    """Those that there are are told."""
    made = await desk(bench)
    with pytest.raises(ServiceError, match="unknown model type"):
        await made.bring(url=bench.host.url("/a.safetensors"), model_type=model_type)
    assert "custom_nodes" not in await made.types()


async def test_a_folder_that_only_the_disk_has_is_a_type(bench: Bench) -> None:
    """As clip, which ComfyUI reads as a part of text_encoders: an empty list, and a place for files."""
    for name in ("LLM", "clip"):
        (bench.comfyui.root / name).mkdir(parents=True)
    bench.comfyui.put("vae", "v.safetensors")
    made = await desk(bench)
    listed = await made.listed(tenant="")
    assert listed["LLM"] == [] and listed["vae"] == ["v.safetensors"] and "custom_nodes" not in listed
    assert set(await made.types()) == set(listed)
    await made.bring(url=bench.host.url("/a.safetensors"), model_type="clip")
    assert bench.folder("clip") == ["a.safetensors"]
    assert (await made.listed(tenant=""))["text_encoders"] == ["a.safetensors"]


async def test_what_a_tenant_brought_is_listed_to_nobody_else(bench: Bench) -> None:
    """Not even under the name of the tenant's choice; who brings the same one is told of it, under his own name too."""
    made = await desk(bench)
    url = bench.host.url("/a.safetensors")
    await made.bring(url=url, model_type="loras", owner="alice")
    seen = {tenant: (await made.listed(tenant=tenant))["loras"] for tenant in ("alice", "bob", "")}
    assert seen == {"alice": ["a.safetensors"], "bob": [], "": ["a.safetensors"]}
    await made.bring(url=url, model_type="loras", owner="bob")
    assert (await made.listed(tenant="bob"))["loras"] == ["a.safetensors"]


async def test_folders_of_outputs_are_no_types(bench: Bench) -> None:
    """ComfyUI offers models that nodes saved; beside them lie the folders of jobs, whose names are nobody else's."""
    bench.comfyui.folders["vae"] = (*bench.comfyui.folders["vae"], str(bench.root / "o" / "vae"))
    (bench.root / "o" / "somebodys-job").mkdir(parents=True)
    made = await desk(bench)
    assert "somebodys-job" not in await made.listed(tenant="") and "somebodys-job" not in await made.types()


async def test_who_may_not_bring_models_may_not_on_request(bench: Bench) -> None:
    """The same words."""
    made = await desk(bench, urls="operator")
    with pytest.raises(UnsafeInput, match="MODEL_URLS"):
        await made.bring(url=bench.host.url("/a.safetensors"), model_type="loras", owner="t")
    with pytest.raises(UnsafeInput, match="MODEL_PICKLES"):
        await (await desk(bench)).bring(url=bench.host.url("/p.ckpt"), model_type="loras", owner="t")


# -- in a whole graph ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("urls", ["loaders", "any"])
async def test_a_graph_may_name_models_and_media(bench: Bench, tmp_path: Path, urls: str) -> None:
    """Each goes where it belongs, also where any URL is fetched; the echo shows names, never URLs; the file is held."""
    bench.comfyui.classes["LoraLoader"] = LOADERS["LoraLoader"]
    library, folders = await bench.parts()
    async with WebHost(files={"/a.png": (png(), "image/png")}) as media, AsyncExitStack() as stack:
        made = InputBench(tmp_path / "bench", media, stack)
        made.engine()
        models = ModelInputs(library=library, folders=folders, urls="known", pickles="operator")
        preparer = await made.preparer(models=models, input_urls=urls)
        graph = {
            "1": node("LoraLoader", lora_name=bench.host.url("/a.safetensors"), model=["2", 0]),
            "2": node("LoadImage", image=made.url("/a.png")),
        }
        prepared = await preparer.prepare(JOB, graph, tell=bench.told.append)
    name = prepared.graph["1"]["inputs"]["lora_name"]
    assert bench.folder("loras") == [name] and prepared.graph["2"]["inputs"]["image"].startswith("pyworker/")
    assert prepared.caller_graph["1"]["inputs"]["lora_name"] == name and len(prepared.holds) == 1
    assert graph["1"]["inputs"]["lora_name"].startswith("http://") and bench.told
