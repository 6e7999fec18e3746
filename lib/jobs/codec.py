"""JSON as it is stored: what orjson takes, and what only Python's own encoder does."""

import json
from typing import Any

import orjson


def pack(value: object) -> bytes:
    """Encode JSON values, also lone surrogates and integers beyond 64 bits."""
    try:
        return orjson.dumps(value)
    except TypeError:
        return json.dumps(value, default=str).encode()


def unpack(packed: bytes) -> Any:
    """Decode what ``pack`` made. Raises ValueError."""
    try:
        return orjson.loads(packed)
    except orjson.JSONDecodeError:
        return json.loads(packed)
