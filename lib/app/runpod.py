"""The job format of the RunPod dialect, with deliveries planned as ``BUCKET_*`` and ``S3_*`` say."""

import platform
from collections.abc import Mapping
from functools import partial
from typing import Any

from lib.clock import Clock
from lib.delivery.buckets import S3_CONFIG, effective
from lib.delivery.hooks import plan_url_webhook
from lib.delivery.plan import plan_s3
from lib.dialects.runpod.translate import RunPodPayload
from lib.jobs.model import S3Target
from lib.settings import Settings
from lib.storage.guard import AddressGuard


def runpod_payload(settings: Settings, *, guard: AddressGuard, clock: Clock) -> RunPodPayload:
    """Return worker-comfyui's job format. Raises: SettingsError when ``BUCKET_*`` make no place for files."""
    delivery, runpod = settings.delivery, settings.runpod
    effective(delivery, runpod, now=clock.now())  # a mistake is told now, not with the first job

    def bucket(block: Mapping[str, Any] | None) -> S3Target | None:
        now = effective(delivery, runpod, now=clock.now())
        return plan_s3(block, now, guard=guard, fields=S3_CONFIG)

    return RunPodPayload(
        plan_s3=bucket,
        plan_webhook=partial(plan_url_webhook, settings=delivery, guard=guard),
        settings=runpod,
        jobs=settings.jobs,
        worker_id=runpod.pod_id or platform.node() or "worker",
        clock=clock,
    )
