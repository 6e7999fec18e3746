"""Drafts of the file that names a graph's inputs."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.errors import InvalidWorkflow
from lib.workflow.drafting.facts import SENSIBLE
from lib.workflow.drafting.following import TEXT_NAMES, VALUE_NAMES
from lib.workflow.drafting.proposals import NAMES
from lib.workflow.drafting.writing import draft_inputs, read_info
from lib.workflow.endpoints.declared import FileProblem, parse_declared
from lib.workflow.placeholders import TOKEN
from lib.workflow.template import load_templates

EXAMPLES = Path(__file__).resolve().parents[4] / "workflow-endpoints"
GOLDEN = Path(__file__).resolve().parents[3] / "golden" / "workflow"
SDXL: dict[str, Any] = orjson.loads((GOLDEN / "sdxl.json").read_bytes())
"""Base and refiner, two LoRAs, a control net, texts behind links and apart."""


def draft(graph: Any, info: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The inputs of a draft, by name."""
    text = draft_inputs(orjson.dumps(graph), file="own.json", info=info)
    return dict(yaml.safe_load(text)["inputs"])


def test_a_rich_graph_is_read_as_its_author_meant_it() -> None:
    """Texts behind links and control nets, both samplers' settings together, each LoRA apart, nothing of the rest."""
    inputs = draft(SDXL)
    assert {name: item["targets"] for name, item in inputs.items()} == {
        "image": "10.image",
        "prompt": ["5.value", "6.text_l", "8.text"],
        "negative_prompt": "7.text",
        "negative_prompt_2": "9.text",
        "text_in_the_corner": "17.text",
        "width": ["6.width", "13.width"],
        "height": "16.value",
        "batch_size": "13.batch_size",
        "seed": "14.noise_seed",
        "steps": ["14.steps", "15.steps"],
        "cfg_scale": ["14.cfg", "15.cfg"],
        "sampler_name": ["14.sampler_name", "15.sampler_name"],
        "scheduler": ["14.scheduler", "15.scheduler"],
        "start_step": "14.start_at_step",
        "start_step_2": "15.start_at_step",
        "end_step": "14.end_at_step",
        "end_step_2": "15.end_at_step",
        "checkpoint": "1.ckpt_name",
        "checkpoint_2": "2.ckpt_name",
        "lora": "3.lora_name",
        "lora_strength": "3.strength_model",
        "lora_clip_strength": "3.strength_clip",
        "lora_2": "4.lora_name",
        "lora_strength_2": "4.strength_model",
        "lora_clip_strength_2": "4.strength_clip",
        "control_net": "11.control_net_name",
    }
    assert inputs["seed"]["random"] is True
    assert inputs["width"] | {"targets": 0, "description": 0} == {
        "type": "integer",
        "targets": 0,
        "description": 0,
        "minimum": 64,
        "maximum": 4096,
        "multiple_of": 8,
    }
    assert inputs["checkpoint"]["options"] == "CheckpointLoaderSimple.ckpt_name"
    assert inputs["sampler_name"]["options"] == "KSamplerAdvanced.sampler_name"
    assert inputs["text_in_the_corner"]["title"] == "Text in the Corner!"


def test_guiders_and_zeroed_sides() -> None:
    """Flux as it is usually built: guidance on the way, nothing negative."""
    graph = {
        "1": {"class_type": "CLIPTextEncodeFlux", "inputs": {"clip_l": "short", "t5xxl": "long", "guidance": 3.5}},
        "2": {"class_type": "FluxGuidance", "inputs": {"conditioning": ["1", 0], "guidance": 4.0}},
        "3": {"class_type": "BasicGuider", "inputs": {"model": ["9", 0], "conditioning": ["2", 0]}},
        "4": {"class_type": "RandomNoise", "inputs": {"noise_seed": 2**64 - 1}},
        "5": {"class_type": "KSamplerSelect", "inputs": {"sampler_name": "euler"}},
        "6": {"class_type": "BasicScheduler", "inputs": {"scheduler": "simple", "steps": 4, "denoise": 1}},
        "7": {"class_type": "SamplerCustomAdvanced", "inputs": {"noise": ["4", 0], "guider": ["3", 0]}},
        "8": {"class_type": "ConditioningZeroOut", "inputs": {"conditioning": ["2", 0]}},
        "9": {"class_type": "UNETLoader", "inputs": {"unet_name": "flux.safetensors", "weight_dtype": "default"}},
        "10": {"class_type": "KSampler", "inputs": {"positive": ["2", 0], "negative": ["8", 0]}},
    }
    targets = {name: item["targets"] for name, item in draft(graph).items()}
    assert targets["prompt"] == "1.clip_l"
    assert targets["prompt_2"] == "1.t5xxl"
    assert "negative_prompt" not in targets
    assert targets["guidance"] == "1.guidance"
    assert targets["guidance_2"] == "2.guidance"
    assert targets["seed"] == "4.noise_seed"
    assert targets["diffusion_model"] == "9.unet_name"


def test_object_info_gives_types_ranges_and_texts() -> None:
    """The node's own bounds within the sensible ones, its tooltip, its uploads, its lists, old style and new."""
    info = {
        "Own": {
            "input": {
                "required": {
                    "width": ["INT", {"min": 32, "max": 1024, "step": 16}],
                    "steps": ["INT", {"min": 5, "max": 1000, "tooltip": "How  often."}],
                    "cfg": ["FLOAT", {"min": -(2**70), "max": 10.0}],
                    "seed": ["INT", {"min": 0, "max": 2**64 - 1}],
                    "sampler_name": [["a", "b"]],
                    "scheduler": ["COMBO", {"options": ["a"]}],
                    "model_name": ["COMBO", {"options": ["m"]}],
                    "denoise": ["MODEL"],
                    "text": [["choice"]],
                },
                "optional": {
                    "picture": [["x.png"], {"image_upload": True}],
                    "sound": ["COMBO", {"audio_upload": True}],
                },
            }
        }
    }
    values = {"width": 512, "steps": 8, "cfg": 1, "seed": 1, "sampler_name": "a", "scheduler": "a", "denoise": 1}
    inputs = {**values, "model_name": "m", "text": "choice", "picture": "x.png", "sound": "x.wav"}
    drafted = draft({"1": {"class_type": "Own", "inputs": inputs, "_meta": {"title": "Own"}}}, info)
    assert drafted["width"]["minimum"] == 64
    assert drafted["width"]["maximum"] == 1024
    assert drafted["width"]["multiple_of"] == 16
    assert (drafted["steps"]["minimum"], drafted["steps"]["maximum"]) == (5, 150)
    assert (drafted["cfg_scale"]["minimum"], drafted["cfg_scale"]["maximum"]) == (0, 10.0)
    assert drafted["seed"]["random"] is True
    assert drafted["sampler_name"]["options"] == "Own.sampler_name"
    assert drafted["scheduler"]["options"] == "Own.scheduler"
    assert drafted["image"] == {"type": "image", "targets": "1.picture"}
    assert drafted["audio"] == {"type": "audio", "targets": "1.sound"}
    assert "denoise" not in drafted
    assert "own" not in drafted


def test_an_empty_picture_must_be_given() -> None:
    """There is no default that would do."""
    graph = {"1": {"class_type": "LoadImage", "inputs": {"image": ""}}}
    assert draft(graph) == {"image": {"type": "image", "targets": "1.image", "required": True}}


def test_values_outside_the_usual_widen_it() -> None:
    """What the author chose is always possible."""
    inputs = {"seed": -1, "steps": 1000, "width": 1001, "height": 32, "denoise": 1.5, "cfg": "8", "batch_size": 1.5}
    drafted = draft({"1": {"class_type": "KSampler", "inputs": inputs}})
    assert drafted["seed"]["minimum"] == -1
    assert drafted["steps"]["maximum"] == 1000
    assert "multiple_of" not in drafted["width"]
    assert drafted["height"]["minimum"] == 32
    assert drafted["denoise"]["maximum"] == 1.5
    assert drafted["batch_size"]["type"] == "number"
    assert "cfg_scale" not in drafted


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"{", FileProblem),
        (b"[]", FileProblem),
        (b'{"nodes": [], "links": []}', InvalidWorkflow),
        (b"{}", InvalidWorkflow),
    ],
)
def test_what_is_no_graph_is_refused(data: bytes, error: type[Exception]) -> None:
    """With the text that a caller of the API would read."""
    with pytest.raises(error):
        draft_inputs(data, file="own.json")


@pytest.mark.parametrize("data", [b"[]", b"3", b"{", b'{"A": 1}'])
def test_what_is_no_object_info_is_refused(data: bytes) -> None:
    """Another file than was meant."""
    with pytest.raises((FileProblem, InvalidWorkflow, Exception), match=r"JSON|object_info"):
        read_info(data)


SCALARS = (
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
)
TEXTS = st.text(max_size=12).filter(lambda text: "/" not in text and "\\" not in text and ".." not in text)
CLASSES = st.sampled_from(
    [
        *("KSampler", "KSamplerAdvanced", "CLIPTextEncode", "LoadImage", "LoraLoader", "VAELoader", "PrimitiveInt"),
        *("CFGGuider", "BasicGuider", "ControlNetApplyAdvanced", "ConditioningZeroOut", "EmptyLatentImage", "Größe"),
    ]
)
FIELDS = st.sampled_from(
    [
        *(*NAMES, *SENSIBLE, *TEXT_NAMES, *VALUE_NAMES, "vae_name", "positive", "negative", "conditioning", "guider"),
        *("image", "negative_prompt", "add_noise", "a.b", "on", "control_net_name"),
    ]
)


@st.composite
def graphs(draw: st.DrawFn) -> dict[str, Any]:
    """Well-formed graphs of known and unknown nodes, with all that they may hold."""
    graph: dict[str, Any] = {}
    for index in range(draw(st.integers(1, 7))):
        known = list(graph)
        links = st.tuples(st.sampled_from(known), st.integers(0, 2)).map(list) if known else st.nothing()
        value = SCALARS | TEXTS | links | st.sampled_from([TOKEN, "a cat", 7, 7.0, {"__value__": [1, 2]}])
        node = {"class_type": draw(CLASSES), "inputs": draw(st.dictionaries(FIELDS, value, max_size=8))}
        if draw(st.booleans()):
            node["_meta"] = {"title": draw(st.text(max_size=20))}
        graph[draw(st.sampled_from([f"{index}", f"{index}:4", f"n {index}", f"{index}.5"]))] = node
    return graph


@settings(max_examples=150, deadline=None)
@given(graphs())
def test_a_draft_makes_the_very_same_graph(graph: dict[str, Any]) -> None:
    """It is loadable, and with defaults (seeds as they stand, files that must be named) binds to what it came from."""
    data = orjson.dumps(graph)
    template = parse_declared(data, draft_inputs(data, file="own.json").encode(), name="own")
    given_values = {
        parameter.name: graph[parameter.targets[0][0]]["inputs"][parameter.targets[0][1]]
        for parameter in template.parameters
        if parameter.random or parameter.required
    }
    kept = {name: value for name, value in given_values.items() if value not in ("", TOKEN)}
    named = {name: "x" for name, value in given_values.items() if value == ""}
    bound = template.fill(template.check({**kept, **named}))
    for parameter in template.parameters:
        if parameter.name in given_values.keys() - kept.keys():
            for node_id, name in parameter.targets:
                bound[node_id]["inputs"][name] = graph[node_id]["inputs"][name]
    assert bound == orjson.loads(data)


@pytest.mark.parametrize("name", ["Text2Image", "Image2Image"])
def test_our_own_graphs_can_be_drafted(name: str) -> None:
    """What the API wrapper's modifiers expose is found."""
    template = load_templates()[name]
    found = {target for item in draft(dict(template.workflow)).values() for target in _list(item["targets"])}
    assert {f"{node}.{field}" for item in template.parameters for node, field in item.targets} <= found


@pytest.mark.parametrize("path", sorted(EXAMPLES.rglob("*.json")), ids=lambda path: path.stem)
def test_the_examples_graphs_can_be_drafted(path: Path) -> None:
    """A draft finds what their authors exposed, but for two choices of the scaling node."""
    meant = yaml.safe_load(path.with_suffix(".yaml").read_text())["inputs"]
    found = {target for item in draft(orjson.loads(path.read_bytes())).values() for target in _list(item["targets"])}
    assert {target for item in meant.values() for target in _list(item["targets"])} - found <= {
        "3.upscale_method",
        "3.crop",
    }


def _list(targets: str | list[str]) -> list[str]:
    return [targets] if isinstance(targets, str) else targets
