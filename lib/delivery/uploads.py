"""Outputs to an object store: names and keys, parallel uploads, what failed said on its own entry."""

import asyncio
import logging
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path, PurePosixPath

from lib.clock import Clock
from lib.delivery.retry import Patience
from lib.errors import StorageFailed
from lib.jobs.model import Job, Output, S3Target
from lib.settings import DeliverySettings
from lib.storage.blobs import BlobStore, Published
from lib.storage.s3 import S3Place, S3Stores
from lib.storage.sources import tenant_folder

log = logging.getLogger(__name__)
PARALLEL = 4
"""Files of one job that go up at the same time; the store bounds what all jobs do together."""

OpenStore = Callable[[S3Target], BlobStore]


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedFile:
    """A file of a job's under the name that it has outside."""

    name: str
    path: Path
    mime_type: str


def s3_opener(stores: S3Stores, settings: DeliverySettings) -> OpenStore:
    """Turn targets into stores. Addressing and checksum mode are the operator's for the operator's own place, and the
    public URL is that of the operator's own bucket."""

    def open_(target: S3Target) -> BlobStore:
        own = target.bucket_name == settings.s3_bucket_name
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
                read_timeout_s=settings.s3_read_timeout_s,
                attempts=target.connect_attempts,
                trusted=target.operator,
                public_base_url=settings.s3_public_base_url if target.operator and own else None,
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


def thumbnails(outputs: Sequence[Output]) -> list[NamedFile | None]:
    """Name each output's thumbnail, ``thumb_<name without extension>.<extension>``, apart from every output's name."""
    names = output_names(outputs)
    taken = set(names)
    found: list[NamedFile | None] = []
    for output, name in zip(outputs, names, strict=True):
        if not output.thumbnail_path or not name:
            found.append(None)
            continue
        path = Path(output.thumbnail_path)
        own = _unused(f"thumb_{PurePosixPath(name).stem}{path.suffix}", taken)
        taken.add(own)
        found.append(NamedFile(name=own, path=path, mime_type=f"image/{path.suffix[1:].replace('jpg', 'jpeg')}"))
    return found


def named_files(outputs: Sequence[Output]) -> dict[str, NamedFile]:
    """Every file of a job that has a name, thumbnails among them: what ``/outputs/<job>/<name>`` serves."""
    return {file.name: file for file in (*_files(outputs), *thumbnails(outputs)) if file is not None}


def key_folder(job: Job, target: S3Target) -> str:
    """Say where in the store the job's files go: ``<prefix>[_<tenant>/][<folder>/]<request_id>/[<run>/]``.

    In the operator's bucket each tenant has a folder, so that none overwrites another's. From the second run of a
    request id on its number comes in between, so that nothing handed out is overwritten.
    """
    tenant = tenant_folder(job.spec.owner) if target.operator else ""
    run = f"{job.run}/" if job.run > 1 else ""
    return f"{target.prefix}{tenant}{target.folder}{job.spec.request_id}/{run}"


def _unused(name: str, taken: set[str]) -> str:
    stem, dot, extension = name.rpartition(".")
    number, free = 2, name
    while free in taken:
        free = f"{stem}-{number}.{extension}" if dot and stem else f"{name}-{number}"
        number += 1
    return free


class Uploads:
    """Publishes a job's files; a failing one gets ``upload_error`` and keeps everything else."""

    def __init__(
        self, *, open_store: OpenStore, expires_s: int, clock: Clock, patience: Patience | None = None
    ) -> None:
        self._open_store = open_store
        self._expires_s = expires_s
        self._clock = clock
        self._patience = patience or Patience()

    async def upload(self, job: Job, outputs: Sequence[Output], target: S3Target) -> tuple[Output, ...]:
        """Upload every output that is a file and return all outputs, in order, with ``url`` or ``upload_error``.

        Thumbnails go beside the files; one that fails is only missing.
        """
        going = _Going(
            store=self._open_store(target),
            folder=key_folder(job, target),
            operator=target.operator,
            seats=asyncio.Semaphore(PARALLEL),
        )
        files, smalls = _files(outputs), thumbnails(outputs)
        async with asyncio.TaskGroup() as group:
            tasks = [
                (group.create_task(self._publish(going, file)), group.create_task(self._publish(going, small)))
                for file, small in zip(files, smalls, strict=True)
            ]
        return tuple(
            self._told(output, file.result(), small.result(), operator=target.operator)
            for output, (file, small) in zip(outputs, tasks, strict=True)
        )

    def _told(
        self,
        output: Output,
        file: Published | StorageFailed | None,
        small: Published | StorageFailed | None,
        *,
        operator: bool,
    ) -> Output:
        if isinstance(small, Published):
            output = replace(output, thumbnail_url=small.url)
        if isinstance(file, StorageFailed):
            return replace(output, upload_error=_operators(file) if operator else file.message)
        if file is None:
            return output
        end = None if file.expires_s is None else self._clock.now() + timedelta(seconds=file.expires_s)
        return replace(output, url=file.url, url_expires_at=end)

    async def _publish(self, going: "_Going", file: NamedFile | None) -> Published | StorageFailed | None:
        if file is None:
            return None
        async with going.seats:
            if going.dead is not None:
                return going.dead
            try:
                async for attempt in self._patience.tries():
                    with attempt:
                        return await going.store.publish(
                            file.path, key=going.folder + file.name, mime_type=file.mime_type, expires_s=self._expires_s
                        )
            except StorageFailed as error:
                cause = {"cause": error.message} if going.operator else {}
                log.warning("upload failed", extra={"event": "upload.failed", **_facts(error), **cause})
                going.dead = error if error.retryable else None
                return error
        raise AssertionError("stamina ends by returning or raising")


@dataclass(slots=True, kw_only=True)
class _Going:
    """One job's uploads. When a file could not be brought to the store with all patience, the store is ``dead`` for
    the job's further files: a hundred of them would hold a seat for hours."""

    store: BlobStore
    folder: str
    operator: bool
    seats: asyncio.Semaphore
    dead: StorageFailed | None = None


def _files(outputs: Sequence[Output]) -> list[NamedFile | None]:
    return [
        NamedFile(name=name, path=Path(output.local_path), mime_type=output.mime_type) if name else None
        for output, name in zip(outputs, output_names(outputs), strict=True)
    ]


def _operators(error: StorageFailed) -> str:
    """What a caller is told of the operator's own store: neither its host, nor its rules and names, which it writes
    into its refusals. Those are in the log."""
    return f"S3 upload failed: {error.details['reason']}: the worker's own storage did not take the file"


def _facts(error: StorageFailed) -> dict[str, object]:
    return {name: error.details.get(name) for name in ("reason", "bucket_name", "host")}
