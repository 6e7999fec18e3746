"""What an operator's workflow file in Python may import: types of inputs that pydantic alone does not know.

``sampler_name: Annotated[str, OneOf("KSampler", "sampler_name")] = "euler"``, ``seed: Seed``, ``image: Image``.
"""

import random
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field, GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationInfo
from pydantic_core import CoreSchema, core_schema

from lib.workflow.decoding import MAX_INTEGER
from lib.workflow.kinds import Kind
from lib.workflow.parameters import FILE_MARK, MAX_DRAW, OptionList, Options, no_options

OPTIONS_MARK = "x-comfyui-options"
"""In a JSON schema: ``[class_type, input, urls]``; replaced by the choices when a document is made."""


@dataclass(frozen=True, slots=True)
class OneOf:
    """A text out of a list that ComfyUI offers: ``OneOf("KSampler", "sampler_name")``.

    ``urls``: the URL of a model will do as well. While there is no ComfyUI to ask, any text passes.
    """

    class_type: str
    name: str
    urls: bool = False

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.with_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return handler(schema) | {OPTIONS_MARK: [self.class_type, self.name, self.urls]}

    def _check(self, value: Any, info: ValidationInfo) -> Any:
        options: Options = (info.context or {}).get("options", no_options)
        offered = OptionList(class_type=self.class_type, name=self.name, urls=self.urls)
        if value is not None and (problem := offered.problem(value, options)):
            raise ValueError(problem)
        return value


@dataclass(frozen=True, slots=True)
class InputFile:
    """A text that names an input file: a URL, base64, or a name in ComfyUI's input folder."""

    kind: str = Kind.FILE

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return handler(schema) | {FILE_MARK: str(self.kind)}


def random_seed() -> int:
    """Return a number that every JSON reader keeps exactly, so that a caller can send it again."""
    return random.randint(0, MAX_DRAW)


Image = Annotated[str, InputFile(Kind.IMAGE), Field(min_length=1)]
Audio = Annotated[str, InputFile(Kind.AUDIO), Field(min_length=1)]
Video = Annotated[str, InputFile(Kind.VIDEO), Field(min_length=1)]
Seed = Annotated[
    int,
    Field(ge=0, le=MAX_INTEGER, default_factory=random_seed, description="Start of the noise; random when not given."),
]


@dataclass(frozen=True, slots=True)
class Context:
    """What ``generate_workflow(input, context)`` may ask."""

    source: Options

    def options(self, class_type: str, name: str) -> tuple[str, ...]:
        """What ComfyUI offers now for an input of a node class; empty = not known."""
        return tuple(self.source(class_type, name))

    def first(self, class_type: str, name: str) -> str:
        """The first of them. Raises: ValueError, which the caller reads, where there is none."""
        offered = self.options(class_type, name)
        if not offered:
            raise ValueError(f"nothing is installed for {name} of {class_type}; name one")
        return offered[0]
