"""Outputs to an object store: names and keys, parallel uploads, what failed said on its own entry."""

import asyncio
import logging
import re
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TypeVar

from lib.clock import Clock
from lib.delivery.places import OpenStore, Target
from lib.delivery.retry import Patience
from lib.errors import StorageFailed
from lib.jobs.model import Job, Output, StoreKind, StoreTarget
from lib.storage.blobs import Blob, BlobStore, Published, Repository
from lib.storage.sources import tenant_folder

log = logging.getLogger(__name__)
T = TypeVar("T")
_Done = Published | StorageFailed | None
PARALLEL = 4
"""Files of one job that go up at the same time; the store bounds what all jobs do together."""
_ABOVE = {StoreKind.AZURE: "prefix", StoreKind.HUGGING_FACE: "directory", StoreKind.HTTP: ""}
"""What of a target's place stands before the file's name in its key there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedFile:
    """A file of a job's under the name that it has outside."""

    name: str
    path: Path
    mime_type: str


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
    if not any(output.thumbnail_path for output in outputs):
        return [None] * len(outputs)
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


def key_folder(job: Job, target: Target) -> str:
    """Say where in the store the job's files go: ``<prefix>[_<tenant>/][<folder>/]<request_id>/[<run>/]``.

    In the operator's bucket each tenant has a folder, so that none overwrites another's. From the second run of a
    request id on its number comes in between, so that nothing handed out is overwritten. Salad's contract has the
    request's prefix and nothing else; the file names begin with the request id there.
    """
    if isinstance(target, StoreTarget):
        return target.place.get(_ABOVE[target.kind], "")
    if target.plain:
        return target.prefix
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

    async def upload(self, job: Job, outputs: Sequence[Output], target: Target) -> tuple[Output, ...]:
        """Upload every output that is a file and return all outputs, in order, with ``url`` or ``upload_error``.

        Thumbnails go beside the files; one that fails is only missing.
        """
        files = [*_files(outputs), *thumbnails(outputs)]
        own = _is_operators(target)
        try:
            store = self._open_store(target)
        except StorageFailed as error:  # of a job from an earlier life, with other settings
            _log(error, operator=own)
            done: list[_Done] = [error if file else None for file in files]
        else:
            done = await self._all(store, key_folder(job, target), files, operator=own)
        return tuple(
            self._told(output, file, small, operator=own)
            for output, file, small in zip(outputs, done, done[len(outputs) :], strict=False)
        )

    async def _all(
        self, store: BlobStore | Repository, folder: str, files: Sequence[NamedFile | None], *, operator: bool
    ) -> list[_Done]:
        if isinstance(store, Repository):
            return await self._committed(store, folder, files)
        going = _Going(store=store, folder=folder, operator=operator, seats=asyncio.Semaphore(PARALLEL))
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._publish(going, file)) for file in files]
        return [task.result() for task in tasks]

    async def _committed(self, store: Repository, folder: str, files: Sequence[NamedFile | None]) -> list[_Done]:
        """All of a job's files at once: they arrive together, or fail together."""
        blobs = [Blob(path=file.path, key=folder + file.name, mime_type=file.mime_type) for file in files if file]
        if not blobs:
            return [None for _ in files]
        try:
            published = iter(await self._patiently(lambda: store.commit(blobs)))
        except StorageFailed as error:
            _log(error, operator=True)
            return [error if file else None for file in files]
        return [next(published) if file else None for file in files]

    def _told(self, output: Output, file: _Done, small: _Done, *, operator: bool) -> Output:
        if isinstance(small, Published):
            output = replace(output, thumbnail_url=small.url)
        if isinstance(file, StorageFailed):
            return replace(output, upload_error=_operators(file) if operator else file.message)
        if file is None:
            return output
        end = None if file.expires_s is None else self._clock.now() + timedelta(seconds=file.expires_s)
        return replace(output, url=file.url, url_expires_at=end)

    async def _publish(self, going: "_Going", file: NamedFile | None) -> _Done:
        if file is None:
            return None
        publish = partial(
            going.store.publish,
            file.path,
            key=going.folder + file.name,
            mime_type=file.mime_type,
            expires_s=self._expires_s,
        )
        async with going.seats:
            if going.dead is not None:
                return going.dead
            try:
                return await self._patiently(publish)
            except StorageFailed as error:
                _log(error, operator=going.operator)
                going.dead = error if error.retryable else None
                return error

    async def _patiently(self, act: Callable[[], Awaitable[T]]) -> T:
        async for attempt in self._patience.tries():
            with attempt:
                return await act()
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


def _is_operators(target: Target) -> bool:
    """Whether it is the operator's own storage; a web server that a caller names is not."""
    return target.kind is not StoreKind.HTTP if isinstance(target, StoreTarget) else target.operator


def _operators(error: StorageFailed) -> str:
    """What a caller is told of the operator's own store: neither its host, nor its rules and names, which it writes
    into its refusals. Those are in the log."""
    what = error.message.partition(":")[0]
    return f"{what}: {error.details['reason']}: the worker's own storage did not take the file"


def _log(error: StorageFailed, *, operator: bool) -> None:
    facts = {name: error.details.get(name) for name in ("reason", "bucket_name", "host")}
    cause = {"cause": error.message} if operator else {}
    log.warning("upload failed", extra={"event": "upload.failed", **facts, **cause})
