"""Endpoints without code: a graph and the file that names its inputs."""

from typing import Any

import orjson
import pytest

from lib.errors import InvalidRequest, UnsafeInput
from lib.workflow.endpoints.declared import FileProblem, parse_declared
from lib.workflow.endpoints.endpoint import DeclaredEndpoint, dotted, route_of
from lib.workflow.parameters import no_options
from lib.workflow.template import Template

GRAPH: dict[str, Any] = {
    "3": {
        "class_type": "KSampler",
        "inputs": {"seed": 5, "steps": 20, "cfg": 8, "sampler_name": "euler", "positive": ["6", 0]},
    },
    "6": {"class_type": "CLIPTextEncode", "inputs": {"text": "a cat", "a.b": 1}},
    "7": {"class_type": "Size", "inputs": {"width": 512, "height": 512.0, "depth": 3, "on": True}},
    "12:3": {"class_type": "Inner", "inputs": {"value": "x"}},
}
INPUTS = """\
summary: One
description: Two
inputs:
  prompt:
    type: string
    targets: 6.text
    required: true
    description: What it shows.
  seed:
    type: integer
    targets: 3.seed
    random: true
  steps:
    type: integer
    targets: [3.steps]
    minimum: 1
    maximum: 100
  side:
    type: integer
    targets: [7.width, 7.height]
    multiple_of: 8
  sampler:
    type: string
    targets: 3.sampler_name
    options: KSampler.sampler_name
  inner:
    type: string
    targets: "12:3.value"
  dotted:
    type: integer
    targets: 6.a.b
"""


def parse(inputs: str = INPUTS, graph: Any = GRAPH) -> Template:
    return parse_declared(orjson.dumps(graph), inputs.encode(), name="own")


def endpoint() -> DeclaredEndpoint:
    return DeclaredEndpoint(template=parse())


def options(class_type: str, name: str) -> tuple[str, ...]:
    return ("euler", "heun")


async def test_values_go_to_their_targets() -> None:
    """One or several, behind dots in ids and names; what is not given keeps the graph's own value."""
    bound = await endpoint().bind({"prompt": "a dog", "side": 64, "seed": 7, "dotted": 2}, options=options)
    assert bound.values == {
        "prompt": "a dog",
        "seed": 7,
        "steps": 20,
        "side": 64,
        "sampler": "euler",
        "inner": "x",
        "dotted": 2,
    }
    assert bound.graph["6"]["inputs"] == {"text": "a dog", "a.b": 2}
    assert bound.graph["7"]["inputs"] == {"width": 64, "height": 64, "depth": 3, "on": True}
    assert bound.graph["3"]["inputs"]["positive"] == ["6", 0]
    assert GRAPH["6"]["inputs"]["text"] == "a cat"


async def test_seeds_are_drawn_and_shown() -> None:
    """So that a result can be made again."""
    seeds = set()
    for _ in range(10):
        bound = await endpoint().bind({"prompt": "x"}, options=options)
        assert bound.graph["3"]["inputs"]["seed"] == bound.values["seed"]
        seeds.add(bound.values["seed"])
    assert len(seeds) == 10


async def test_the_random_token_of_a_graph_is_drawn_too() -> None:
    """A number is shown, not the token."""
    graph = {**GRAPH, "3": {**GRAPH["3"], "inputs": {**GRAPH["3"]["inputs"], "seed": "__RANDOM_INT__"}}}
    own = DeclaredEndpoint(template=parse(INPUTS.replace("    random: true\n", ""), graph))
    assert isinstance((await own.bind({"prompt": "x"}, options=options)).values["seed"], int)
    assert "default" not in own.schema(options)["properties"]["seed"]


async def test_wrong_values_are_named_all_at_once() -> None:
    """With their places from the body's top."""
    with pytest.raises(InvalidRequest) as caught:
        await endpoint().bind({"steps": "20", "side": 65, "sampler": "hen", "inner": None}, options=options)
    errors: Any = caught.value.details["errors"]
    assert {dotted(error["loc"]): error["msg"] for error in errors} == {
        "input.prompt": "prompt required but not set",
        "input.steps": "steps must be an integer, not a string",
        "input.side": "side must be a multiple of 8",
        "input.sampler": "sampler must be one of euler, heun",
        "input.inner": "inner must be a string, not null",
    }


@pytest.mark.parametrize("values", [None, [], "x", 3])
async def test_an_input_is_an_object(values: object) -> None:
    """Anything else is refused as a whole."""
    with pytest.raises(InvalidRequest, match="input: must be an object"):
        await endpoint().bind(values, options=options)


@pytest.mark.parametrize("name", ["../secret.png", "/etc/passwd", "a/../../b.png", "C:\\x.png"])
async def test_a_file_stays_in_its_folder(name: str) -> None:
    """As in a graph that a caller sends whole."""
    graph = orjson.dumps({"1": {"class_type": "LoadImage", "inputs": {"image": "example.png"}}})
    inputs = b"inputs: {image: {type: image, targets: 1.image}}"
    own = DeclaredEndpoint(template=parse_declared(graph, inputs, name="own"))
    with pytest.raises(UnsafeInput, match="input folder"):
        await own.bind({"image": name}, options=options)
    assert (await own.bind({"image": "https://example.com/a.png"}, options=options)).graph


def test_the_document() -> None:
    """Types, ranges, choices of the moment, the graph's own values as defaults."""
    own = endpoint()
    assert (own.summary, own.description, own.name, route_of(own)) == ("One", "Two", "own", "own")
    schema = own.schema(options)
    assert schema["required"] == ["prompt"]
    assert schema["properties"]["steps"] == {"type": "integer", "minimum": 1, "maximum": 100, "default": 20}
    assert schema["properties"]["sampler"]["enum"] == ["euler", "heun"]
    assert "enum" not in own.schema(no_options)["properties"]["sampler"]


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        ("    type: integer\n    targets: 3.seed", "    targets: 3.seed", "line 9: inputs.seed.type: is missing"),
        ("minimum: 1", "minimum: few", "line 16: inputs.steps.minimum: .*not 'few'"),
        ("minimum: 1", "minimum: 30", "line 13: inputs.steps: its default must be at least 30"),
        ("minimum: 1", "minimum: 300", "line 13: inputs.steps: minimum 300 is more than maximum 100"),
        ("minimum: 1", "minimun: 1", "line 16: inputs.steps.minimun: is not known; expected one of .*minimum perhaps"),
        (
            "type: string\n    targets: 6.text",
            "type: text\n    targets: 6.text",
            "line 5: inputs.prompt.type: .*not 'text'",
        ),
        (
            "targets: 6.text",
            "targets: 9.text",
            "line 4: inputs.prompt: the graph has no input 9.text; its nodes are 3, 6,",
        ),
        ("targets: 6.text", "targets: 6.txt", "inputs.prompt: .*no input 6.txt; inputs of node 6 are text, a.b"),
        ("targets: 6.text", "targets: text", "expected '<node id>.<input>'"),
        ("targets: 6.text", "targets: []", "line 6: inputs.prompt.targets: "),
        ("targets: [7.width, 7.height]", "targets: [7.width, 7.depth]", "its targets have different values"),
        ("targets: 3.seed", "targets: 3.positive", ""),
        ("targets: 6.a.b", "targets: 3.positive", "in the graph it is no plain value"),
        ("options: KSampler.sampler_name", "options: sampler_name", "expected '<class_type>.<input>'"),
        ("options: KSampler.sampler_name", "urls: true", "urls stands beside options"),
        ("random: true", "random: 'yes'", "line 12: inputs.seed.random: .*not 'yes'"),
        ("summary: One", "summary: [One]", "line 1: summary: .*string"),
        ("summary: One", "name: One", "line 1: name: is not known; expected one of summary, description, inputs"),
        ("inputs:", "input:", "is not known; expected one of .*inputs perhaps"),
        ("  seed:", "  prompt:", "line 9: prompt stands twice, first on line 4"),
        (INPUTS, "", "is not a mapping; expected the keys inputs"),
        (INPUTS, "summary: x", "line 1: inputs: is missing"),
        (INPUTS, "inputs: []", "line 1: inputs: "),
    ],
)
def test_mistakes_in_the_inputs_file(old: str, new: str, text: str) -> None:
    """Each names line, key and what was expected."""
    assert old in INPUTS
    if not text:
        assert parse(INPUTS.replace(old, new)).parameters  # a link may be replaced by what is drawn or given
        return
    with pytest.raises(FileProblem, match=text) as caught:
        parse(INPUTS.replace(old, new, 1))
    assert not caught.value.in_graph


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b'{\n  "1": {,\n}', r"^line 2: is not JSON: .*column 9"),
        (b"", "is not JSON"),
        (b"[]", "is not an object; expected a graph in API format"),
        (b'{"1": NaN}', "is not JSON"),
        (b'{"nodes": [], "links": []}', r"Export \(API\)"),
        (b'{"1": {"class_type": "A"}}', "has no inputs object"),
        (b'{"1": {"class_type": "A", "inputs": {"x": ["2", 0]}}}', "names node '2'"),
        (b'{"1": {"class_type": "LoadImage", "inputs": {"image": "/etc/passwd"}}}', "is an absolute path"),
        (b'{"1": {"class_type": "A", "inputs": {"x": 99999999999999999999999}}}', "out of range"),
    ],
)
def test_mistakes_in_the_graph(data: bytes, text: str) -> None:
    """They are the graph's file's, and say where they are."""
    with pytest.raises(FileProblem, match=text) as caught:
        parse_declared(data, b"inputs: {}", name="own")
    assert caught.value.in_graph


def test_a_name_is_percent_encoded_in_a_route() -> None:
    """Segments stay segments."""
    own = DeclaredEndpoint(template=parse_declared(orjson.dumps(GRAPH), b"inputs: {}", name="s d/größe{1}%"))
    assert route_of(own) == "s%20d/gr%C3%B6%C3%9Fe%7B1%7D%25"
