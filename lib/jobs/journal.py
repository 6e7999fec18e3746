"""What is written of a job, and when: enough to go on with it after a crash, and what webhooks are to be told.

Our own benchmark runs leave no trace.
"""

import asyncio
import logging

from lib.errors import ServiceError
from lib.jobs.live import LiveJob
from lib.jobs.model import Job, JobEvent, OutboxItem
from lib.jobs.ports import Announcer, JobStore
from lib.jobs.requests import spent, without_content

log = logging.getLogger(__name__)

BIG_BYTES = 256 * 1024
"""Messages of jobs with more inlined data, or a larger workflow, are rendered in a thread."""


class Journal:
    """Writes to the store, with the messages of the moment; the announcer learns what is recorded."""

    def __init__(self, *, store: JobStore, announcer: Announcer) -> None:
        self._store = store
        self._announcer = announcer

    async def add(self, live: LiveJob) -> None:
        """Record an accepted job under the number of its run. Raises what the store raises."""
        await self._number(live)
        await self._store.add(live.job)

    async def add_ended(self, live: LiveJob) -> None:
        """Record a job that was over when it came, with its messages. Raises what the store raises."""
        await self._number(live)
        await self._end(live.job)

    def update(self, live: LiveJob) -> None:
        """Have the job's state written soon."""
        if not live.job.spec.internal:
            self._store.update(_slim(live.job))

    async def write(self, live: LiveJob) -> None:
        """Have the job's state written now."""
        if not live.job.spec.internal:
            await self._store.write(_slim(live.job))

    def started(self, live: LiveJob) -> None:
        """It runs now; a webhook is told of the first time."""
        if live.job.spec.internal:
            return
        items = self._messages(live.job, JobEvent.STARTED) if live.job.attempts == 1 else ()
        self._store.update(_slim(live.job), items)
        if items:
            self._announcer.stored(items)

    async def finish(self, job: Job) -> None:
        """Write the outcome with its messages in one step. A store that fails is logged: the job itself is done, and
        who waits for it is told."""
        try:
            await self._end(job)
        except ServiceError as error:
            facts = {"event": "job.unrecorded", "cause": error.message, "webhooks": len(job.spec.delivery.webhooks)}
            log.error("the outcome of a job could not be recorded", extra=facts)

    async def _end(self, job: Job) -> None:
        if job.spec.internal:
            return
        event = JobEvent(str(job.status))
        big = len(job.spec.workflow) + sum(len(output.data_base64 or "") for output in job.outputs) > BIG_BYTES
        told = big and job.spec.delivery.webhooks
        items = await asyncio.to_thread(self._messages, job, event) if told else self._messages(job, event)
        await self._store.finish(spent(job), items)
        if items:
            self._announcer.stored(items)

    async def _number(self, live: LiveJob) -> None:
        spec = live.job.spec
        run = await self._store.run_number(spec.request_id, owner=spec.owner)
        if run != live.job.run:
            live.note(run=run)

    def _messages(self, job: Job, event: JobEvent) -> tuple[OutboxItem, ...]:
        return self._announcer.messages(job, event) if job.spec.delivery.webhooks else ()


def _slim(job: Job) -> Job:
    """Without inlined files: those are on disk."""
    return job.with_(outputs=without_content(job.outputs)) if job.outputs else job
