"""What a request weighs, and how much of it stays with its job. Pure."""

from dataclasses import replace

from lib.jobs.copies import changed
from lib.jobs.model import Job, JobSpec, JobStatus, Output, S3Target


def request_size(spec: JobSpec) -> int:
    """Bytes of a request: its workflow, and the files in it."""
    size = len(spec.workflow)
    return size + sum(len(file.value) for file in spec.files) if spec.files else size


def lightened(spec: JobSpec) -> JobSpec:
    """The request without what is in its files; their names stay. A store that has the files keeps them."""
    return replace(spec, files=tuple(replace(file, value="") for file in spec.files)) if spec.files else spec


def is_repeatable(job: Job) -> bool:
    """Whether its request is kept as long as its result."""
    return job.spec.repeatable and job.status is JobStatus.FAILED


def without_request(job: Job) -> Job:
    """The job without its workflow and files."""
    spec = job.spec
    return job.with_(spec=changed(spec, workflow=b"", files=())) if spec.workflow or spec.files else job


def remains(job: Job) -> Job:
    """What a store keeps of a finished job: its workflow goes, with the inputs in it, unless it may be repeated."""
    return job if is_repeatable(job) else without_request(job)


def spent(job: Job) -> Job:
    """What is worth keeping of a finished job: no inlined files; and unless it may be repeated no request, and none of
    the caller's secrets."""
    outputs = without_content(job.outputs)
    if is_repeatable(job):
        return job.with_(outputs=outputs)
    delivery = job.spec.delivery
    if delivery.s3 is not None or delivery.put is not None or delivery.webhooks:
        delivery = replace(delivery, s3=_without_keys(delivery.s3), put=None, webhooks=())
    spec = changed(job.spec, workflow=b"", files=(), credentials=(), delivery=delivery)
    return job.with_(spec=spec, outputs=outputs)


def without_content(outputs: tuple[Output, ...]) -> tuple[Output, ...]:
    """The entries of the files, without the files."""
    return tuple(changed(output, data_base64=None) if output.data_base64 is not None else output for output in outputs)


def _without_keys(target: S3Target | None) -> S3Target | None:
    return None if target is None else replace(target, access_key_id="", secret_access_key="", session_token=None)
