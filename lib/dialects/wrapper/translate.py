"""The API wrapper's words and ours: request to job spec, job to result object, webhook body and HTTP status. Pure."""

import hashlib
import uuid
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

import orjson

from lib import errors
from lib.dialects.wrapper.schema import Input, parse
from lib.errors import InvalidRequest, JobCancelled, ServiceError
from lib.jobs.model import (
    DeliverySpec,
    Job,
    JobSpec,
    JobStatus,
    OnDisconnect,
    Output,
    OutputKind,
    S3Target,
    Stage,
    Timings,
    WebhookTarget,
)
from lib.serving.errors import error_fields, status_of
from lib.serving.payloads import dumps
from lib.settings import JobsSettings
from lib.workflow.graph import check_graph
from lib.workflow.template import Template

NAME = "wrapper"
INLINE_HEADER = "X-Return-Outputs-As-Base64"
RESPONSE_HEADER = "X-Include-ComfyUI-Response"
STATUS: Mapping[type[ServiceError], int] = {
    errors.Overloaded: 503,
    errors.EngineDied: 500,
    errors.StorageFailed: 500,
    errors.JobTimeout: 500,
}
"""Where the documented statuses differ from our table: 500 and 502 for failed jobs, 503 when full."""

_TRUE = frozenset({"1", "true", "yes", "on"})
_STAGE_FAILED = {
    Stage.PREPARE: "Preprocessing failed: ",
    Stage.EXECUTE: "Generation failed: ",
    Stage.COLLECT: "Generation failed: ",
    Stage.DELIVER: "Post-processing failed: ",
}
PlanS3 = Callable[[Mapping[str, Any] | None], S3Target | None]
PlanWebhook = Callable[[Mapping[str, Any] | None], WebhookTarget | None]


class WrapperPayload:
    """The job format of the API wrapper; Vast's envelope carries it too. Implements ``PayloadDialect``.

    ``plan_s3`` and ``plan_webhook`` turn a request's block (``None`` without one) into where things go.
    """

    name = NAME

    def __init__(
        self,
        *,
        templates: Mapping[str, Template],
        plan_s3: PlanS3,
        plan_webhook: PlanWebhook,
        settings: JobsSettings,
    ) -> None:
        self._templates = templates
        self._plan_s3 = plan_s3
        self._plan_webhook = plan_webhook
        self._settings = settings

    def parse(self, payload: Mapping[str, Any], headers: Mapping[str, str]) -> JobSpec:
        """Turn ``{"input": {...}}`` (decoded and checked JSON) into a spec.

        Raises: InvalidRequest, InvalidWorkflow, UnsafeInput.
        """
        asked = parse(payload)
        workflow = self._workflow(asked)
        check_graph(workflow)
        webhook = self._plan_webhook(asked.webhook.model_dump() if asked.webhook else None)
        delivery = DeliverySpec(
            s3=self._plan_s3(asked.s3.model_dump() if asked.s3 else None),
            webhooks=() if webhook is None else (webhook,),
            inline_base64=asked.return_outputs_as_base64 or _is_true(headers.get(INLINE_HEADER)),
            include_temp=asked.include_temp_outputs,
        )
        return JobSpec(
            request_id=asked.request_id or str(uuid.uuid4()),
            dialect=NAME,
            workflow=orjson.dumps(workflow),
            body_hash=_body_hash(payload["input"], delivery),
            delivery=delivery,
            on_disconnect=OnDisconnect.CANCEL,
            max_wait_s=self._settings.max_queue_time_s,
            timeout_s=asked.timeout_s,
            keep_response=self.wants_response(headers),
        )

    def wants_response(self, headers: Mapping[str, str]) -> bool:
        """Whether ``comfyui_response`` is to be filled: the header decides either way, else the setting."""
        asked = headers.get(RESPONSE_HEADER)
        return self._settings.include_response if asked is None else _is_true(asked)

    def render(self, job: Job, *, include_response: bool) -> dict[str, Any]:
        """Return the result object of a job in any state."""
        return render(job, include_response=include_response)

    def render_webhook(self, job: Job, target: WebhookTarget) -> bytes:
        """Return the body that a job's webhook gets."""
        return render_webhook(job, target)

    def _workflow(self, asked: Input) -> dict[str, Any]:
        if not asked.modifier:
            return asked.workflow_json
        template = self._templates.get(asked.modifier)
        if template is None:
            raise _unknown_modifier(asked.modifier, self._templates)
        return template.bind(asked.modifications, loc=("body", "input", "modifications"))


def render(job: Job, *, include_response: bool) -> dict[str, Any]:
    """Return the wrapper's result object; keys of ours only where they say something."""
    result: dict[str, Any] = {
        "id": job.spec.request_id,
        "message": _message(job),
        "status": _status(job),
        "comfyui_response": job.response if include_response else {},
        "output": [_entry(output) for output in job.outputs if output.kind is not OutputKind.TEXT or output.filename],
        "timings": _timings(job.timings, terminal=job.status.terminal),
    }
    texts = [output for output in job.outputs if output.text is not None]
    if texts:
        result["text_output"] = [
            {"node_id": output.node_id, "output_type": output.source_key, "text": output.text} for output in texts
        ]
    if job.warnings:
        result["warnings"] = list(job.warnings)
    if job.error is not None:
        result = error_fields(job.error) | result
    return result


def render_webhook(job: Job, target: WebhookTarget) -> bytes:
    """Return the webhook's body: ``id, status, message, output, timings, extra``."""
    result = render(job, include_response=False)
    body = {name: result[name] for name in ("id", "status", "message", "output", "timings")}
    if target.extra_params:
        body["extra"] = target.extra_params
    return dumps(body)


def render_refusal(error: ServiceError, request_id: str) -> dict[str, Any]:
    """Return the body for an error that has no job: ``detail`` for a schema error, else a failed result."""
    if isinstance(error, InvalidRequest):
        fields = error_fields(error)
        fields.pop("details", None)
        return {"detail": _problems(error), **fields}
    result = {"id": request_id, "status": "failed", "comfyui_response": {}, "output": [], "timings": {}}
    return {**result, **error_fields(error)}


def http_status(job: Job) -> int:
    """Return the HTTP status of a job's result; 2xx only while it is unfinished or when it is completed."""
    if not job.status.terminal or job.status is JobStatus.COMPLETED:
        return 200
    unexplained = JobCancelled if job.status is JobStatus.CANCELLED else ServiceError
    return status_of(job.error or unexplained(job.message), STATUS)


def _unknown_modifier(name: str, known: Mapping[str, Template]) -> InvalidRequest:
    message = f"Unknown modifier: {name[:100]}; expected one of {', '.join(sorted(known))}"
    problem = {"type": "value_error", "loc": ["body", "input", "modifier"], "msg": message}
    return InvalidRequest(message, details={"field": "input.modifier", "errors": [problem]})


def _problems(error: InvalidRequest) -> list[dict[str, Any]]:
    """Return FastAPI's list of problems; places are counted from ``body``."""
    listed = error.details.get("errors")
    if not isinstance(listed, list) or not listed:
        return [{"type": "value_error", "loc": ["body"], "msg": error.message}]
    return [item if item["loc"][:1] == ["body"] else {**item, "loc": ["body", *item["loc"]]} for item in listed]


def _body_hash(body: Any, delivery: DeliverySpec) -> str:
    """Identify a request, whatever the order of its keys; the one flag that headers can change is part of it."""
    digest = hashlib.blake2b(orjson.dumps(body, option=orjson.OPT_SORT_KEYS), digest_size=16)
    digest.update(b"inline" if delivery.inline_base64 else b"")
    return digest.hexdigest()


def _is_true(value: str | None) -> bool:
    return value is not None and value.strip().lower() in _TRUE


def _status(job: Job) -> str:
    if job.status.terminal:
        return job.status.value
    if job.stage is Stage.DELIVER:
        return "generated"
    if job.status is JobStatus.RUNNING:
        return "generating"
    return "pending" if job.stage is Stage.PREPARE else "processing"


def _message(job: Job) -> str:
    if job.status is JobStatus.FAILED:
        return _STAGE_FAILED[job.stage] + job.message
    if job.status is JobStatus.RUNNING and job.stage is Stage.EXECUTE and job.progress.percent:
        progress = job.progress
        steps = f" ({progress.value:g}/{progress.maximum:g})" if progress.value and progress.maximum else ""
        return f"Progress: {progress.percent:.1f}%{steps}"
    return job.message


def _entry(output: Output) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "filename": output.filename,
        "local_path": output.local_path,
        "type": output.folder_type,
        "subfolder": output.subfolder,
        "node_id": output.node_id,
        "output_type": output.source_key,
    }
    if output.url is not None:
        entry["url"] = output.url
    if output.upload_error is not None:
        entry["upload_error"] = output.upload_error
    if output.data_base64 is not None:
        entry["data"] = output.data_base64
        entry["mimetype"] = output.mime_type
    if output.error is not None:
        entry["error"] = output.error
    return entry


def _timings(timings: Timings, *, terminal: bool) -> dict[str, int]:
    shown = {"queued_at_ms": _epoch_ms(timings.accepted_at)}
    if timings.prepare_s is not None:
        shown["preprocess_ms"] = _ms(timings.prepare_s)
    if timings.execute_s is not None:
        shown["generation_ms"] = _ms(timings.execute_s + (timings.collect_s or 0.0))
    if timings.deliver_s is not None or terminal:
        shown["postprocess_ms"] = _ms(timings.deliver_s or 0.0)
    if terminal and timings.finished_at is not None:
        shown["completed_at_ms"] = _epoch_ms(timings.finished_at)
        shown["total_ms"] = shown["completed_at_ms"] - shown["queued_at_ms"]
    return shown


def _epoch_ms(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)


def _ms(duration_s: float) -> int:
    return max(int(duration_s * 1000), 0)
