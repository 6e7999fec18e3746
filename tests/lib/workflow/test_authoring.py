"""Types that workflow files in Python import."""

from typing import Annotated, Any

import pytest
from pydantic import BaseModel, Field, ValidationError

from lib.workflow.authoring import Audio, Context, Image, OneOf, Seed, Video
from lib.workflow.endpoints.schemas import inlined, resolve
from lib.workflow.parameters import MAX_DRAW, no_options


class Lora(BaseModel):
    name: Annotated[str | None, OneOf("LoraLoader", "lora_name")] = None


class Request(BaseModel):
    sampler: Annotated[str, OneOf("KSampler", "sampler_name")] = "euler"
    model: Annotated[str, OneOf("LoraLoader", "lora_name", urls=True)] = "a"
    loras: list[Lora] = []
    seed: Annotated[Seed, Field(description="My own words.")]
    image: Image = "a.png"


def options(class_type: str, name: str) -> tuple[str, ...]:
    return ("euler", "heun") if class_type == "KSampler" else ("a", "b")


def parse(**values: Any) -> Request:
    return Request.model_validate(values, context={"options": options})


def test_values_are_those_that_comfyui_offers() -> None:
    """Nested ones too; null where the field allows it; a URL where the author allows it."""
    parsed = parse(sampler="heun", model="https://example.com/x", loras=[{"name": "b"}, {"name": None}])
    assert (parsed.sampler, parsed.model, parsed.loras[0].name) == ("heun", "https://example.com/x", "b")


@pytest.mark.parametrize(
    ("values", "loc"),
    [
        ({"sampler": "hen"}, ("sampler",)),
        ({"loras": [{"name": "c"}]}, ("loras", 0, "name")),
        ({"image": ""}, ("image",)),
        ({"seed": -1}, ("seed",)),
        ({"seed": 2**64}, ("seed",)),
    ],
)
def test_other_values_are_refused_where_they_stand(values: dict[str, Any], loc: tuple[object, ...]) -> None:
    """The place is that of the value."""
    with pytest.raises(ValidationError) as caught:
        parse(**values)
    assert [error["loc"] for error in caught.value.errors()] == [loc]


def test_without_comfyui_any_text_passes() -> None:
    """Nothing is known then; ComfyUI itself refuses later."""
    assert Request(sampler="hen").sampler == "hen"


def test_seeds_are_drawn_and_kept_exactly() -> None:
    """By every JSON reader."""
    seeds = {parse().seed for _ in range(20)}
    assert len(seeds) == 20
    assert all(0 <= seed <= MAX_DRAW for seed in seeds)


def test_a_schema_shows_the_choices_of_the_moment() -> None:
    """In the text's branch of what may be null; no mark of ours is left, no random default shown."""
    shown = resolve(inlined(Request.model_json_schema()), options)
    fields = shown["properties"]
    assert fields["sampler"]["enum"] == ["euler", "heun"]
    assert fields["model"]["anyOf"] == [{"enum": ["a", "b"]}, {"pattern": "^(https?|s3)://"}]
    assert fields["loras"]["items"]["properties"]["name"]["anyOf"] == [
        {"type": "string", "enum": ["a", "b"]},
        {"type": "null"},
    ]
    assert fields["seed"] == {
        "type": "integer",
        "title": "Seed",
        "minimum": 0,
        "maximum": 2**64 - 1,
        "description": "My own words.",
    }
    assert fields["image"]["x-input-file"] == "image"
    assert "x-comfyui-options" not in str(shown)
    assert "enum" not in str(resolve(Request.model_json_schema(), no_options))


class Tree(BaseModel):
    """A model that holds itself."""

    branches: list["Tree"] = []
    other: Lora = Field(Lora(), description="Beside a reference.")


def test_references_are_resolved() -> None:
    """What stands beside one is kept; a circle is cut."""
    shown = inlined(Tree.model_json_schema())
    assert "$" not in str(shown)
    assert shown["properties"]["branches"]["items"] == {"type": "object", "title": "Tree"}
    assert shown["properties"]["other"]["description"] == "Beside a reference."
    assert "name" in shown["properties"]["other"]["properties"]


def test_kinds_of_files_are_shown() -> None:
    """So that a page can offer a file to choose."""

    class Files(BaseModel):
        sound: Audio
        film: Video

    fields = Files.model_json_schema()["properties"]
    assert [field["x-input-file"] for field in fields.values()] == ["audio", "video"]


def test_a_context_tells_what_is_there() -> None:
    """As a tuple, whatever the source gives; the first of it, or that there is none."""
    context = Context(lambda class_type, name: [class_type, name])
    assert (context.options("A", "b"), context.first("A", "b")) == (("A", "b"), "A")
    with pytest.raises(ValueError, match="nothing is installed for b of A"):
        Context(no_options).first("A", "b")
