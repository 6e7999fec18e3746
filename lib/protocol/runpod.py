"""RunPod's words, which worker and router both use. Source: RunPod's API reference, operations on endpoints."""

from enum import StrEnum


class Shown(StrEnum):
    """RunPod's words for where a job is; the last four are final."""

    IN_QUEUE = "IN_QUEUE"
    IN_PROGRESS = "IN_PROGRESS"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    TIMED_OUT = "TIMED_OUT"

    @property
    def final(self) -> bool:
        return self not in (Shown.IN_QUEUE, Shown.IN_PROGRESS)
