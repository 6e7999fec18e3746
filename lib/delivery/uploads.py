"""Outputs to an object store: keys, parallel uploads, what failed said on its own entry."""

import asyncio
import logging
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from lib.errors import StorageFailed
from lib.jobs.model import Job, Output, S3Target
from lib.settings import DeliverySettings
from lib.storage.blobs import BlobStore
from lib.storage.s3 import S3Place, S3Stores

log = logging.getLogger(__name__)
PARALLEL = 4
"""Files of one job that go up at the same time; the store bounds what all jobs do together."""

OpenStore = Callable[[S3Target], BlobStore]


def s3_opener(stores: S3Stores, settings: DeliverySettings) -> OpenStore:
    """Turn targets into stores. Addressing and checksum mode are the operator's for the operator's own place."""

    def open_(target: S3Target) -> BlobStore:
        return stores.at(
            S3Place(
                bucket_name=target.bucket_name,
                access_key_id=target.access_key_id,
                secret_access_key=target.secret_access_key,
                session_token=target.session_token,
                endpoint_url=target.endpoint_url,
                region=target.region,
                addressing=settings.s3_addressing if target.operator else "auto",
                checksums=settings.s3_checksums if target.operator else "when_required",
                connect_timeout_s=target.connect_timeout_s,
                attempts=target.connect_attempts,
                trusted=target.operator,
            )
        )

    return open_


def output_names(outputs: Sequence[Output]) -> list[str]:
    """Give each output that is a file a name of its own within the job, empty for what is none.

    It is the output's own name; outputs of one name get their node id before it.
    """
    count = Counter(output.filename for output in outputs if output.local_path)
    taken: set[str] = set()
    names: list[str] = []
    for output in outputs:
        name = ""
        if output.local_path:
            node = re.sub(r"[^A-Za-z0-9.-]", "-", output.node_id)
            name = output.filename if count[output.filename] == 1 else f"{node}_{output.filename}"
            name = _unused(name, taken)
            taken.add(name)
        names.append(name)
    return names


def key_folder(job: Job, target: S3Target) -> str:
    """Say where in the store the job's files go: ``<prefix>[<tenant>/]<request_id>/[<run>/]``.

    In the operator's bucket each tenant has a folder, so that none overwrites another's. From the second run of a
    request id on its number comes in between, so that nothing handed out is overwritten.
    """
    tenant = f"{job.spec.owner}/" if target.operator and job.spec.owner else ""
    run = f"{job.run}/" if job.run > 1 else ""
    return f"{target.prefix}{tenant}{job.spec.request_id}/{run}"


def _unused(name: str, taken: set[str]) -> str:
    stem, dot, extension = name.rpartition(".")
    number, free = 2, name
    while free in taken:
        free = f"{stem}-{number}.{extension}" if dot and stem else f"{name}-{number}"
        number += 1
    return free


class Uploads:
    """Publishes a job's files; a failing one gets ``upload_error`` and keeps everything else."""

    def __init__(self, *, open_store: OpenStore, expires_s: int) -> None:
        self._open_store = open_store
        self._expires_s = expires_s

    async def upload(self, job: Job, outputs: Sequence[Output], target: S3Target) -> tuple[Output, ...]:
        """Upload every output that is a file and return all outputs, in order, with ``url`` or ``upload_error``."""
        folder, names = key_folder(job, target), output_names(outputs)
        store, seats = self._open_store(target), asyncio.Semaphore(PARALLEL)
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(self._one(store, seats, output, folder + name)) if name else None
                for output, name in zip(outputs, names, strict=True)
            ]
        return tuple(task.result() if task else output for task, output in zip(tasks, outputs, strict=True))

    async def _one(self, store: BlobStore, seats: asyncio.Semaphore, output: Output, key: str) -> Output:
        async with seats:
            try:
                url = await store.publish(
                    Path(output.local_path), key=key, mime_type=output.mime_type, expires_s=self._expires_s
                )
            except StorageFailed as error:
                log.warning("upload failed", extra={"event": "upload.failed", **_facts(error)})
                return replace(output, upload_error=error.message)
        return replace(output, url=url)


def _facts(error: StorageFailed) -> dict[str, object]:
    return {name: error.details.get(name) for name in ("reason", "bucket_name", "host")}
