"""Salad's words for ``/health`` and ``/ready``, and how many jobs are in the queue. Who mounts the probes asks."""

from http import HTTPStatus

from lib.jobs.service import JobService
from lib.serving.probes import ProbeReply

RETRY_AFTER_S = 5


def depth(jobs: JobService) -> int:
    """Return how many jobs are waiting or running, as ComfyUI counts its queue; deliveries are not among them."""
    counts = jobs.queue_counts()
    return counts.prepare_waiting + counts.preparing + counts.execute_waiting + counts.running


def is_full(jobs: JobService, max_queue_depth: int) -> bool:
    """Whether ``MAX_QUEUE_DEPTH`` is reached."""
    return 0 < max_queue_depth <= depth(jobs)


def health(*, version: str, was_ready: bool) -> ProbeReply:
    """Well from the first successful warm-up on, whatever happens to ComfyUI later."""
    body = {"version": version, "status": "healthy" if was_ready else "not healthy"}
    return ProbeReply(ok=was_ready, body=body, bad_status=HTTPStatus.INTERNAL_SERVER_ERROR)


def ready(*, version: str, admits: bool, full: bool) -> ProbeReply:
    """``admits``: jobs come in now; ``full``: the queue is as long as it may be."""
    ok = admits and not full
    body = {"version": version, "status": "ready" if ok else "not ready"}
    return ProbeReply(ok=ok, body=body, retry_after_s=RETRY_AFTER_S)
