"""Endpoints written in Python."""

import re
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from lib.errors import InvalidRequest, InvalidWorkflow, UnsafeInput
from lib.workflow.endpoints.coded import CodedEndpoint, fault_of, forget_code, load_code
from lib.workflow.endpoints.running import ForeignError, Runner
from lib.workflow.parameters import no_options
from lib.workflow.template import TemplateError

HEAD = """
from __future__ import annotations
from typing import Annotated, Literal
from pydantic import BaseModel, Field, model_validator
from lib.workflow.authoring import OneOf, Seed

class Lora(BaseModel):
    name: str
    strength: float = Field(1, ge=0, le=2)

class Request(BaseModel):
    prompt: str
    width: int = Field(512, ge=64, le=2048)
    seed: Seed
    style: Literal["photo", "drawing"] = "photo"
    loras: list[Lora] = []
    sampler: Annotated[str, OneOf("KSampler", "sampler_name")] = "euler"
"""
GRAPH = '{"1": {"class_type": "Text", "inputs": {"text": input.prompt, "width": input.width, "seed": input.seed}}}'
PLAIN = f"{HEAD}\ndef generate_workflow(input):\n    return {GRAPH}\n"


def options(class_type: str, name: str) -> tuple[str, ...]:
    return ("euler", "heun")


async def load(folder: Path, text: str, *, limit_s: float = 30.0) -> CodedEndpoint:
    """Write a file and load it, as the folder does."""
    path, runner = folder / "own.py", Runner()
    path.write_text(text, encoding="utf-8")
    work = partial(load_code, path, name="own", runner=runner, limit_s=limit_s)
    return await runner.run(work, limit_s=30.0, name="load")


async def problems(endpoint: CodedEndpoint, values: object) -> list[dict[str, Any]]:
    with pytest.raises(InvalidRequest) as caught:
        await endpoint.bind(values, options=options)
    return caught.value.details["errors"]  # type: ignore[return-value]


async def failure(folder: Path, body: str, **facts: Any) -> str:
    """What a caller reads when ``generate_workflow`` has this body."""
    endpoint = await load(folder, f"{HEAD}\ndef generate_workflow(input):\n    {body}\n", **facts)
    (problem,) = await problems(endpoint, {"prompt": "x"})
    assert problem["loc"] == ["input"]
    return str(problem["msg"])


async def test_values_reach_the_graph(tmp_path: Path) -> None:
    """And the answer shows what was understood: defaults and the drawn seed, nothing that is not declared."""
    endpoint = await load(tmp_path, PLAIN)
    bound = await endpoint.bind({"prompt": "a cat", "width": 64.0, "surprise": 1}, options=options)
    assert bound.graph["1"]["inputs"] == {"text": "a cat", "width": 64, "seed": bound.values["seed"]}
    assert bound.values["style"] == "photo"
    assert "surprise" not in bound.values
    again = await endpoint.bind({"prompt": "a cat"}, options=options)
    assert again.values["seed"] != bound.values["seed"]


@pytest.mark.parametrize(
    ("values", "loc", "text"),
    [
        ({}, ["input", "prompt"], "required"),
        ({"prompt": None}, ["input", "prompt"], "valid string"),
        ({"prompt": 7}, ["input", "prompt"], "valid string"),
        ({"prompt": "x", "width": "80"}, ["input", "width"], "valid integer"),
        ({"prompt": "x", "width": True}, ["input", "width"], "valid integer"),
        ({"prompt": "x", "width": 63}, ["input", "width"], "greater than or equal to 64"),
        ({"prompt": "x", "style": "oil"}, ["input", "style"], "'photo' or 'drawing'"),
        (
            {"prompt": "x", "loras": [{"name": "a"}, {"name": "b", "strength": 3}]},
            ["input", "loras", 1, "strength"],
            "2",
        ),
        ({"prompt": "x", "sampler": "hen"}, ["input", "sampler"], "^must be one of euler, heun"),
        ([], ["input"], "must be an object"),
        (None, ["input"], "must be an object"),
    ],
)
async def test_a_wrong_value_is_named(tmp_path: Path, values: object, loc: list[object], text: str) -> None:
    """Its place from the body's top, and what was expected; nothing is converted."""
    (problem,) = await problems(await load(tmp_path, PLAIN), values)
    assert problem["loc"] == loc
    assert re.search(text, problem["msg"])


async def test_a_model_may_be_lenient(tmp_path: Path) -> None:
    """An author who says so in the model's own configuration has the say."""
    lenient = PLAIN.replace("    prompt: str", '    model_config = {"strict": False}\n    prompt: str', 1)
    bound = await (await load(tmp_path, lenient)).bind({"prompt": "x", "width": "80"}, options=options)
    assert bound.values["width"] == 80


async def test_salads_names_and_a_coroutine(tmp_path: Path) -> None:
    """``RequestSchema``, ``generateWorkflow``, ``async``; texts of its own."""
    text = PLAIN.replace("class Request(", "class RequestSchema(").replace(
        "def generate_workflow", "async def generateWorkflow"
    )
    endpoint = await load(tmp_path, text + '\nsummary = "One"\ndescription = "Two"\n')
    assert (endpoint.summary, endpoint.description) == ("One", "Two")
    assert (await endpoint.bind({"prompt": "x"}, options=options)).graph["1"]["class_type"] == "Text"


async def test_the_docstring_stands_in(tmp_path: Path) -> None:
    """Its first line is the summary, the rest the description."""
    endpoint = await load(
        tmp_path, '"""Short.\n\nLong,\n  and longer.\n"""\n' + PLAIN.replace("from __future__ import annotations", "")
    )
    assert (endpoint.summary, endpoint.description) == ("Short.", "Long,\n  and longer.")


async def test_a_second_argument_is_the_context(tmp_path: Path) -> None:
    """What is installed, at the moment of the request."""
    text = f"{HEAD}\ndef generate_workflow(input, context):\n    name, = context.options('A', 'b')[:1]\n"
    endpoint = await load(tmp_path, text + '    return {"1": {"class_type": name, "inputs": {}}}\n')
    assert (await endpoint.bind({"prompt": "x"}, options=options)).graph["1"]["class_type"] == "euler"


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ("raise ValueError('no such style')", "no such style"),
        ("raise KeyError('style')", "KeyError: 'style'"),
        ("raise SystemExit('bye')", "SystemExit: bye"),
        ("return None", "generate_workflow returned NoneType, expected a dict of nodes"),
        ("return {'1': object()}", "not JSON: Object of type object is not JSON serializable"),
        ("return {'1': float('nan')}", "not JSON: Out of range float"),
        ("return {'1': 2**70}", "not JSON: 1 is out of range"),
        ("return {'1': '\\ud800'}", "not JSON"),
    ],
)
async def test_faults_of_the_file_are_told(tmp_path: Path, body: str, text: str) -> None:
    """In the words that Salad's clients know, at the place that they know."""
    message = await failure(tmp_path, body)
    assert message.startswith("Failed to generate workflow prompt: ")
    assert text in message


async def test_a_file_that_takes_too_long_is_let_go(tmp_path: Path) -> None:
    """The caller reads why, and the loop was never held."""
    body = "import threading; threading.Event().wait(1)"
    assert (
        await failure(tmp_path, body, limit_s=0.05) == "Failed to generate workflow prompt: it took longer than 0.05 s"
    )


@pytest.mark.parametrize(
    ("graph", "error", "text"),
    [
        ("{}", InvalidWorkflow, "empty"),
        ('{"1": {"class_type": "A", "inputs": {"x": ["2", 0]}}}', InvalidWorkflow, "names node '2'"),
        ('{"1": {"class_type": "LoadImage", "inputs": {"image": "../x.png"}}}', UnsafeInput, "leaves its folder"),
    ],
)
async def test_the_graph_is_checked(tmp_path: Path, graph: str, error: type[Exception], text: str) -> None:
    """As a caller's own would be."""
    endpoint = await load(tmp_path, f"{HEAD}\ndef generate_workflow(input):\n    return {graph}\n")
    with pytest.raises(error, match=text):
        await endpoint.bind({"prompt": "x"}, options=options)


async def test_a_graph_that_the_file_keeps_is_not_shared(tmp_path: Path) -> None:
    """What becomes of one job's graph does not reach the next."""
    kept = 'KEPT = {"1": {"class_type": "A", "inputs": {}}}'
    endpoint = await load(tmp_path, f"{HEAD}\n{kept}\ndef generate_workflow(input):\n    return KEPT\n")
    (await endpoint.bind({"prompt": "x"}, options=options)).graph["1"]["inputs"]["left"] = 1
    assert (await endpoint.bind({"prompt": "x"}, options=options)).graph["1"]["inputs"] == {}


async def test_the_document_has_ranges_and_choices(tmp_path: Path) -> None:
    """Those of pydantic and those of ComfyUI; what is nested is inside."""
    schema = (await load(tmp_path, PLAIN)).schema(options)
    assert schema["required"] == ["prompt"]
    assert schema["properties"]["width"] | {"title": ""} == {
        "default": 512,
        "maximum": 2048,
        "minimum": 64,
        "title": "",
        "type": "integer",
    }
    assert schema["properties"]["sampler"]["enum"] == ["euler", "heun"]
    assert "default" not in schema["properties"]["seed"]
    assert schema["properties"]["loras"]["items"]["properties"]["strength"]["maximum"] == 2


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "has no Request or RequestSchema; expected a pydantic model named Request"),
        ("Request = 3", "Request is not a class of pydantic's"),
        (HEAD, "has no generate_workflow or generateWorkflow; expected a function"),
        (f"{HEAD}\ngenerate_workflow = 3", "generate_workflow is not a function"),
        (f"{HEAD}\ndef generate_workflow(): pass", r"generate_workflow\(\): expected one argument"),
        (f"{HEAD}\ndef generate_workflow(a, b, c): pass", "expected one argument, input, or two"),
        (f"{PLAIN}\nsummary = 3", "summary is not a text"),
        (f"{PLAIN}\nclass RequestSchema(BaseModel): pass", "has Request and RequestSchema; keep one"),
    ],
)
async def test_what_a_file_lacks_is_named(tmp_path: Path, text: str, expected: str) -> None:
    """With what was expected; no module of it is left behind."""
    before = set(sys.modules)
    with pytest.raises(TemplateError, match=expected):
        await load(tmp_path, text)
    assert {name for name in set(sys.modules) - before if name.startswith("workflow_file")} == set()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x = 1\ny = nobody\n", "line 2: NameError: name 'nobody' is not defined"),
        ("x = 1\ndef (", "line 2: SyntaxError: invalid syntax"),
        ("def f():\n    raise OSError('full')\n\nf()\n", "line 2: OSError: full"),
        ("import sys\nsys.exit(1)", "line 2: SystemExit: 1"),
        ("import no_such_package_anywhere", "line 1: ModuleNotFoundError: No module named 'no_such_package_anywhere'"),
        ("x = '\0'", "SyntaxError: source code string cannot contain null bytes"),
    ],
)
async def test_what_a_file_raises_is_told_with_its_line(tmp_path: Path, text: str, expected: str) -> None:
    """The line of the file itself, however deep it happened; no module of it is left behind."""
    before = set(sys.modules)
    with pytest.raises(ForeignError) as caught:
        await load(tmp_path, text)
    assert expected in fault_of(tmp_path / "own.py", caught.value)
    assert {name for name in set(sys.modules) - before if name.startswith("workflow_file")} == set()


async def test_a_file_is_a_module_of_its_own(tmp_path: Path) -> None:
    """Nothing is written beside it, nothing is looked up on the module path, and it goes when it is forgotten."""
    before, path = set(sys.modules), list(sys.path)
    endpoint = await load(tmp_path, PLAIN)
    (name,) = {name for name in set(sys.modules) - before if name.startswith("workflow_file")}
    assert endpoint.model.__module__ == name
    assert sys.path == path
    assert [item.name for item in tmp_path.iterdir()] == ["own.py"]
    forget_code(tmp_path / "own.py")
    assert name not in sys.modules
    assert (await endpoint.bind({"prompt": "x"}, options=no_options)).graph  # a request under way still ends well
