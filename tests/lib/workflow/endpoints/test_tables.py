"""An input's JSON schema as a table for people."""

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from lib.workflow.authoring import OneOf
from lib.workflow.endpoints.schemas import inlined, resolve
from lib.workflow.endpoints.tables import markdown_table


class Lora(BaseModel):
    name: str = Field(description="A file.")
    strength: float = Field(1, gt=0, le=2)


class Size(BaseModel):
    width: int = 512


class Tree(BaseModel):
    branches: list["Tree"] = []


class Request(BaseModel):
    prompt: str = Field(description="What it | shows,\nin words.")
    mode: Literal["a", "b"] | None = None
    sampler: Annotated[str, OneOf("KSampler", "sampler_name")] = "euler"
    loras: list[Lora] = []
    size: Size = Size()
    either: int | str = 3
    tree: Tree | None = None
    model: Annotated[str, OneOf("A", "b", urls=True)] = Field("`x`", title="Which one")
    fixed: Literal[3] = 3


def test_rows_say_type_text_and_default() -> None:
    """Bounds, choices, nested fields; optional ones without a word of null; nothing that breaks a table."""
    table = markdown_table(resolve(inlined(Request.model_json_schema()), lambda class_type, name: ("euler", "heun")))
    assert table.splitlines() == [
        "| Field | Type | Description | Default |",
        "|---|---|---|---|",
        "| `prompt` | string | What it \\| shows, in words. | **Required** |",
        "| `mode` | enum (`a`, `b`) |  |  |",
        "| `sampler` | enum (`euler`, `heun`) |  | `euler` |",
        "| `loras` | array of object |  | `[]` |",
        "| `loras[].name` | string | A file. | **Required** |",
        "| `loras[].strength` | number (> 0, ≤ 2) |  | `1` |",
        "| `size` | object |  | `{'width': 512}` |",
        "| `size.width` | integer |  | `512` |",
        "| `either` | integer or string |  | `3` |",
        "| `tree` | object |  |  |",
        "| `tree.branches` | array of object |  | `[]` |",
        "| `model` | enum (`euler`, `heun`) or string | Which one | `'x'` |",
        "| `fixed` | `3` |  | `3` |",
    ]
