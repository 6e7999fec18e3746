"""The cost of a workflow before it ran: an estimate that survives everything, and the key for what it took."""

import copy
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.workflow.cost import measure
from lib.workflow.template import load_templates

Graph = dict[str, Any]


def node(class_type: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": class_type, "inputs": inputs}


def picture(**changes: Any) -> Graph:
    """The reference workload: SD 1.5, 512x512, 20 steps, batch 1."""
    values = {"width": 512, "height": 512, "steps": 20, "batch_size": 1, "denoise": 1, "cfg": 8.0} | changes
    return {
        "3": node(
            "KSampler",
            seed=values.get("seed", 1),
            steps=values["steps"],
            cfg=values["cfg"],
            sampler_name=values.get("sampler_name", "euler"),
            scheduler="normal",
            denoise=values["denoise"],
            model=["4", 0],
            positive=["6", 0],
            negative=["7", 0],
            latent_image=["5", 0],
        ),
        "4": node("CheckpointLoaderSimple", ckpt_name=values.get("ckpt_name", "v1-5-pruned-emaonly.safetensors")),
        "5": node("EmptyLatentImage", **{name: values[name] for name in ("width", "height", "batch_size")}),
        "6": node("CLIPTextEncode", text=values.get("text", "a cat"), clip=["4", 1]),
        "7": node("CLIPTextEncode", text="", clip=["4", 1]),
        "8": node("VAEDecode", samples=["3", 0], vae=["4", 2]),
        "9": node("SaveImage", images=["8", 0], filename_prefix="x"),
    }


def units(graph: Graph) -> float:
    return measure(graph).units


def test_the_reference_job_weighs_a_hundred() -> None:
    """SD 1.5, 512x512, 20 steps, batch 1: Vast's constant, so that both models of cost speak of one unit."""
    assert units(picture()) == pytest.approx(100)
    assert units(load_templates()["Text2Image"].bind({})) == pytest.approx(100)


@pytest.mark.parametrize(
    ("changes", "factor"),
    [
        ({"steps": 40}, 1.95),
        ({"steps": "40"}, 1.95),
        ({"width": 1024}, 1.99),
        ({"batch_size": 4}, 3.97),
        ({"sampler_name": "heun"}, 1.95),
        ({"cfg": 1}, 0.525),
        ({"denoise": 0.5}, 1.0),
        ({"denoise": 0}, 0.05),
        ({"ckpt_name": "sd_xl_base_1.0.safetensors", "width": 1024, "height": 1024}, 5.1),
    ],
)
def test_what_makes_work_counts(changes: dict[str, Any], factor: float) -> None:
    """Steps, pixels, pictures, runs of the model a step; a KSampler makes all its steps whatever its denoise."""
    assert units(picture(**changes)) == pytest.approx(100 * factor, rel=0.02)


def test_sizes_are_found_through_links() -> None:
    """What an upscaled, repeated or cut latent is, its sampler is asked to do; several samplers add up."""
    graph = picture()
    second = copy.deepcopy(graph["3"])
    second["inputs"]["latent_image"] = ["10", 0]
    graph |= {"10": node("LatentUpscaleBy", samples=["3", 0], scale_by=2.0), "11": second}
    assert units(graph) == pytest.approx(500, rel=0.01)
    graph["10"] = node("LatentUpscale", samples=["3", 0], width=1024, height=512)
    assert units(graph) == pytest.approx(300, rel=0.01)
    graph["10"] = node("RepeatLatentBatch", samples=["3", 0], amount=3)
    assert units(graph) == pytest.approx(400, rel=0.01)
    graph["12"] = node("LatentFromBatch", samples=["10", 0], batch_index=0, length=2)
    graph["11"]["inputs"]["latent_image"] = ["12", 0]
    assert units(graph) == pytest.approx(300, rel=0.01)


def custom(guider: Any, sigmas: Graph, **more: Any) -> Graph:
    return {
        "1": node("UNETLoader", unet_name="flux1-dev.safetensors"),
        "2": node("EmptySD3LatentImage", width=512, height=512, batch_size=1),
        "3": node("KSamplerSelect", sampler_name="euler"),
        "4": guider,
        "6": node(
            "SamplerCustomAdvanced", guider=["4", 0], sampler=["3", 0], sigmas=["5", 0], latent_image=["2", 0], **more
        ),
    } | sigmas


def test_custom_samplers_take_their_steps_from_the_schedule() -> None:
    """Splits included; a guider without a negative prompt runs the model once; the model's file tells its weight."""
    basic = node("BasicGuider", model=["1", 0])
    twenty = {"5": node("BasicScheduler", steps=20, denoise=1.0, model=["1", 0])}
    whole = units(custom(basic, twenty))
    assert whole == pytest.approx(95 * 7.5 / 2, rel=0.03)
    assert units(custom(node("CFGGuider", model=["1", 0], cfg=3.5), twenty)) == pytest.approx(2 * whole, rel=0.02)
    split = {"7": twenty["5"], "5": node("SplitSigmas", sigmas=["7", 0], step=5)}
    assert units(custom(basic, split)) == pytest.approx(whole / 4, rel=0.05)
    low = custom(basic, split)
    low["6"]["inputs"]["sigmas"] = ["5", 1]
    assert units(low) == pytest.approx(whole * 3 / 4, rel=0.02)


def test_an_advanced_sampler_makes_the_steps_between_its_ends() -> None:
    """Start and end are ComfyUI's: the end may lie beyond the last step."""
    graph = picture()
    graph["3"]["class_type"] = "KSamplerAdvanced"
    graph["3"]["inputs"] |= {"start_at_step": 10, "end_at_step": 10000}
    assert units(graph) == pytest.approx(52.5, rel=0.01)
    graph["3"]["inputs"] |= {"start_at_step": 0, "end_at_step": 5}
    assert units(graph) == pytest.approx(28.75, rel=0.01)


def test_a_video_weighs_as_many_pictures_as_its_latent_has_frames() -> None:
    """81 frames are 21 latent ones; the 14 B model weighs more than the small one."""
    graph = picture(ckpt_name="wan2.1_t2v_1.3B_fp16.safetensors")
    graph["5"] = node("EmptyHunyuanLatentVideo", width=832, height=480, length=81, batch_size=1)
    small = units(graph)
    assert small == pytest.approx(95 * 3 * 21 * 832 * 480 / 512**2, rel=0.03)
    graph["4"]["inputs"]["ckpt_name"] = "wan2.1_t2v_14B_fp8.safetensors"
    assert units(graph) > 4 * small


def test_a_graph_that_samples_nothing_weighs_its_pictures() -> None:
    """A tiny graph is next to nothing; an upscaling model is work of its own."""
    tiny = {"1": node("EmptyImage", width=64, height=64, batch_size=1), "2": node("SaveImage", images=["1", 0])}
    assert units(tiny) < 1
    loaded = {"1": node("LoadImage", image="a.png"), "2": node("SaveImage", images=["1", 0])}
    assert units(tiny) < units(loaded) < 20
    loaded["3"] = node("UpscaleModelLoader", model_name="RealESRGAN_x2plus.pth")
    loaded["2"] = node("ImageUpscaleWithModel", upscale_model=["3", 0], image=["1", 0])
    assert 100 < units(loaded) < 300


@pytest.mark.parametrize("token", ["__RANDOM_INT__", None, ["99", 0], ["6", 0], {}, True, float("nan")])
def test_a_value_that_can_not_be_told_is_the_usual_one(token: Any) -> None:
    """Placeholders, links to nowhere and nonsense count as 20 steps."""
    assert units(picture(steps=token)) == pytest.approx(100)


def test_a_linked_number_is_read() -> None:
    """Where it comes from a node of a single value."""
    graph = picture(steps=["10", 0]) | {"10": node("PrimitiveInt", value=40)}
    assert units(graph) == pytest.approx(195, rel=0.01)


def test_the_shape_is_the_work_and_not_the_text() -> None:
    """Seeds, prompts and names of nodes do not part what takes the same time; sizes, models and classes do."""
    shape = measure(picture()).shape
    assert measure(picture(seed=7, text="a dog", cfg=7.5)).shape == shape
    renamed = {f"n{key}": value for key, value in reversed(picture().items())}
    for entry in renamed.values():
        for name, value in entry["inputs"].items():
            if isinstance(value, list):
                entry["inputs"][name] = [f"n{value[0]}", value[1]]
    assert measure(renamed).shape == shape
    others = [picture(steps=30), picture(width=768), picture(batch_size=2), picture(ckpt_name="other.safetensors")]
    more = picture() | {"10": node("PreviewImage", images=["8", 0])}
    assert len({shape, *(measure(graph).shape for graph in [*others, more])}) == 6


def test_circles_and_long_chains_are_survived() -> None:
    """The links are followed a limited way."""
    circle = picture()
    circle["5"] = node("LatentRotate", samples=["3", 0])
    assert math.isfinite(units(circle))
    chain = picture() | {f"u{n}": node("LatentUpscaleBy", samples=[f"u{n + 1}", 0], scale_by=8) for n in range(5000)}
    chain["3"]["inputs"]["latent_image"] = ["u0", 0]
    assert math.isfinite(units(chain))


values = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=12)
    | st.sampled_from(["1e400", "-5", 10**400, "4x.pth"])
    | st.tuples(st.sampled_from("12345"), st.integers(-1, 2)).map(list)
    | st.lists(st.integers(), max_size=3)
    | st.dictionaries(st.text(max_size=3), st.integers(), max_size=2)
)
names = st.sampled_from(
    [
        *("width", "height", "steps", "batch_size", "length", "video_frames", "denoise", "sigmas", "samples", "image"),
        *("latent_image", "model", "guider", "sampler", "upscale_model", "scale_by", "start_at_step", "end_at_step"),
        *("amount", "megapixels", "seconds", "batch_index", "step", "cfg", "sampler_name", "ckpt_name"),
    ]
)
kinds = st.sampled_from(
    ["KSampler", "KSamplerAdvanced", "SamplerCustomAdvanced", "SplitSigmas", "GITSScheduler", "LoadImage", "X"]
)
nodes = st.fixed_dictionaries({"class_type": kinds, "inputs": st.dictionaries(names, values)})
graphs = st.dictionaries(st.sampled_from("12345"), nodes | values)


@given(graphs | values)
def test_nothing_makes_it_fail(graph: Any) -> None:
    """Whatever a stranger sends: a finite, positive number and a key, the same ones for the same graph."""
    estimate = measure(graph)
    assert math.isfinite(estimate.units) and estimate.units > 0
    assert len(estimate.shape) == 24
    assert measure(graph) == estimate


@given(st.sampled_from(["steps", "width", "height", "batch_size"]), st.integers(-5, 10**9), st.integers(-5, 10**9))
def test_more_is_never_less(name: str, one: int, other: int) -> None:
    """Monotone in steps, pixels and pictures, also beyond what ComfyUI takes."""
    less, more = sorted((one, other))
    assert units(picture(**{name: less})) <= units(picture(**{name: more}))
