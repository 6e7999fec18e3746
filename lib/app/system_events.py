"""System events of Salad's kind: what ComfyUI and the storages do, told to the operator's own target."""

from collections.abc import Callable
from pathlib import Path

from lib.clock import Clock
from lib.delivery.schedules import schedules
from lib.delivery.system_events import SystemEvents
from lib.jobs.model import Job, WebhookScheme
from lib.settings import SaladSettings, Settings
from lib.storage.http import GuardedHttp

OF_SALAD = {
    "salad_organization_name": "organization_name",
    "salad_organization_id": "organization_id",
    "salad_project_name": "project_name",
    "salad_project_id": "project_id",
    "salad_container_group_name": "container_group_name",
    "salad_container_group_id": "container_group_id",
    "salad_instance_id": "instance_id",
    "salad_machine_id": "machine_id",
}
"""What SaladCloud says of an instance: the key in an event's metadata, and the setting."""


def system_events(settings: Settings, *, http: GuardedHttp, clock: Clock) -> SystemEvents | None:
    """Return what takes events; ``None`` where nobody is to be told. Raises: SettingsError."""
    salad, delivery = settings.salad, settings.delivery
    if salad.system_webhook_url is None or not salad.system_webhook_events:
        return None
    secret = delivery.salad_webhook_secret or delivery.webhook_secret
    return SystemEvents(
        salad.system_webhook_url,
        events=salad.system_webhook_events,
        metadata={**_of_salad(salad), **salad.system_metadata},
        secret=secret.get_secret_value() if secret else "",
        http=http,
        schedule=schedules(delivery)[WebhookScheme.SALAD],
        clock=clock,
        timeout_s=delivery.webhook_timeout_s,
    )


def on_saladcloud(salad: SaladSettings) -> bool:
    """Whether the worker runs there: any of its variables is set."""
    return bool(_of_salad(salad))


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


def _of_salad(salad: SaladSettings) -> dict[str, str]:
    told = {key: getattr(salad, field) for key, field in OF_SALAD.items()}
    return {key: value for key, value in told.items() if value}
