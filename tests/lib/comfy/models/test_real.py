"""lib.comfy.models against a real ComfyUI: it lists what was brought at once, and takes a job with it."""

from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest

from lib.comfy.models.fields import LOADERS, ModelSite, url_sites
from lib.comfy.models.folders import ModelFolders
from lib.comfy.models.index import Index
from lib.comfy.models.inputs import ModelInputs
from lib.comfy.models.library import Library, Limits
from lib.comfy.ports import Folders
from lib.lifecycle import Tasks
from lib.settings import DeliverySettings
from lib.storage.guard import AddressGuard
from lib.storage.http import GuardedHttp
from lib.storage.reading import Reader
from lib.storage.sources import Sources
from tests.comfyui_fixture import RealComfyUI
from tests.fakes.comfy_server import OwnedServer
from tests.fakes.comfyui_models import ModelHost, safetensors
from tests.fakes.http_hosts import Names
from tests.fakes.input_bench import JOB, node

pytestmark = pytest.mark.comfyui


async def test_a_model_is_there_for_the_next_prompt(real_comfyui: RealComfyUI, tmp_path: Path) -> None:
    """ComfyUI refuses the graph before, and takes it afterwards, without a restart; its own folder holds the file."""
    model = safetensors(64, seed=4711)
    async with AsyncExitStack() as stack:
        host = await stack.enter_async_context(ModelHost(files={"/up.safetensors": model}))
        http = await stack.enter_async_context(aiohttp.ClientSession())
        folders = _folders(real_comfyui, http)
        inputs = ModelInputs(
            library=await _library(stack, folders, tmp_path), folders=folders, urls="known", pickles="operator"
        )
        graph: dict[str, Any] = {
            "1": node("CheckpointLoaderSimple", ckpt_name=host.url("/up.safetensors")),
            "2": node("EmptyLatentImage", width=64, height=64, batch_size=1),
            "3": node("VAEDecode", samples=["2", 0], vae=["1", 2]),
            "4": node("SaveImage", images=["3", 0], filename_prefix="models/real"),
        }
        assert await _posted(real_comfyui, http, graph) == 400
        brought = await inputs.bring(list(url_sites(graph)), JOB, tell=lambda text: None)
        [name] = brought.names.values()
        [place] = await folders.places("checkpoints", field="f")
        try:
            assert (place / name).read_bytes() == model
            assert name in (await folders.models())["checkpoints"]
            graph["1"]["inputs"]["ckpt_name"] = name
            assert await _posted(real_comfyui, http, graph) == 200
        finally:
            (place / name).unlink()


async def test_each_loader_has_the_folder_that_its_list_is_of(real_comfyui: RealComfyUI) -> None:
    """Our table says what ComfyUI's own lists say, for each of its loaders that has a file to choose."""
    async with aiohttp.ClientSession() as http:
        folders = _folders(real_comfyui, http)
        lists = await folders.models()
        async with http.get(f"{real_comfyui.base_url}/object_info") as answer:
            known = orjson.loads(await answer.read())
        for class_type, inputs in LOADERS.items():
            for field, folder in inputs.items():
                if class_type in known:
                    site = ModelSite(path=("1", "inputs", field), value="x", class_type=class_type, field=field)
                    assert folder in lists, class_type
                    assert all([await folders.lists(site, name) for name in lists[folder]]), (class_type, field)
        assert set(LOADERS) - set(known) == {name for name in LOADERS if "GGUF" in name}
        assert await folders.places("diffusion_models", field="f") != await folders.places("clip_vision", field="f")


def _folders(comfyui: RealComfyUI, http: aiohttp.ClientSession) -> ModelFolders:
    server = OwnedServer(comfyui.base_url, folders=Folders(output=comfyui.output, input=comfyui.input))
    return ModelFolders([server], http=http, models_dir=None, timeout_s=30)


async def _library(stack: AsyncExitStack, folders: ModelFolders, root: Path) -> Library:
    guard = AddressGuard(allow=("models.example",), lookup=Names(models_example=[["127.0.0.1"]]))
    return Library(
        folders=folders,
        reader=Reader(await stack.enter_async_context(GuardedHttp(guard)), redirects=5),
        rights=Sources(settings=DeliverySettings(), guard=guard),
        index=Index(root / "models.json"),
        limits=Limits(max_bytes=1 << 20, timeout_s=30),
        tasks=await stack.enter_async_context(Tasks()),
    )


async def _posted(comfyui: RealComfyUI, http: aiohttp.ClientSession, graph: dict[str, Any]) -> int:
    """The status that ComfyUI answers a prompt with."""
    async with http.post(f"{comfyui.base_url}/prompt", json={"prompt": graph, "client_id": "models"}) as answer:
        return answer.status
