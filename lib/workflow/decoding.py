"""From a request's bytes to checked JSON, before any schema looks at it.

Refuses what is JSON to some parsers only (NaN, Infinity), what is not kept exactly (integers beyond 64 bits), what is
nested so deeply that it kills ComfyUI's executor, and what holds so many values that it takes gigabytes once decoded.
"""

import json
import math
from typing import Any

import orjson

from lib.errors import InvalidRequest

MAX_DEPTH = 64
MAX_VALUES = 1_000_000
"""A request of 100 MB may be one picture, or 50 million empty lists that take 25 times as much memory."""
MAX_INTEGER = 2**64 - 1
MIN_INTEGER = -(2**63)
_MAX_DIGITS = 20
BOM = b"\xef\xbb\xbf"
Loc = tuple[str | int, ...]


def check(data: Any) -> Any:
    """Decode ``data`` if it is bytes, check the JSON value, return it.

    Of keys that come twice in one object the last one counts. Raises: InvalidRequest, with the place in
    ``details["errors"]``.
    """
    if not isinstance(data, bytes | bytearray | memoryview):
        _check_tree(data)
        return data
    raw = bytes(data).removeprefix(BOM)
    _check_count(raw)
    value = _decode(raw)
    if _check_tree(value):
        _check_integers(raw, value)
    return value


def invalid(message: str, *, loc: Loc = (), kind: str = "value_error") -> InvalidRequest:
    """Make an InvalidRequest that names one place (``loc``: keys and indices from the body's top)."""
    return InvalidRequest(message, details={"errors": [{"type": kind, "loc": list(loc), "msg": message}]})


def _decode(raw: bytes) -> Any:
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        reason = f"{error.msg} at position {error.pos}" if raw else "the body is empty"
        raise invalid(f"The body is not JSON: {reason}", loc=(error.pos,), kind="json_invalid") from None


def _check_count(raw: bytes) -> None:
    """Count before decoding, by the signs that part values; those inside strings count too, which harms nobody."""
    if len(raw) > MAX_VALUES and sum(map(raw.count, (b",", b"[", b"{"))) > MAX_VALUES:
        raise invalid(f"The JSON holds more than {MAX_VALUES} values", kind="too_many_values")


def _check_tree(value: Any) -> bool:
    """Walk level by level (the level is the depth); tell whether a float may have been a too big integer."""
    level, depth, suspicious = [value], 0, False
    while level:
        if depth >= MAX_DEPTH and any(type(item) in (dict, list) for item in level):
            raise invalid(f"The JSON is nested more than {MAX_DEPTH} levels deep", kind="too_deep")
        following: list[Any] = []
        for item in level:
            kind = type(item)
            if kind is dict:
                following += item.values()
            elif kind is list:
                following += item
            elif kind is int:
                if not MIN_INTEGER <= item <= MAX_INTEGER:
                    raise _out_of_range(value, item)
            elif kind is float and not MIN_INTEGER < item < MAX_INTEGER:
                if not math.isfinite(item):
                    raise invalid("NaN and Infinity are not JSON numbers", kind="number_not_finite")
                suspicious = True
        level, depth = following, depth + 1
    return suspicious


def _check_integers(raw: bytes, value: Any) -> None:
    """Parse again, exactly: the fast parser turns integers beyond 64 bits into floats without a word."""
    too_big: list[str] = []

    def parse(digits: str) -> int:
        if len(digits) > _MAX_DIGITS or not MIN_INTEGER <= int(digits) <= MAX_INTEGER:
            too_big.append(digits)
            return 0
        return int(digits)

    json.loads(raw, parse_int=parse)
    if too_big:
        raise _out_of_range(value, float(too_big[0]))


def _out_of_range(value: Any, bad: float) -> InvalidRequest:
    loc = _locate(value, bad)
    where = ".".join(map(str, loc)) or "The number"
    message = f"{where} is out of range: an integer must lie between -2^63 and 2^64-1 ({MAX_INTEGER})"
    return invalid(message, loc=loc, kind="number_out_of_range")


def _locate(value: Any, bad: float) -> Loc:
    """Find the place of a number; only an error pays for this walk."""
    waiting: list[tuple[Loc, Any]] = [((), value)]
    while waiting:
        loc, item = waiting.pop()
        if type(item) is type(bad) and item == bad:
            return loc
        if isinstance(item, dict):
            waiting.extend(((*loc, key), child) for key, child in item.items())
        elif isinstance(item, list):
            waiting.extend(((*loc, index), child) for index, child in enumerate(item))
    return ()
