"""Workflows with declared parameters; the two modifiers of the API wrapper."""

import contextlib
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.errors import InvalidRequest
from lib.workflow.graph import check_graph
from lib.workflow.placeholders import TOKEN
from lib.workflow.template import Template, TemplateError, load_templates, parse_template

TEMPLATES = load_templates()

DEFAULTS = [
    ("Text2Image", "3", "steps", 20),
    ("Text2Image", "3", "sampler_name", "euler"),
    ("Text2Image", "3", "scheduler", "normal"),
    ("Text2Image", "3", "denoise", 1.0),
    ("Text2Image", "3", "cfg", 8),
    ("Text2Image", "3", "seed", TOKEN),
    ("Text2Image", "4", "ckpt_name", "v1-5-pruned-emaonly-fp16.safetensors"),
    ("Text2Image", "5", "width", 512),
    ("Text2Image", "5", "height", 512),
    ("Text2Image", "5", "batch_size", 1),
    ("Text2Image", "6", "text", ""),
    ("Text2Image", "7", "text", ""),
    ("Text2Image", "9", "filename_prefix", "image"),
    ("Image2Image", "3", "steps", 20),
    ("Image2Image", "3", "sampler_name", "dpmpp_2m"),
    ("Image2Image", "3", "scheduler", "normal"),
    ("Image2Image", "3", "denoise", 0.8700000000000001),
    ("Image2Image", "3", "seed", TOKEN),
    ("Image2Image", "14", "ckpt_name", "v1-5-pruned-emaonly-fp16.safetensors"),
    ("Image2Image", "10", "image", "x.png"),
    ("Image2Image", "12", "pixels", ["10", 0]),
]


def problems(template: Template, values: dict[str, Any]) -> list[dict[str, Any]]:
    """The error list of values that can't be bound."""
    with pytest.raises(InvalidRequest) as caught:
        template.bind(values, loc=("input", "modifications"))
    return caught.value.details["errors"]  # type: ignore[return-value]


@pytest.mark.parametrize(("name", "node", "field", "value"), DEFAULTS)
def test_defaults_are_the_wrappers(name: str, node: str, field: str, value: object) -> None:
    """What the caller leaves out has the documented value."""
    graph = TEMPLATES[name].bind({"input_image": "x.png"})
    assert graph[node]["inputs"][field] == value


@pytest.mark.parametrize("name", ["Text2Image", "Image2Image"])
def test_bound_graphs_are_sound(name: str) -> None:
    """The result passes the same checks as a caller's own graph."""
    check_graph(TEMPLATES[name].bind({"input_image": "https://example.com/a.png"}))


def test_values_reach_their_nodes() -> None:
    """The request of Vast's benchmark, and the wrapper's shipped example with its unknown key."""
    values = {"prompt": "a cat", "width": 128, "height": 64, "steps": 4, "seed": 2**63 - 1, "cfg_scale": 5}
    graph = TEMPLATES["Text2Image"].bind(values)
    assert graph["6"]["inputs"]["text"] == "a cat"
    assert (graph["5"]["inputs"]["width"], graph["5"]["inputs"]["height"]) == (128, 64)
    assert graph["3"]["inputs"]["seed"] == 2**63 - 1
    assert graph["3"]["inputs"]["cfg"] == 8


def test_binding_leaves_the_template_alone() -> None:
    """Two jobs don't see each other's values."""
    before = orjson.dumps(dict(TEMPLATES["Text2Image"].workflow))
    TEMPLATES["Text2Image"].bind({"prompt": "one"})["6"]["inputs"]["text"] += "!"
    assert orjson.dumps(dict(TEMPLATES["Text2Image"].workflow)) == before


def test_a_required_parameter_must_be_given() -> None:
    """ComfyUI would refuse an empty picture name late and unclearly."""
    (problem,) = problems(TEMPLATES["Image2Image"], {})
    assert problem["loc"] == ["input", "modifications", "input_image"]
    assert problem["msg"] == "input_image required but not set"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("steps", "many"),
        ("steps", 1.5),
        ("steps", True),
        ("steps", []),
        ("steps", ["3", 0]),
        ("steps", 0),
        ("width", 1 << 20),
        ("denoise", "nan"),
        ("denoise", 1.5),
        ("denoise", {}),
        ("seed", -1),
        ("seed", 2**64),
        ("seed", "1" * 5000),
        ("prompt", ["6", 0]),
        ("prompt", False),
    ],
)
def test_wrong_values_are_named(field: str, value: object) -> None:
    """The field and what was expected; never a link into the graph."""
    (problem,) = problems(TEMPLATES["Text2Image"], {field: value})
    assert problem["loc"][-1] == field
    assert "must be" in problem["msg"]


def test_all_problems_come_at_once() -> None:
    """The caller need not try again for each."""
    assert len(problems(TEMPLATES["Text2Image"], {"steps": "x", "width": "y"})) == 2


@pytest.mark.parametrize(
    ("field", "given", "node", "name", "value"),
    [
        ("steps", "8", "3", "steps", 8),
        ("steps", 8.0, "3", "steps", 8),
        ("steps", None, "3", "steps", 20),
        ("denoise", "0.5", "3", "denoise", 0.5),
        ("prompt", 7, "6", "text", "7"),
        ("seed", TOKEN, "3", "seed", TOKEN),
    ],
)
def test_what_comfyui_would_convert_is_taken(field: str, given: object, node: str, name: str, value: object) -> None:
    """Digits in strings, whole floats, null for unset, the random token for a number."""
    bound = TEMPLATES["Text2Image"].bind({field: given})[node]["inputs"][name]
    assert bound == value
    assert type(bound) is type(value)


@given(
    st.dictionaries(st.sampled_from(["seed", "steps", "denoise", "prompt", "x"]), st.none() | st.text() | st.floats())
)
def test_any_values_bind_or_are_refused(values: dict[str, Any]) -> None:
    """No value makes another exception than InvalidRequest, and what binds is sound."""
    with contextlib.suppress(InvalidRequest):
        check_graph(TEMPLATES["Text2Image"].bind(values))


def test_an_operators_folder_adds_and_replaces(tmp_path: Path) -> None:
    """Templates of MODIFIERS_PATH come beside ours, a same name in the place of ours."""
    (tmp_path / "own.json").write_bytes(orjson.dumps(file_with()))
    (tmp_path / "again.json").write_bytes(orjson.dumps(file_with(name="Text2Image")))
    templates = load_templates(tmp_path)
    assert set(templates) == {"Own", "Text2Image", "Image2Image"}
    assert len(templates["Text2Image"].parameters) == 1


def file_with(**changes: Any) -> dict[str, Any]:
    """A small template file."""
    parameters = {"colour": {"type": "string", "targets": ["1.color"], "default": "red", "choices": ["red", "blue"]}}
    workflow = {"1": {"class_type": "EmptyImage", "inputs": {"color": 0}}}
    return {"name": "Own", "parameters": parameters, "workflow": workflow} | changes


def test_choices_are_checked() -> None:
    """Only declared values pass."""
    template = parse_template(orjson.dumps(file_with()), source="own.json")
    assert template.bind({"colour": "blue"})["1"]["inputs"]["color"] == "blue"
    assert "one of red, blue" in problems(template, {"colour": "green"})[0]["msg"]


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"parameters": {"a": {"type": "string", "targets": ["9.x"], "default": ""}}}, "no input 9.x"),
        ({"parameters": {"a": {"type": "string", "targets": ["x"], "default": ""}}}, "<node id>.<input>"),
        ({"parameters": {"a": {"type": "integer", "targets": ["1.color"], "default": "red"}}}, "its default must be"),
        ({"parameters": {"a": {"type": "string", "targets": ["1.color"], "default": True}}}, "its default must be"),
        ({"parameters": {"a": {"type": "colour", "targets": []}}}, "type"),
        ({"workflow": {}}, "empty"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_a_bad_template_stops_the_start(changes: dict[str, Any], text: str) -> None:
    """The message names the file and the reason."""
    with pytest.raises(TemplateError, match=text) as caught:
        parse_template(orjson.dumps(file_with(**changes)), source="own.json")
    assert "own.json" in str(caught.value)


def test_a_file_that_is_no_template_is_told_in_one_line() -> None:
    """In words for the operator; nothing of our library's."""
    for data, text in ((b"{", "own.json: Invalid JSON"), (b"[]", "own.json: Input should be an object")):
        with pytest.raises(TemplateError, match=text) as caught:
            parse_template(data, source="own.json")
        assert "\n" not in str(caught.value) and "pydantic" not in str(caught.value)


def test_a_folder_that_is_not_there_stops_the_start(tmp_path: Path) -> None:
    """A typo in MODIFIERS_PATH is told."""
    with pytest.raises(TemplateError, match="expected a folder"):
        load_templates(tmp_path / "nothing")
