"""A workflow as the bytes that a job keeps while it waits. Its counterpart is ``decoding``."""

from collections.abc import Mapping
from typing import Any

import orjson


def encode(workflow: Mapping[str, Any]) -> bytes:
    """Return JSON in a buffer of its own size: the one that orjson makes is up to 13 times as large (3.13)."""
    return bytes(memoryview(orjson.dumps(workflow)))
