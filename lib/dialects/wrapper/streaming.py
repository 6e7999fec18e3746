"""A job's events as a stream: what is sent when, from where a reader resumes, and how it ends."""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import aclosing

from aiohttp import web

from lib.clock import Clock
from lib.dialects.wrapper.events import FINAL_ID, RESUME_HEADER, Events
from lib.dialects.wrapper.headers import PREVIEWS_PARAMETER
from lib.dialects.wrapper.queues import QueueSizes
from lib.dialects.wrapper.render import links
from lib.dialects.wrapper.results import is_big
from lib.dialects.wrapper.translate import is_true
from lib.errors import ServiceError
from lib.jobs.model import Job, JobView
from lib.jobs.service import JobService
from lib.serving.sse import EventStream, EventStreams

GOING = "The worker is shutting down; ask again for the rest"


class Streaming:
    """Answers with the events of one job. Leaving never cancels the job, as upstream."""

    def __init__(self, *, jobs: JobService, streams: EventStreams, sizes: QueueSizes, clock: Clock) -> None:
        self._jobs = jobs
        self._streams = streams
        self._sizes = sizes
        self._clock = clock
        self._newest: tuple[JobView | None, float, bytes] = (None, 0.0, b"")
        """The last view that was encoded, the percentage that it showed, its event."""

    async def answer(
        self,
        request: web.Request,
        job: Job,
        *,
        include_response: bool,
        base_url: str,
        job_token: str | None,
        headers: Mapping[str, str],
    ) -> web.StreamResponse:
        """Send events until the job's end. Who comes back after the last one is told to stay away (204)."""
        seen = request.headers.get(RESUME_HEADER, "")
        if seen == FINAL_ID and job.status.terminal:
            return web.Response(status=204)
        urls = links(job, base_url=base_url, job_token=job_token)
        events = Events(job, first_links=urls, sizes=self._sizes, clock=self._clock)
        stream = self._streams.open(request, farewell=events.trouble(GOING))
        stream.response.headers.update(headers)
        job_id = job.job_id
        del job, urls  # what waits here keeps ids only
        async with stream:
            if not seen:
                await stream.send(events.first())
            try:
                ended = await self._follow(
                    stream, events, job_id, seen=seen, previews=is_true(request.query.get(PREVIEWS_PARAMETER))
                )
                last = events.trouble(GOING) if ended is None else await self._final(events, ended, include_response)
            except ServiceError as error:
                last = events.trouble(error.message)
            await stream.last(last)
        return stream.response

    async def _follow(
        self, stream: EventStream, events: Events, job_id: str, *, seen: str, previews: bool
    ) -> Job | None:
        """Send progress; return the job once it is over, ``None`` if it is left to the worker's next life."""
        reader = _Reader(stream, events, self._encoded)
        async with aclosing(self._jobs.watch(job_id, previews=previews, reader=reader)) as views:
            async for view in views:
                if view.job.status.terminal:
                    return view.job
                if str(view.version) != seen:
                    await stream.send(self._encoded(events, view))
        return None

    def _encoded(self, events: Events, view: JobView) -> bytes:
        """Who watches the same job gets the same bytes: a thousand readers cost one encoding."""
        known, percent, event = self._newest
        if view is known and events.shares(view, percent):
            return event
        event = events.progress(view)
        if view.preview is None:
            self._newest = (view, events.percent, event)
        return event

    async def _final(self, events: Events, job: Job, include_response: bool) -> bytes:
        job = await self._jobs.whole(job)
        if is_big(job):
            return await asyncio.to_thread(events.final, job, include_response=include_response)
        return events.final(job, include_response=include_response)


class _Reader:
    """Writes what happens to the job as it happens. Implements ``lib.jobs.mailboxes.Reader``."""

    __slots__ = ("_encoded", "_events", "_stream")

    def __init__(self, stream: EventStream, events: Events, encoded: Callable[[Events, JobView], bytes]) -> None:
        self._stream = stream
        self._events = events
        self._encoded = encoded

    def take(self, view: JobView) -> bool:
        return self._stream.offer(lambda: self._encoded(self._events, view))

    async def turn(self) -> None:
        await self._stream.turn()
