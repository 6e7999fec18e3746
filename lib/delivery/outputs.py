"""What the core calls to get outputs to the caller; see ``lib.jobs.ports.Delivery``."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime

from lib.delivery.finish import Finisher
from lib.delivery.inline import InlineCaps, inline_all, inline_thumbnails, rescue, strand, unreached
from lib.delivery.put import Puts
from lib.delivery.uploads import Uploads, output_names, thumbnails
from lib.errors import StorageFailed
from lib.jobs.copies import changed
from lib.jobs.model import DeliverySpec, Job, Output

Sign = Callable[[str, str, str], tuple[str, datetime]]
"""From job id, file name and base URL to a URL of our own and its end."""


class OutputDelivery:
    """Finishes, uploads, links and inlines as the job's spec says.

    Presigned PUT URLs win over S3, S3 over other storages; without any the caller gets URLs of our own where we know
    how it reaches us. A file whose upload failed is never lost: its entry says why, ``local_path`` stays true, it gets
    a URL of our own, and a file within the base64 limits is inlined although that was not asked for, since a remote
    caller can't read our disk. Where it has to arrive, the job fails instead. A file that is too large for base64 is
    linked all the same; where it can't be, its ``error`` says what the operator may do.
    """

    def __init__(self, *, finisher: Finisher, uploads: Uploads, puts: Puts, caps: InlineCaps, sign: Sign) -> None:
        self._finisher = finisher
        self._uploads = uploads
        self._puts = puts
        self._caps = caps
        self._sign = sign

    async def deliver(self, job: Job, outputs: tuple[Output, ...]) -> tuple[Output, ...]:
        """Return the outputs with ``url``, ``data_base64`` or the reason why not filled in.

        Raises: StorageFailed, of a job whose files must arrive.
        """
        wanted = job.spec.delivery
        outputs = await self._finisher.finish(job.job_id, wanted, outputs)
        asked = wanted.put is not None or wanted.s3 is not None or wanted.store is not None
        if asked:
            async with asyncio.TaskGroup() as group:
                sending = group.create_task(self._sent(job, outputs))
                inlining = group.create_task(self._inlined(wanted, outputs))
            outputs = _together(sending.result(), inlining.result())
            if wanted.must_arrive:
                _check_arrived(outputs)
        else:
            outputs = await self._inlined(wanted, outputs)
        if wanted.base_url is not None:
            outputs = self._linked(job.job_id, outputs, wanted.base_url)
        if not wanted.inline_base64 and any(output.upload_error for output in outputs):
            outputs = await asyncio.to_thread(rescue, outputs, self._caps)
        if (asked or wanted.inline_base64) and any(map(unreached, outputs)):
            outputs = await asyncio.to_thread(strand, outputs)
        if wanted.thumbnail is not None:
            return await asyncio.to_thread(inline_thumbnails, outputs, self._caps, all_=wanted.inline_base64)
        return outputs

    async def _sent(self, job: Job, outputs: tuple[Output, ...]) -> tuple[Output, ...]:
        wanted = job.spec.delivery
        if wanted.put is not None:
            return await self._puts.put(outputs, wanted.put)
        target = wanted.s3 or wanted.store
        return outputs if target is None else await self._uploads.upload(job, outputs, target)

    async def _inlined(self, wanted: DeliverySpec, outputs: tuple[Output, ...]) -> tuple[Output, ...]:
        """Small ones came with their content: who collected them had just looked at them."""
        if not wanted.inline_base64 or all(output.data_base64 is not None for output in outputs if output.local_path):
            return outputs
        caps = self._caps.for_large() if wanted.inline_large else self._caps
        return await asyncio.to_thread(inline_all, outputs, caps)

    def _linked(self, job_id: str, outputs: tuple[Output, ...], base_url: str) -> tuple[Output, ...]:
        """Give what has no URL one of our own."""
        done = []
        for output, name, small in zip(outputs, output_names(outputs), thumbnails(outputs), strict=True):
            if name and output.url is None:
                url, end = self._sign(job_id, name, base_url)
                output = changed(output, url=url, url_expires_at=end)
            if small is not None and output.thumbnail_url is None:
                output = replace(output, thumbnail_url=self._sign(job_id, small.name, base_url)[0])
            done.append(output)
        return tuple(done)


def _check_arrived(outputs: tuple[Output, ...]) -> None:
    """Raises: StorageFailed, for a file that is still here only."""
    failed = [output for output in outputs if output.upload_error]
    if failed:
        count = sum(bool(output.local_path) for output in outputs)
        text = f"{len(failed)} of {count} files did not arrive: {failed[0].upload_error}"
        names = [output.filename for output in failed]
        raise StorageFailed(text, details={"reason": "upload_failed", "files": names})


def _together(sent: tuple[Output, ...], inlined: tuple[Output, ...]) -> tuple[Output, ...]:
    return tuple(
        replace(one, data_base64=other.data_base64, error=other.error) for one, other in zip(sent, inlined, strict=True)
    )
