"""Copies of frozen, slotted values with some fields changed: ``dataclasses.replace`` at half the price.

For what every job does several times; elsewhere ``replace`` is as good, and type checkers know it.
"""

from collections.abc import Callable, Mapping
from dataclasses import fields
from functools import cache
from operator import attrgetter
from typing import Any, TypeVar

T = TypeVar("T")
Put = Callable[[Any, Any], None]


def changed(value: T, /, **changes: Any) -> T:
    """Return a copy of a dataclass without ``__post_init__``. Raises KeyError for a field that it has not."""
    kind: Any = type(value)
    values, put = _fields(kind)
    copy: T = object.__new__(kind)
    for put_one, one in zip(put.values(), values(value), strict=True):
        put_one(copy, one)
    for name, one in changes.items():
        put[name](copy, one)
    return copy


@cache
def _fields(kind: type[Any]) -> tuple[Callable[[Any], tuple[Any, ...]], Mapping[str, Put]]:
    """How to read all fields at once, and how to write each."""
    put = {field.name: getattr(kind, field.name).__set__ for field in fields(kind)}
    return attrgetter(*put), put
