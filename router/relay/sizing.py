"""What a request is worth before it ever ran, by its graph; implements ``Sizing``.

The body is only looked at: placeholders, URLs and what only a worker can judge stay as they are. A request without a
graph is known by its path or template.
"""

import asyncio
from collections.abc import Mapping
from typing import Any

import orjson

from lib.errors import InvalidRequest
from lib.workflow.cost import measure
from lib.workflow.decoding import check, invalid
from lib.workflow.models import large_models
from lib.workflow.template import Template
from router.model import Priority
from router.relay.ports import Work

BIG_BODY_BYTES = 256 * 1024
"""Larger ones are read in a thread, a few at a time: decoded they take a multiple of their size."""
READERS = 2
USUAL_UNITS = 100.0
LONGEST_NAME = 64
MEGABYTE = 1e6
_UPLOADS = ("s3", "hf_upload", "azure_blob_upload", "http_upload")
"""Salad's, the first of which counts."""
_GRAPHS: Mapping[str, tuple[str, ...]] = {
    "wrapper": ("workflow_json",),
    "runpod": ("workflow", "workflow_json", "prompt"),
    "salad": ("prompt",),
}
"""The names of a graph, by dialect; all but Salad's stand in ``input``."""


class RequestSizing:
    """``templates`` are those that modifiers name."""

    def __init__(self, templates: Mapping[str, Template]) -> None:
        self._templates = templates
        self._reading = asyncio.Semaphore(READERS)

    async def work(self, endpoint: str, dialect: str, body: bytes, *, path: str = "") -> Work:
        """See ``Sizing``."""
        if len(body) < BIG_BODY_BYTES:
            return self._work(dialect, body, path)
        async with self._reading:
            return await asyncio.to_thread(self._work, dialect, body, path)

    def _work(self, dialect: str, body: bytes, path: str) -> Work:
        request = check(body)
        if not isinstance(request, dict):
            raise invalid("The body must be a JSON object", loc=("body",), kind="model_type")
        fields = request if dialect == "salad" else _input(request)
        graph = self._graph(dialect, fields)
        if graph is None:
            named = fields.get("modifier")
            name = path or (named[:LONGEST_NAME] if isinstance(named, str) else "")
            return self._unseen(dialect, request, name=name, size=len(body))
        estimate, models = measure(graph), large_models(graph)
        return Work(
            cost=estimate.units,
            kind=estimate.shape,
            prior=estimate.units,
            family=models[0] if models else "",
            models=models,
            dialect=dialect,
            input_mb=len(body) / MEGABYTE,
            priority=_priority(dialect, request),
            patience_s=_patience_s(dialect, request),
        )

    def _unseen(self, dialect: str, request: Mapping[str, Any], *, name: str, size: int) -> Work:
        return Work(
            cost=USUAL_UNITS,
            kind=f"{dialect} {name}",
            prior=USUAL_UNITS,
            dialect=dialect,
            input_mb=size / MEGABYTE,
            priority=_priority(dialect, request),
            patience_s=_patience_s(dialect, request),
        )

    def _graph(self, dialect: str, fields: Mapping[str, Any]) -> Mapping[str, Any] | None:
        for name in _GRAPHS[dialect]:
            if isinstance(graph := fields.get(name), dict) and graph:
                return graph
        template = self._templates.get(str(fields.get("modifier") or ""))
        if template is None:
            return None
        values = fields.get("modifications")
        try:
            return template.bind(values if isinstance(values, dict) else {})
        except InvalidRequest:  # the worker says what is wrong
            return template.workflow


def _input(request: Mapping[str, Any]) -> Mapping[str, Any]:
    """What RunPod calls the input may be JSON in a string."""
    value = request.get("input")
    if isinstance(value, str):
        try:
            value = orjson.loads(value)
        except orjson.JSONDecodeError:
            return {}
    return value if isinstance(value, dict) else {}


def _priority(dialect: str, request: Mapping[str, Any]) -> Priority | None:
    policy = request.get("policy")
    low = dialect == "runpod" and isinstance(policy, dict) and policy.get("lowPriority") is True
    return Priority.LOW if low else None


def _patience_s(dialect: str, request: Mapping[str, Any]) -> float | None:
    if dialect == "salad":
        upload = next((block for name in _UPLOADS if isinstance(block := request.get(name), dict)), {})
        told = any(isinstance(url := request.get(name), str) and url for name in ("webhook", "webhook_v2"))
        return 0.0 if told or upload.get("async") is True else None
    cap_s = _input(request).get("sync_timeout_s") if dialect == "wrapper" else None
    return max(float(cap_s), 0.0) if isinstance(cap_s, int | float) and not isinstance(cap_s, bool) else None
