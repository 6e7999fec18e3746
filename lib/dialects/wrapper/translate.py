"""The API wrapper's request to a job spec. Pure. ``render`` goes the other way."""

import hashlib
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson
from pydantic import BaseModel

from lib.dialects.port import Planner
from lib.dialects.wrapper.render import render, render_accepted, render_webhook
from lib.dialects.wrapper.schema import HttpCredential, Input, S3Credential, parse
from lib.errors import InvalidRequest
from lib.jobs.model import Credential, DeliverySpec, Job, JobSpec, OnDisconnect, WebhookTarget
from lib.settings import JobsSettings
from lib.workflow.cost import measure
from lib.workflow.encoding import encode
from lib.workflow.graph import check_graph
from lib.workflow.template import Template

NAME = "wrapper"
INLINE_HEADER = "X-Return-Outputs-As-Base64"
RESPONSE_HEADER = "X-Include-ComfyUI-Response"
_TRUE = frozenset({"1", "true", "yes", "on"})
_INPUT = ("body", "input")


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A request: the job, and how long its caller waits for it before he takes a link instead (``None``: as long as
    it takes)."""

    spec: JobSpec
    sync_timeout_s: float | None = None


class WrapperPayload:
    """The job format of the API wrapper; Vast's envelope carries it too."""

    name = NAME

    def __init__(self, *, templates: Mapping[str, Template], planner: Planner, settings: JobsSettings) -> None:
        self._templates = templates
        self._planner = planner
        self._settings = settings

    def parse(self, payload: Mapping[str, Any], headers: Mapping[str, str]) -> JobSpec:
        """Turn ``{"input": {...}}`` (decoded and checked JSON) into a spec.

        Raises: InvalidRequest, InvalidWorkflow, UnsafeInput.
        """
        return self.read(payload, headers).spec

    def read(self, payload: Mapping[str, Any], headers: Mapping[str, str]) -> Asked:
        """As ``parse``, with what is for the route and not for the job."""
        asked = parse(payload)
        workflow = self._workflow(asked)
        check_graph(workflow)
        delivery = self._delivery(asked, headers)
        spec = JobSpec(
            request_id=asked.request_id or str(uuid.uuid4()),
            dialect=NAME,
            workflow=encode(workflow),
            body_hash=_body_hash(payload["input"], delivery),
            cost=self._settings.workload_units if self._settings.cost_model == "constant" else None,
            estimate=measure(workflow),
            credentials=tuple(map(_credential, asked.credentials)),
            delivery=delivery,
            on_disconnect=OnDisconnect.CANCEL,
            max_wait_s=self._settings.max_queue_time_s,
            timeout_s=asked.timeout_s,
            keep_response=self.wants_response(headers),
        )
        return Asked(spec=spec, sync_timeout_s=asked.sync_timeout_s)

    def wants_response(self, headers: Mapping[str, str]) -> bool:
        """Whether ``comfyui_response`` is to be filled: the header decides either way, else the setting."""
        asked = headers.get(RESPONSE_HEADER)
        return self._settings.include_response if asked is None else is_true(asked)

    def render(self, job: Job, *, include_response: bool) -> dict[str, Any]:
        """Return the result object of a job in any state."""
        return render(job, include_response=include_response)

    def render_accepted(self, job: Job, *, base_url: str, job_token: str | None = None) -> dict[str, Any]:
        """Return the result object of a job that goes on without its caller."""
        return render_accepted(job, base_url=base_url, job_token=job_token)

    def render_webhook(self, job: Job, target: WebhookTarget) -> bytes:
        """Return the body that a job's webhook gets."""
        return render_webhook(job, target)

    def _workflow(self, asked: Input) -> dict[str, Any]:
        if not asked.modifier:
            return asked.workflow_json
        template = self._templates.get(asked.modifier)
        if template is None:
            raise _unknown_modifier(asked.modifier, self._templates)
        return template.bind(asked.modifications, loc=(*_INPUT, "modifications"))

    def _delivery(self, asked: Input, headers: Mapping[str, str]) -> DeliverySpec:
        planner = self._planner
        put = _given(asked.upload) or {}
        return DeliverySpec(
            s3=planner.s3(asked.s3.model_dump() if asked.s3 else None),
            put=planner.put(
                {"urls": put["put_urls"], "headers": put.get("headers", {})} if "put_urls" in put else None
            ),
            inline_base64=asked.return_outputs_as_base64 or is_true(headers.get(INLINE_HEADER)),
            convert=planner.convert(_given(asked.convert_output)),
            keep_metadata=None if asked.metadata is None else asked.metadata == "keep",
            thumbnail=planner.thumbnail(_given(asked.thumbnail)),
            webhooks=planner.webhooks(_given(asked.webhook), [_given(block) or {} for block in asked.webhooks]),
            include_temp=asked.include_temp_outputs,
        )


def is_true(value: str | None) -> bool:
    """Whether a flag of a header or query is set."""
    return value is not None and value.strip().lower() in _TRUE


def _given(block: BaseModel | None) -> dict[str, Any] | None:
    """A block without what says nothing."""
    return None if block is None else block.model_dump(mode="json", exclude_defaults=True)


def _credential(given: S3Credential | HttpCredential) -> Credential:
    if isinstance(given, HttpCredential):
        return Credential(kind=given.type, pattern=given.url_pattern, values=given.headers)
    values = {name: value for name, value in given.model_dump(exclude={"type", "url_pattern"}).items() if value}
    return Credential(kind=given.type, pattern=given.url_pattern, values=values)


def _unknown_modifier(name: str, known: Mapping[str, Template]) -> InvalidRequest:
    message = f"Unknown modifier: {name[:100]}; expected one of {', '.join(sorted(known))}"
    problem = {"type": "value_error", "loc": [*_INPUT, "modifier"], "msg": message}
    return InvalidRequest(message, details={"field": "input.modifier", "errors": [problem]})


def _body_hash(body: Any, delivery: DeliverySpec) -> str:
    """Identify a request, whatever the order of its keys; the one flag that headers can change is part of it."""
    digest = hashlib.blake2b(orjson.dumps(body, option=orjson.OPT_SORT_KEYS), digest_size=16)
    digest.update(b"inline" if delivery.inline_base64 else b"")
    return digest.hexdigest()
