"""Types of parameters, and how a JSON value is taken for one: to the letter, or as ComfyUI itself would convert it."""

import math
from collections.abc import Mapping
from enum import StrEnum
from typing import Any


class Kind(StrEnum):
    """Types of parameters: those of JSON, and files, which are text: a URL, base64, or a file's name."""

    STRING = "string"
    INTEGER = "integer"
    NUMBER = "number"
    BOOLEAN = "boolean"
    IMAGE = "image"
    AUDIO = "audio"
    VIDEO = "video"
    FILE = "file"


NUMERIC = frozenset({Kind.INTEGER, Kind.NUMBER})
FILES = frozenset({Kind.IMAGE, Kind.AUDIO, Kind.VIDEO, Kind.FILE})
_WANTED: Mapping[Kind, str] = {
    Kind.STRING: "a string",
    Kind.INTEGER: "an integer",
    Kind.NUMBER: "a number",
    Kind.BOOLEAN: "true or false",
}
_WANTED_FILE = "a string: a URL, base64, or a file's name"


def strict_value(kind: Kind, given: Any) -> Any:
    """Take the very JSON type; 8.0 and 8 are one number in JSON. Raises: ValueError."""
    match kind, given:
        case (Kind.BOOLEAN, bool()):
            return given
        case (Kind.INTEGER | Kind.NUMBER, bool()):
            pass
        case (Kind.INTEGER | Kind.NUMBER, int()):
            return given
        case (Kind.INTEGER, float()) if given.is_integer():
            return int(given)
        case (Kind.NUMBER, float()) if math.isfinite(given):
            return given
        case (Kind.STRING, str()):
            return given
        case (_, str()) if kind in FILES and given:
            return given
    raise ValueError(f"must be {_WANTED.get(kind, _WANTED_FILE)}, not {_found(given)}")


def lenient_value(kind: Kind, given: Any) -> Any:
    """Take what ComfyUI itself would convert without loss: digits in a string, a number for a text. Raises: ValueError.

    An unset value is the caller's to replace."""
    match kind, given:
        case (Kind.BOOLEAN, bool()):
            return given
        case (_, bool()):
            pass
        case (Kind.INTEGER | Kind.NUMBER, int()) | (Kind.NUMBER, float()):
            return given
        case (Kind.INTEGER, float()) if given.is_integer():
            return int(given)
        case (Kind.INTEGER | Kind.NUMBER, str()):
            return _number(kind, given)
        case (Kind.STRING, int() | float()):
            return str(given)
        case (_, str()) if kind is Kind.STRING or kind in FILES:
            return given
    raise ValueError(f"must be of type {Kind.STRING if kind in FILES else kind}")


def is_multiple(value: float | int, step: float | int) -> bool:
    """Whether a number is a whole multiple of another one, whatever binary fractions make of it."""
    if isinstance(value, int) and isinstance(step, int):
        return value % step == 0
    return math.isclose(round(value / step) * step, value, rel_tol=1e-9, abs_tol=1e-9)


def _number(kind: Kind, text: str) -> float | int:
    try:
        if kind is Kind.INTEGER and len(text) <= 40:
            return int(text)
        if kind is Kind.NUMBER and math.isfinite(number := float(text)):
            return number
    except ValueError:
        pass
    raise ValueError(f"must be of type {kind}")


def _found(given: Any) -> str:
    match given:
        case None:
            return "null"
        case bool():
            return "a boolean"
        case int() | float():
            return "a number"
        case str():
            return "a string" if given else "an empty string"
        case list():
            return "a list"
        case _:
            return "an object"
