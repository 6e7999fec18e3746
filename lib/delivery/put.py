"""Outputs to presigned PUT URLs of the caller's own, one a file, streamed from disk."""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import urlsplit

from lib.delivery.retry import Patience
from lib.errors import StorageFailed
from lib.jobs.model import Output, PutTarget
from lib.storage.http import GuardedHttp
from lib.storage.web_store import put_file

log = logging.getLogger(__name__)
PARALLEL = 4


class Puts:
    """Puts a job's files; a failing one gets ``upload_error`` and keeps everything else."""

    def __init__(self, *, http: GuardedHttp, patience: Patience | None = None) -> None:
        self._http = http
        self._patience = patience or Patience()

    async def put(self, outputs: Sequence[Output], target: PutTarget) -> tuple[Output, ...]:
        """Put every output that is a file, in order, and return all outputs with ``url`` or ``upload_error``.

        ``url`` is the URL that was put to, without its query, which is a secret.
        """
        going, urls = _Going(target=target), iter(target.urls)
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(self._one(going, output, next(urls, None))) if output.local_path else None
                for output in outputs
            ]
        return tuple(task.result() if task else output for task, output in zip(tasks, outputs, strict=True))

    async def _one(self, going: "_Going", output: Output, url: str | None) -> Output:
        if url is None:
            count = len(going.target.urls)
            return replace(output, upload_error=f"no URL is left for this file: {count} were given, one a file")
        host = urlsplit(url).hostname or ""
        async with going.seats:
            if (dead := going.dead.get(host)) is not None:
                return replace(output, upload_error=dead)
            try:
                await self._send(output, url, going.target)
            except StorageFailed as error:
                log.warning("upload failed", extra={"event": "upload.failed", **error.details})
                if error.retryable:
                    going.dead[host] = error.message
                return replace(output, upload_error=error.message)
        return replace(output, url=urlsplit(url)._replace(query="", fragment="").geturl())

    async def _send(self, output: Output, url: str, target: PutTarget) -> None:
        headers = {"Content-Type": output.mime_type} | {name.title(): value for name, value in target.headers.items()}
        async for attempt in self._patience.tries():
            with attempt:
                await put_file(
                    self._http, url, path=Path(output.local_path), headers=headers, timeout_s=target.timeout_s
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Going:
    """One job's files on their way. A host that had all patience for one of them is ``dead`` for the others: a
    thousand files for a host that hangs would hold a seat for days."""

    target: PutTarget
    seats: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(PARALLEL))
    dead: dict[str, str] = field(default_factory=dict)
