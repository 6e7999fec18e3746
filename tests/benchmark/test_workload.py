"""Which workflow is measured: the order of the places, what makes a file unusable, what makes runs differ."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmark.facts import GpuFacts, HostFacts
from benchmark.settings import BenchmarkSettings
from benchmark.workload import RANDOM_INT, UnusableWorkflow, Workload, api_graph, choose, load
from tests.benchmark.test_boot import CPU

GPU = HostFacts(gpus=(GpuFacts(name="RTX 4090", uuid="GPU-1", memory_bytes=1),), driver="570", device="cuda")
PLACES = ("operator.json", "named.json", "wrapper.json")


def graph(name: str) -> dict[str, Any]:
    return {"1": {"class_type": name, "inputs": {"seed": RANDOM_INT}}}


async def pick(folder: Path, *, facts: HostFacts = CPU, checkpoints: tuple[str, ...] | None = None) -> Workload:
    return await choose(
        BenchmarkSettings(json_path=folder / "named.json"),
        facts=facts,
        checkpoints=checkpoints,
        operator_file=folder / "operator.json",
        wrapper_file=folder / "wrapper.json",
    )


@pytest.mark.parametrize("first", range(3))
async def test_the_first_place_with_a_workflow_wins(tmp_path: Path, first: int) -> None:
    """misc/benchmark.json, then BENCHMARK_JSON_PATH, then the base image's file."""
    for name in PLACES[first:]:
        (tmp_path / name).write_text(json.dumps(graph(name)))
    workload = await pick(tmp_path)
    assert workload.source == str(tmp_path / PLACES[first])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "JSON"),
        ("[]", "not a JSON object"),
        ("{}", "not a JSON object"),
        ('{"nodes": [], "links": []}', "UI format"),
        ('{"1": {"inputs": {}}}', "class_type"),
    ],
)
async def test_an_unusable_file_is_named_and_the_next_place_is_tried(tmp_path: Path, content: str, said: str) -> None:
    """A broken file costs a warning, never the start."""
    (tmp_path / "operator.json").write_text(content)
    (tmp_path / "wrapper.json").write_text(json.dumps(graph("Good")))
    workload = await pick(tmp_path)
    assert workload.source.endswith("wrapper.json")
    assert any("operator.json" in warning and said in warning for warning in workload.warnings)


async def test_a_named_file_that_is_absent_is_said(tmp_path: Path) -> None:
    """The other two places are optional, this one was asked for."""
    workload = await pick(tmp_path)
    assert workload.source == "default"
    assert [str(tmp_path / "named.json") in warning for warning in workload.warnings] == [True]


@pytest.mark.parametrize(("facts", "size"), [(CPU, (128, 128, 4)), (GPU, (512, 512, 20))])
async def test_the_default_picture_fits_the_host(tmp_path: Path, facts: HostFacts, size: tuple[int, int, int]) -> None:
    """512x512 with 20 steps on a GPU, 128x128 with 4 steps without one."""
    nodes = (await pick(tmp_path, facts=facts)).graph
    latent = nodes["5"]["inputs"]
    assert (latent["width"], latent["height"], nodes["3"]["inputs"]["steps"]) == size
    assert nodes["4"]["inputs"]["ckpt_name"] == "v1-5-pruned-emaonly-fp16.safetensors"


async def test_test_variables_size_the_default_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``BENCHMARK_TEST_*`` win over the host's defaults, one by one."""
    monkeypatch.setenv("BENCHMARK_TEST_WIDTH", "256")
    monkeypatch.setenv("BENCHMARK_TEST_HEIGHT", "")
    monkeypatch.setenv("BENCHMARK_TEST_STEPS", "9")
    nodes = (await pick(tmp_path)).graph
    assert (nodes["5"]["inputs"]["width"], nodes["5"]["inputs"]["height"]) == (256, 128)
    assert nodes["3"]["inputs"]["steps"] == 9


async def test_another_checkpoint_stands_in_for_an_absent_one(tmp_path: Path) -> None:
    """A host with other models is measured with one of those, and says so."""
    workload = await pick(tmp_path, checkpoints=("z.safetensors", "b.safetensors"))
    assert workload.graph["4"]["inputs"]["ckpt_name"] == "b.safetensors"
    assert any("b.safetensors" in warning for warning in workload.warnings)


def test_fixed_seeds_are_made_random(tmp_path: Path) -> None:
    """A converted workflow keeps its author's seed; every run of it must still be a new picture."""
    path = tmp_path / "fixed.json"
    nodes = {
        "1": {"class_type": "KSampler", "inputs": {"seed": 5, "steps": 3}},
        "2": {"class_type": "RandomNoise", "inputs": {"noise_seed": 6}},
        "3": {"class_type": "Other", "inputs": {"seed": ["1", 0]}},
    }
    path.write_text(json.dumps(nodes))
    workload = load(path)
    assert workload.graph["1"]["inputs"] == {"seed": RANDOM_INT, "steps": 3}
    assert workload.graph["2"]["inputs"]["noise_seed"] == RANDOM_INT
    assert workload.graph["3"]["inputs"]["seed"] == ["1", 0]
    assert workload.warnings == ()


def test_a_workflow_that_never_varies_is_warned_about(tmp_path: Path) -> None:
    """ComfyUI's cache would answer from the second run on."""
    path = tmp_path / "still.json"
    path.write_text('{"1": {"class_type": "EmptyImage", "inputs": {"width": 64}}}')
    assert "cache" in load(path).warnings[0]


def test_placeholders_of_the_author_are_left_alone(tmp_path: Path) -> None:
    """Where the author chose what varies, a fixed seed is meant."""
    path = tmp_path / "own.json"
    path.write_text(json.dumps({"1": {"class_type": "A", "inputs": {"seed": 5, "text": "x __RANDOM_INT__"}}}))
    assert load(path).graph["1"]["inputs"]["seed"] == 5


def test_the_prompt_goes_where_the_token_is() -> None:
    """``__RANDOM_PROMPT__`` is ours; ``__RANDOM_INT__`` stays for the service."""
    nodes = {"1": {"class_type": "A", "inputs": {"text": "a: __RANDOM_PROMPT__!", "seed": RANDOM_INT, "n": 1}}}
    workload = Workload(source="s", graph=nodes, title="t")
    assert workload.wants_prompts
    body = json.loads(workload.body('two "otters"'))
    assert body["1"]["inputs"] == {"text": 'a: two "otters"!', "seed": RANDOM_INT, "n": 1}
    assert nodes["1"]["inputs"]["text"] == "a: __RANDOM_PROMPT__!"


@pytest.mark.parametrize("wrap", [lambda g: g, lambda g: {"prompt": g}, lambda g: {"input": {"workflow_json": g}}])
def test_wrapped_graphs_are_unwrapped(wrap: Any) -> None:
    """A saved request is as good as a bare graph."""
    assert api_graph(wrap(graph("A"))) == graph("A")


def test_a_node_may_be_called_prompt() -> None:
    """A key that holds a node is a node."""
    nodes = {"prompt": {"class_type": "A", "inputs": {}}}
    assert api_graph(nodes) == nodes


def test_the_hash_is_of_what_is_measured() -> None:
    """Order of keys does not count, every value does."""
    one = Workload(source="a", graph={"1": {"class_type": "A", "inputs": {"x": 1, "y": 2}}}, title="a")
    same = Workload(source="b", graph={"1": {"inputs": {"y": 2, "x": 1}, "class_type": "A"}}, title="b")
    other = Workload(source="a", graph={"1": {"class_type": "A", "inputs": {"x": 1, "y": 3}}}, title="a")
    assert one.digest == same.digest != other.digest


def test_the_shipped_example_is_a_usable_workflow() -> None:
    """``misc/benchmark.example.json`` is what an operator copies to ``benchmark.json``."""
    folder = Path(__file__).resolve().parents[2] / "workers" / "comfyui-json" / "misc"
    workload = load(folder / "benchmark.example.json")
    assert workload.wants_prompts
    assert workload.warnings == ()
    assert not (folder / "benchmark.json").exists()


def test_an_unreadable_file_says_why(tmp_path: Path) -> None:
    """A folder in place of a file is named, not raised as OSError."""
    with pytest.raises(UnusableWorkflow, match="JSON"):
        load(tmp_path)
