"""RunPod's request to a job spec. Pure. ``render`` goes the other way."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from lib.clock import Clock
from lib.dialects.port import Block
from lib.dialects.runpod import render
from lib.dialects.runpod.inputs import KEY_FIELDS, Given, read_input
from lib.dialects.runpod.schema import RunPodRequest, RunPodS3, parse
from lib.errors import ServiceError
from lib.jobs.model import Credential, DeliverySpec, Job, JobSpec, OnDisconnect, S3Target, WebhookTarget
from lib.serving.payloads import dumps
from lib.settings import JobsSettings, RunPodSettings
from lib.storage.inline import is_data_uri
from lib.workflow.cost import measure
from lib.workflow.encoding import encode
from lib.workflow.graph import check_graph

NAME = "runpod"
COMFY_ORG = "comfy_org"
MOST_TEXT_CHARS = 64 * 1024
"""A text of an input that is longer is a file, not a prompt."""
_LEFT_OUT = "(left out)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A submitted job. ``refused``: why worker-comfyui's handler would fail it at once; its platform had accepted it,
    so it is a job that failed, and no request that was refused."""

    spec: JobSpec
    refused: ServiceError | None = None

    @property
    def told_elsewhere(self) -> bool:
        """Whether its caller gets the result although nobody waits for the answer."""
        delivery = self.spec.delivery
        own_bucket = delivery.s3 is not None and not delivery.s3.operator
        return own_bucket or any(not target.operator for target in delivery.webhooks)


class RunPodPayload:
    """The job format of worker-comfyui on RunPod; RunPod's own queue carries it too.

    ``plan_s3`` decides on the bucket of a request that has this block (``access_key_id``, ``secret_access_key``,
    ``bucket_name``, ``endpoint_url``, ``prefix``), or none; ``plan_webhook`` on whom to tell of one that names this
    URL, or "". Both raise InvalidRequest or UnsafeInput in RunPod's words. ``worker_id`` is who we are in answers:
    RunPod's pod id, or a name that stays the same.
    """

    name = NAME

    def __init__(
        self,
        *,
        plan_s3: Callable[[Block], S3Target | None],
        plan_webhook: Callable[[str], WebhookTarget | None],
        settings: RunPodSettings,
        jobs: JobsSettings,
        worker_id: str,
        clock: Clock,
    ) -> None:
        self._plan_s3 = plan_s3
        self._plan_webhook = plan_webhook
        self._settings = settings
        self._jobs = jobs
        self._worker_id = worker_id
        self._legacy = settings.output == "legacy"
        self._clock = clock

    def read(self, body: object, *, request_id: str) -> Asked:
        """Turn ``{"input": ..., "webhook": ..., "policy": ..., "s3Config": ...}`` (decoded, checked JSON) into a job.
        Owner, base URL and what a lost connection means are its caller's to fill.

        Raises: InvalidRequest, UnsafeInput: what the platform itself refuses.
        """
        asked = parse(body)
        given, refused = self._given(asked.input)
        spec = self._spec(asked, request_id, self._delivery(asked, given))
        if given is None or refused is not None:
            return Asked(spec=spec, refused=refused)
        workflow: Any = given.workflow
        key = None if given.api_key is None else {"api_key": given.api_key}
        return Asked(
            spec=replace(
                spec,
                workflow=encode(workflow),
                estimate=measure(workflow),
                files=given.images,
                credentials=() if key is None else (Credential(kind=COMFY_ORG, values=key),),
            )
        )

    def render(self, job: Job) -> dict[str, Any]:
        """Return the job object, complete."""
        shown = self.render_brief(job)
        return shown | render.told(job, legacy=self._legacy)

    def render_brief(self, job: Job) -> dict[str, Any]:
        """Return the job object without what it made or failed of."""
        return render.brief(job, worker_id=self._worker_id, now=self._clock.now())

    def output(self, job: Job) -> dict[str, Any]:
        """Return what a completed job made, in the form that the operator chose."""
        return render.output(job, legacy=self._legacy)

    def render_webhook(self, job: Job, target: WebhookTarget) -> bytes:
        """Return the body that a job's webhook gets: the job object, ``webhook``, and ``input`` where that is wanted.
        The operator's own target is told no caller of."""
        body = {**self.render(job), **target.extra_params}
        if not target.operator:
            body["webhook"] = target.url
        return dumps(body)

    def _given(self, raw: object) -> tuple[Given | None, ServiceError | None]:
        given = None
        try:
            given = read_input(raw)
            check_graph(given.workflow)
        except ServiceError as error:
            return given, error
        return given, None

    def _spec(self, asked: RunPodRequest, request_id: str, delivery: DeliverySpec) -> JobSpec:
        policy, jobs = asked.policy, self._jobs
        timeout_ms = policy.executionTimeout if policy is not None else None
        ttl_ms = policy.ttl if policy is not None else None
        return JobSpec(
            request_id=request_id,
            dialect=NAME,
            workflow=b"",
            cost=jobs.workload_units if jobs.cost_model == "constant" else None,
            delivery=delivery,
            on_disconnect=OnDisconnect.KEEP,
            max_wait_s=jobs.max_queue_time_s,
            timeout_s=None if timeout_ms is None else timeout_ms / 1000,
            ttl_s=None if ttl_ms is None else ttl_ms / 1000,
            low_priority=policy is not None and policy.lowPriority,
            patient=True,
            keep_partial=True,
            repeatable=True,
            keep_response=False,
        )

    def _delivery(self, asked: RunPodRequest, given: Given | None) -> DeliverySpec:
        s3 = self._plan_s3(_s3_block(asked.s3Config))
        target = self._plan_webhook(asked.webhook or asked.webhookV2)
        if target is not None and given is not None and self._settings.webhook_input:
            target = replace(target, extra_params={"input": without_pictures(given.fields)})
        return DeliverySpec(s3=s3, inline_base64=s3 is None, webhooks=() if target is None else (target,))


def without_pictures(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return an input as it may be told again: no images, no key, no files inside the graph."""
    return {name: _lean(value) for name, value in fields.items() if name != "images" and name not in KEY_FIELDS}


def _lean(value: Any) -> Any:
    if isinstance(value, str):
        return _LEFT_OUT if len(value) > MOST_TEXT_CHARS or is_data_uri(value) else value
    if isinstance(value, dict):
        return {name: _lean(item) for name, item in value.items()}
    return [_lean(item) for item in value] if isinstance(value, list) else value


def _s3_block(config: RunPodS3 | None) -> dict[str, str] | None:
    if config is None:
        return None
    return {
        "access_key_id": config.accessId,
        "secret_access_key": config.accessSecret,
        "bucket_name": config.bucketName,
        "endpoint_url": config.endpointUrl,
        "prefix": config.objectPath,
    }
