"""Ids of jobs, and of the prompts that stand for them in ComfyUI."""

import re
import uuid

_JOB_ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def new_job_id() -> str:
    """Mint a job id: canonical UUID4."""
    return str(uuid.uuid4())


def is_job_id(name: str) -> bool:
    """Whether it is written as ``new_job_id`` writes them."""
    return _JOB_ID.fullmatch(name) is not None


def prompt_id_of(job_id: str, post: int) -> str:
    """The prompt id of a job's n-th post (from 1): known beforehand, so that a restarted worker finds its prompts in
    ComfyUI although the post was not recorded. The first is the job's own id."""
    return job_id if post <= 1 else str(uuid.uuid5(uuid.UUID(job_id), str(post)))
