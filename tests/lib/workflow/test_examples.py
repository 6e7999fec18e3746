"""The endpoints that we ship as examples, against a real ComfyUI."""

from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pyvips

from lib.errors import InvalidRequest
from lib.workflow.drafting.writing import draft_inputs
from lib.workflow.endpoints.endpoint import Bound
from lib.workflow.endpoints.folder import WorkflowFolder
from lib.workflow.endpoints.tables import markdown_table
from lib.workflow.graph import check_graph
from lib.workflow.parameters import no_options
from tests.comfyui_fixture import RealComfyUI

EXAMPLES = Path(__file__).resolve().parents[3] / "workflow-endpoints"
OTHERS = ("flux/img2img", "flux/txt2img", "sdxl/img2img", "sdxl/txt2img", "sdxl/txt2img-with-refiner")
NAMES = ("flux/img2img", "flux/txt2img", "sd1.5/img2img", "sd1.5/txt2img", *OTHERS[2:])
CHECKPOINTS = ("v1-5-pruned-emaonly-fp16.safetensors", "sd_xl_base_1.0.safetensors", "sd_xl_refiner_1.0.safetensors")
LEAST: dict[str, Any] = {"prompt": "a lighthouse", "image": "example.png"}


def options(class_type: str, name: str) -> tuple[str, ...]:
    return (*CHECKPOINTS, "flux1-schnell-fp8.safetensors") if name == "ckpt_name" else ()


async def bound(name: str, **values: Any) -> Bound:
    endpoint = await WorkflowFolder(EXAMPLES).find(name)
    assert endpoint is not None
    return await endpoint.bind(LEAST | values, options=options)


async def test_all_are_mounted() -> None:
    """None has a mistake, and the folder says so; each input says what it is for."""
    folder = WorkflowFolder(EXAMPLES)
    await folder.refresh()
    assert tuple(folder.endpoints) == NAMES
    assert folder.problems == ()
    for endpoint in folder.endpoints.values():
        assert endpoint.summary
        assert endpoint.description
        schema = endpoint.schema(no_options)
        assert markdown_table(schema).count("\n") > 8
        assert [name for name, field in schema["properties"].items() if not field.get("description")] == []


@pytest.mark.parametrize("name", NAMES)
async def test_little_must_be_given(name: str) -> None:
    """A prompt, and a picture where one is needed; seeds are drawn for each job."""
    first, second = await bound(name), await bound(name)
    check_graph(first.graph)
    assert first.values["prompt"] == "a lighthouse"
    assert first.values["seed"] != second.values["seed"]
    endpoint = await WorkflowFolder(EXAMPLES).find(name)
    assert endpoint is not None
    with pytest.raises(InvalidRequest, match="prompt"):
        await endpoint.bind({}, options=options)


async def test_the_refiner_follows_the_base_model() -> None:
    """Its steps are checked together, its noise is the base model's."""
    graph = (await bound("sdxl/txt2img-with-refiner", seed=5, base_end_step=10)).graph
    assert graph["base_sampler"]["inputs"]["end_at_step"] == 10
    assert graph["refiner_sampler"]["inputs"]["noise_seed"] == 5
    assert graph["refiner_sampler"]["inputs"]["add_noise"] == "disable"
    with pytest.raises(InvalidRequest, match="base_start_step must be less than base_end_step"):
        await bound("sdxl/txt2img-with-refiner", base_start_step=20)


async def test_without_a_checkpoint_it_says_so() -> None:
    """Not with an error of ComfyUI's about an empty name."""
    endpoint = await WorkflowFolder(EXAMPLES).find("sd1.5/txt2img")
    assert endpoint is not None
    with pytest.raises(InvalidRequest, match="nothing is installed for ckpt_name"):
        await endpoint.bind({"prompt": "x"}, options=no_options)


async def post(http: aiohttp.ClientSession, graph: dict[str, Any], client: str = "") -> tuple[int, dict[str, Any]]:
    async with http.post("/prompt", json={"prompt": graph, "client_id": client}) as answer:
        return answer.status, await answer.json()


async def run(http: aiohttp.ClientSession, graph: dict[str, Any]) -> dict[str, Any]:
    """Run a graph and return what ComfyUI's history says of its outputs."""
    async with http.ws_connect("/ws", params={"clientId": "examples"}) as socket:
        status, accepted = await post(http, graph, "examples")
        assert (status, accepted.get("node_errors")) == (200, {}), accepted
        prompt_id = accepted["prompt_id"]
        async for message in socket:
            event = message.json() if message.type is aiohttp.WSMsgType.TEXT else {"data": {}}
            if event["data"].get("prompt_id") == prompt_id:
                assert event["type"] not in ("execution_error", "execution_interrupted"), event
                if event["type"] == "executing" and event["data"]["node"] is None:  # now it is in the history
                    break
    async with http.get(f"/history/{prompt_id}") as answer:
        return dict((await answer.json())[prompt_id]["outputs"])


@pytest.mark.comfyui
async def test_both_of_stable_diffusion_1_5_make_pictures(real_comfyui: RealComfyUI) -> None:
    """From a text, and from a picture, in the size asked for."""
    pyvips.Image.black(90, 60, bands=3).write_to_file(str(real_comfyui.input / "start.png"))
    small = {"steps": 1, "sampler_name": "euler", "checkpoint": CHECKPOINTS[0]}
    async with aiohttp.ClientSession(real_comfyui.base_url) as http:
        drawn = await run(http, (await bound("sd1.5/txt2img", width=263, height=256, **small)).graph)
        made = await run(
            http, (await bound("sd1.5/img2img", image="start.png", width=64, height=128, denoise=1, **small)).graph
        )
    for outputs, size in ((drawn, (256, 256)), (made, (64, 128))):
        (picture,) = next(iter(outputs.values()))["images"]
        written = pyvips.Image.new_from_file(str(real_comfyui.output / picture["filename"]))
        assert (written.width, written.height) == size


STAND_INS = [
    *((name, {"checkpoint": CHECKPOINTS[0], "steps": 1, "denoise": 1}) for name in OTHERS[:4]),
    (
        "sdxl/txt2img-with-refiner",
        {"checkpoint": CHECKPOINTS[0], "refiner_checkpoint": CHECKPOINTS[0], "steps": 2}
        | {"base_end_step": 1, "refiner_start_step": 1},
    ),
]


@pytest.mark.comfyui
@pytest.mark.parametrize(("name", "values"), STAND_INS)
async def test_the_others_run_on_another_model(real_comfyui: RealComfyUI, name: str, values: dict[str, Any]) -> None:
    """Every node of theirs does, wired as it is; the checkpoint stands in for theirs, of many gigabytes."""
    pyvips.Image.black(90, 60, bands=3).write_to_file(str(real_comfyui.input / "example.png"))
    async with aiohttp.ClientSession(real_comfyui.base_url) as http:
        outputs = await run(http, (await bound(name, width=256, height=256, **values)).graph)
    (picture,) = next(iter(outputs.values()))["images"]
    written = pyvips.Image.new_from_file(str(real_comfyui.output / picture["filename"]))
    assert (written.width, written.height) == (256, 256)


@pytest.mark.comfyui
@pytest.mark.parametrize("name", OTHERS)
async def test_of_the_others_only_models_are_missing(real_comfyui: RealComfyUI, name: str) -> None:
    """ComfyUI finds nothing else to object to."""
    pyvips.Image.black(90, 60, bands=3).write_to_file(str(real_comfyui.input / "example.png"))
    async with aiohttp.ClientSession(real_comfyui.base_url) as http:
        status, refused = await post(http, (await bound(name)).graph)
    errors = [error for node in refused["node_errors"].values() for error in node["errors"]]
    assert status == 400
    assert {(error["type"], error["extra_info"]["input_name"]) for error in errors} == {
        ("value_not_in_list", "ckpt_name")
    }


@pytest.mark.comfyui
async def test_drafts_know_a_real_object_info(real_comfyui: RealComfyUI) -> None:
    """Its own tooltips and lists come into the draft, and what is not there is not invented."""
    async with aiohttp.ClientSession(real_comfyui.base_url) as http, http.get("/object_info") as answer:
        info = await answer.json()
    for path in sorted(EXAMPLES.rglob("*.json")):
        text = draft_inputs(path.read_bytes(), file=path.name, info=info)
        assert "options: KSampler.sampler_name" in text
        assert "options: CheckpointLoaderSimple.ckpt_name" in text
    assert "The algorithm used when sampling" in text
