"""What the core calls to get outputs to the caller; see ``lib.jobs.ports.Delivery``."""

import asyncio

from lib.delivery.inline import InlineCaps, inline_all, rescue
from lib.delivery.uploads import Uploads
from lib.jobs.model import Job, Output


class OutputDelivery:
    """Uploads and inlines as the job's spec says.

    A file whose upload failed is never lost: its entry says why, ``local_path`` stays true, and a file within the
    base64 limits is inlined although that was not asked for, since a remote caller can't read our disk.
    """

    def __init__(self, *, uploads: Uploads, caps: InlineCaps) -> None:
        self._uploads = uploads
        self._caps = caps

    async def deliver(self, job: Job, outputs: tuple[Output, ...]) -> tuple[Output, ...]:
        """Return the outputs with ``url``, ``data_base64`` or the reason why not filled in."""
        wanted = job.spec.delivery
        if wanted.s3 is not None:
            outputs = await self._uploads.upload(job, outputs, wanted.s3)
        if wanted.inline_base64:
            if all(output.data_base64 is not None for output in outputs if output.local_path):
                return outputs  # small ones come with their content, see ``inline_small``
            return await asyncio.to_thread(inline_all, outputs, self._caps)
        if any(output.upload_error for output in outputs):
            return await asyncio.to_thread(rescue, outputs, self._caps)
        return outputs
