"""Workflows as bytes."""

import tracemalloc

import orjson

from lib.workflow.encoding import encode


def test_bytes_take_no_more_room_than_they_need() -> None:
    """A thousand jobs may wait."""
    workflow = {str(number): {"class_type": "Node", "inputs": {"text": "x" * 500}} for number in range(20)}
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        encoded = encode(workflow)
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert orjson.loads(encoded) == workflow
    assert after - before < len(encoded) + 1000
