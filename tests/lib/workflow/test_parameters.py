"""Declared inputs: what values they take, what they draw, how a document shows them."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.workflow.kinds import Kind, is_multiple
from lib.workflow.parameters import MAX_DRAW, OptionList, Parameter, check_declared, no_options, object_schema

SAMPLERS = ("euler", "heun")


def parameter(kind: Kind = Kind.STRING, **facts: Any) -> Parameter:
    return Parameter(name="x", kind=kind, targets=(), **facts)


def options(class_type: str, name: str) -> tuple[str, ...]:
    """What a ComfyUI with two samplers and many LoRAs offers."""
    if class_type == "LoraLoader":
        return tuple(f"style-{number}.safetensors" for number in range(500))
    return SAMPLERS if (class_type, name) == ("KSampler", "sampler_name") else ()


@pytest.mark.parametrize(
    ("kind", "value", "taken"),
    [
        (Kind.STRING, "", ""),
        (Kind.INTEGER, 8, 8),
        (Kind.INTEGER, 8.0, 8),
        (Kind.NUMBER, 8, 8),
        (Kind.NUMBER, 0.5, 0.5),
        (Kind.BOOLEAN, False, False),
        (Kind.IMAGE, "https://example.com/a.png", "https://example.com/a.png"),
        (Kind.FILE, "a.bin", "a.bin"),
    ],
)
def test_the_very_type_is_taken(kind: Kind, value: object, taken: object) -> None:
    """A whole float is an integer in JSON; nothing else is converted."""
    assert parameter(kind).value(value) == taken
    assert type(parameter(kind).value(value)) is type(taken)


@pytest.mark.parametrize(
    ("kind", "value", "text"),
    [
        (Kind.STRING, 7, "must be a string, not a number"),
        (Kind.STRING, None, "must be a string, not null"),
        (Kind.STRING, ["6", 0], "must be a string, not a list"),
        (Kind.INTEGER, "80", "must be an integer, not a string"),
        (Kind.INTEGER, 8.5, "must be an integer, not a number"),
        (Kind.INTEGER, True, "must be an integer, not a boolean"),
        (Kind.INTEGER, 2**64, "64 bits"),
        (Kind.NUMBER, "0.5", "must be a number, not a string"),
        (Kind.NUMBER, float("inf"), "must be a number"),
        (Kind.NUMBER, {}, "must be a number, not an object"),
        (Kind.BOOLEAN, 1, "must be true or false, not a number"),
        (Kind.IMAGE, "", "not an empty string"),
        (Kind.VIDEO, {}, "a URL, base64, or a file's name"),
    ],
)
def test_another_type_is_refused(kind: Kind, value: object, text: str) -> None:
    """No text for a number, no null, no link into the graph."""
    with pytest.raises(ValueError, match=text):
        parameter(kind).value(value)


@pytest.mark.parametrize(
    ("facts", "value", "text"),
    [
        ({"kind": Kind.INTEGER, "minimum": 64}, 63, "at least 64"),
        ({"kind": Kind.INTEGER, "maximum": 2048}, 2049, "at most 2048"),
        ({"kind": Kind.INTEGER, "multiple_of": 8}, 65, "multiple of 8"),
        ({"kind": Kind.NUMBER, "multiple_of": 0.1}, 0.35, "multiple of 0.1"),
        ({"choices": ("a", "b")}, "c", "one of a, b"),
        ({"options": OptionList(class_type="KSampler", name="sampler_name")}, "hen", "one of euler, heun"),
        (
            {"options": OptionList(class_type="LoraLoader", name="lora_name")},
            "style-42",
            r"the 500 options of LoraLoader.lora_name, such as style-42",
        ),
        ({"options": OptionList(class_type="KSampler", name="sampler_name")}, "https://a/b", "one of euler"),
    ],
)
def test_bounds_and_choices(facts: dict[str, Any], value: object, text: str) -> None:
    """The text says what would be right."""
    with pytest.raises(ValueError, match=text):
        parameter(**facts).value(value, options)


def test_what_is_right_passes() -> None:
    """Bounds are inclusive, a tenth is a multiple of itself, an unknown list takes anything, a URL where allowed."""
    assert parameter(Kind.INTEGER, minimum=64, maximum=64, multiple_of=8).value(64) == 64
    assert parameter(Kind.NUMBER, multiple_of=0.1).value(0.3) == 0.3
    listed = OptionList(class_type="KSampler", name="sampler_name", urls=True)
    assert parameter(options=listed).value("s3://bucket/model", options) == "s3://bucket/model"
    assert parameter(options=listed).value("heun", options) == "heun"
    assert parameter(options=listed).value("whatever", no_options) == "whatever"


def test_a_default_that_is_not_installed_is_told() -> None:
    """The caller who named nothing reads which name was meant."""
    listed = OptionList(class_type="KSampler", name="sampler_name")
    with pytest.raises(ValueError, match="one of euler, heun; its default 'lms' is not there"):
        parameter(default="lms", options=listed).unset(options)
    assert parameter(default="lms", options=listed).unset(no_options) == "lms"


@given(st.integers(-100, 100), st.integers(0, 2**64 - 1), st.sampled_from([None, 1, 8]))
def test_what_is_drawn_is_in_range(low: int, span: int, step: int | None) -> None:
    """And no larger than every JSON reader keeps exactly."""
    drawn = parameter(Kind.INTEGER, minimum=low, maximum=low + span, multiple_of=step, random=True)
    try:
        check_declared(drawn)
    except ValueError:
        return  # there is no such number
    value = drawn.unset()
    assert low <= value <= min(low + span, MAX_DRAW)
    assert value % (step or 1) == 0


def test_draws_differ() -> None:
    """Each job has its own seed."""
    drawn = parameter(Kind.INTEGER, random=True)
    assert len({drawn.unset() for _ in range(20)}) == 20


def test_a_document_shows_what_is_fixed() -> None:
    """Ranges, choices of the moment, defaults; never a random one, never that of a required input."""
    shown = object_schema(
        [
            Parameter(
                name="a", kind=Kind.INTEGER, targets=(), minimum=1, maximum=9, multiple_of=2, default=3, title="A"
            ),
            Parameter(name="b", kind=Kind.STRING, targets=(), choices=("x", "y"), default="x", description="B."),
            Parameter(name="c", kind=Kind.IMAGE, targets=(), required=True, default="example.png"),
            Parameter(name="d", kind=Kind.INTEGER, targets=(), random=True),
            Parameter(
                name="e",
                kind=Kind.STRING,
                targets=(),
                default="euler",
                options=OptionList(class_type="KSampler", name="sampler_name"),
            ),
            Parameter(name="f", kind=Kind.BOOLEAN, targets=(), default=False),
        ],
        options,
    )
    assert shown == {
        "type": "object",
        "properties": {
            "a": {"type": "integer", "title": "A", "minimum": 1, "maximum": 9, "multipleOf": 2, "default": 3},
            "b": {"type": "string", "enum": ["x", "y"], "description": "B.", "default": "x"},
            "c": {"type": "string", "x-input-file": "image"},
            "d": {"type": "integer"},
            "e": {"type": "string", "enum": ["euler", "heun"], "default": "euler"},
            "f": {"type": "boolean", "default": False},
        },
        "required": ["c"],
    }


def test_a_document_without_comfyui_and_with_urls() -> None:
    """Plain text while nothing is known; a choice or a URL where both will do."""
    listed = OptionList(class_type="KSampler", name="sampler_name", urls=True)
    assert parameter(options=listed).schema() == {"type": "string"}
    shown = parameter(options=listed).schema(options)
    assert shown["anyOf"] == [{"enum": ["euler", "heun"]}, {"pattern": "^(https?|s3)://"}]


@pytest.mark.parametrize(
    ("facts", "text"),
    [
        ({"minimum": 1}, "minimum is for type integer or number"),
        ({"kind": Kind.INTEGER, "minimum": 2, "maximum": 1}, "minimum 2 is more than maximum 1"),
        ({"kind": Kind.INTEGER, "multiple_of": 0}, "more than 0"),
        ({"random": True}, "random is for type integer"),
        ({"kind": Kind.INTEGER, "random": True, "required": True}, "without required"),
        ({"kind": Kind.INTEGER, "random": True, "minimum": 1, "maximum": 7, "multiple_of": 8}, "at most 7"),
        ({"kind": Kind.INTEGER, "choices": ("a",)}, "choice 'a' must be an integer"),
        ({"kind": Kind.INTEGER, "options": OptionList(class_type="A", name="b")}, "options is for type string"),
        ({"choices": ("a",), "options": OptionList(class_type="A", name="b")}, "without choices"),
    ],
)
def test_declarations_that_contradict_themselves(facts: dict[str, Any], text: str) -> None:
    """Found when the file is read, not with the first request."""
    with pytest.raises(ValueError, match=text):
        check_declared(parameter(**facts))


@given(st.integers(-1000, 1000), st.sampled_from([0.01, 0.05, 0.1, 0.25, 1.5]))
def test_multiples_in_binary_fractions(count: int, step: float) -> None:
    """0.3 is three times 0.1; half a step more is none."""
    assert is_multiple(count * step, step)
    assert is_multiple(float(f"{count * step:.6f}"), step)
    assert not is_multiple(count * step + step / 2, step)
