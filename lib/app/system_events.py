"""What files of jobs and models give to tell as system events; ComfyUI's own messages are tapped."""

from collections.abc import Callable
from pathlib import Path

from lib.delivery.system_events import SystemEvents
from lib.jobs.model import Job


def tell_uploads(events: SystemEvents) -> Callable[[Job], None]:
    """Return a job listener that tells of each file that was brought to a storage."""

    def listen(job: Job) -> None:
        wanted = job.spec.delivery
        if not job.status.terminal or job.spec.internal or (wanted.s3 is None and wanted.store is None):
            return
        for output in job.outputs:
            if output.url is not None and output.upload_error is None and output.local_path:
                events.uploaded(
                    url=output.url,
                    local_path=output.local_path,
                    size_bytes=output.size_bytes,
                    duration_s=job.timings.deliver_s or 0.0,
                )

    return listen


def downloaded(events: SystemEvents | None) -> Callable[[str, Path, int, float], None]:
    """Return what hears of files that were fetched."""

    def told(url: str, path: Path, size_bytes: int, duration_s: float) -> None:
        if events is not None:
            events.downloaded(url=url, local_path=str(path), size_bytes=size_bytes, duration_s=duration_s)

    return told


def deleted(events: SystemEvents | None) -> Callable[[str, Path, int], None]:
    """Return what hears of fetched files that were removed."""

    def told(url: str, path: Path, size_bytes: int) -> None:
        if events is not None:
            events.deleted(url=url, local_path=str(path), size_bytes=size_bytes)

    return told
