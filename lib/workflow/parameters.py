"""Declared inputs of a workflow: their types, bounds and choices, how a value is checked, how a document shows them."""

import difflib
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from lib.workflow.decoding import MAX_INTEGER, MIN_INTEGER
from lib.workflow.kinds import FILES, NUMERIC, Kind, is_multiple, lenient_value, strict_value
from lib.workflow.placeholders import TOKEN

Options = Callable[[str, str], Sequence[str]]
"""``options(class_type, input_name)``: what ComfyUI offers there now (checkpoints, samplers); empty = not known. It is
asked in other threads too."""
MAX_DRAW = 2**53 - 1
"""The largest random number: every JSON reader keeps it exactly, so that a caller can send it again."""
SHOWN_OPTIONS = 20
MAX_COMPARED, MAX_LISTED = 80, 1000
"""Characters of a wrong value, and options, that are compared to find what may have been meant."""
URL_PREFIXES = ("http://", "https://", "s3://")
URL_PATTERN = r"^(https?|s3)://"
FILE_MARK = "x-input-file"
"""Says in a JSON schema that a text is an input file, and of which kind."""


def no_options(class_type: str, name: str) -> Sequence[str]:
    """What is offered while there is no ComfyUI to ask."""
    return ()


@dataclass(frozen=True, slots=True, kw_only=True)
class OptionList:
    """A list that ComfyUI offers: the choices of an input of a node class. ``urls``: a URL will do as well."""

    class_type: str
    name: str
    urls: bool = False

    def problem(self, value: object, options: Options) -> str | None:
        """Say why ``value`` is none of the options; what ComfyUI offers is not known before it runs."""
        offered = options(self.class_type, self.name)
        if not offered or value in offered or (self.urls and str(value).startswith(URL_PREFIXES)):
            return None
        if len(offered) <= SHOWN_OPTIONS:
            return f"must be one of {', '.join(offered)}"
        near = difflib.get_close_matches(str(value)[:MAX_COMPARED], offered[:MAX_LISTED], n=3, cutoff=0.4)
        hint = f", such as {', '.join(near)}" if near else ""
        return f"must be one of the {len(offered)} options of {self.class_type}.{self.name}{hint}"

    def schema(self, options: Options) -> dict[str, Any]:
        """What a JSON schema of a text says of it."""
        offered = list(options(self.class_type, self.name))
        if not offered:
            return {}
        if self.urls:
            return {"anyOf": [{"enum": offered}, {"pattern": URL_PATTERN}]}
        return {"enum": offered}


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """One declared input. ``targets`` are ``(node id, input name)``; ``default`` counts unless ``required``.

    ``random``: an integer that is drawn anew for each job where it is not given.
    """

    name: str
    kind: Kind
    targets: tuple[tuple[str, str], ...]
    default: Any = None
    required: bool = False
    minimum: float | int | None = None
    maximum: float | int | None = None
    multiple_of: float | int | None = None
    choices: tuple[Any, ...] = ()
    options: OptionList | None = None
    random: bool = False
    title: str = ""
    description: str = ""

    def value(self, given: Any, options: Options = no_options, *, lenient: bool = False) -> Any:
        """Return what goes into the graph for a given value.

        ``lenient``: take what ComfyUI itself would convert without loss, and the token for a random number.
        Raises: ValueError with what was expected.
        """
        if lenient and given == TOKEN and self.kind in NUMERIC:
            return given
        value = lenient_value(self.kind, given) if lenient else strict_value(self.kind, given)
        if type(value) is int and not MIN_INTEGER <= value <= MAX_INTEGER:
            raise ValueError("must be an integer of 64 bits")
        if self.choices and value not in self.choices:
            raise ValueError(f"must be one of {', '.join(map(str, self.choices))}")
        if self.options is not None and (problem := self.options.problem(value, options)):
            raise ValueError(problem)
        self._check_range(value)
        return value

    def unset(self, options: Options = no_options) -> Any:
        """Return the value of a parameter that was not given. Raises: ValueError with what was expected."""
        if self.random:
            return self._draw()
        if self.required or self.default is None:
            raise ValueError("required but not set")
        if self.options is not None and (problem := self.options.problem(self.default, options)):
            raise ValueError(f"{problem}; its default {self.default!r} is not there")
        return self.default

    def schema(self, options: Options = no_options) -> dict[str, Any]:
        """Return its JSON schema. A random default is none to be shown."""
        described: dict[str, Any] = {"type": "string" if self.kind in FILES else self.kind.value}
        described |= {FILE_MARK: self.kind.value} if self.kind in FILES else {}
        described |= {"enum": list(self.choices)} if self.choices else {}
        described |= self.options.schema(options) if self.options is not None else {}
        facts = {
            "title": self.title or None,
            "description": self.description or None,
            "minimum": self.minimum,
            "maximum": self.maximum,
            "multipleOf": self.multiple_of,
            "default": None if self.required or self.random else self.default,
        }
        return described | {name: fact for name, fact in facts.items() if fact is not None}

    def _draw(self) -> int:
        low = math.ceil(self.minimum or 0)
        high = max(low, math.floor(min(MAX_DRAW, MAX_DRAW if self.maximum is None else self.maximum)))
        step = int(self.multiple_of or 1)
        first = math.ceil(low / step)
        return random.randint(first, max(first, high // step)) * step

    def _check_range(self, value: Any) -> None:
        if self.minimum is not None and value < self.minimum:
            raise ValueError(f"must be at least {self.minimum}")
        if self.maximum is not None and value > self.maximum:
            raise ValueError(f"must be at most {self.maximum}")
        if self.multiple_of is not None and not is_multiple(value, self.multiple_of):
            raise ValueError(f"must be a multiple of {self.multiple_of}")


def object_schema(parameters: Sequence[Parameter], options: Options = no_options) -> dict[str, Any]:
    """Return the JSON schema of an object with these parameters."""
    described: dict[str, Any] = {
        "type": "object",
        "properties": {parameter.name: parameter.schema(options) for parameter in parameters},
    }
    required = [parameter.name for parameter in parameters if parameter.required]
    return described | ({"required": required} if required else {})


def check_declared(parameter: Parameter) -> None:
    """Check what a file says of a parameter against itself. Raises: ValueError with what was expected."""
    numbers = ("minimum", "maximum", "multiple_of")
    if parameter.kind not in NUMERIC and (named := [name for name in numbers if getattr(parameter, name) is not None]):
        raise ValueError(f"{named[0]} is for type integer or number, not {parameter.kind}")
    if parameter.multiple_of is not None and parameter.multiple_of <= 0:
        raise ValueError("multiple_of must be more than 0")
    if parameter.minimum is not None and parameter.maximum is not None and parameter.minimum > parameter.maximum:
        raise ValueError(f"minimum {parameter.minimum} is more than maximum {parameter.maximum}")
    if parameter.random and (parameter.kind is not Kind.INTEGER or parameter.required or parameter.choices):
        raise ValueError("random is for type integer, without required and choices")
    if parameter.random:
        parameter.value(parameter.unset())
    if parameter.options is not None and (parameter.choices or parameter.kind is not Kind.STRING):
        raise ValueError("options is for type string, without choices")
    for choice in parameter.choices:
        try:
            strict_value(parameter.kind, choice)
        except ValueError as error:
            raise ValueError(f"choice {choice!r} {error}") from None
