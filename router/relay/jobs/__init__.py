"""Jobs that outlive their connections: accepted here, recorded first, done by workers, never lost.

A job is recorded before it is answered with 202. A router that holds its lease waits for a worker, submits it there and
follows it; every other router can take it over from there, as worker and name are in the record. ``doing`` is one job's
way, ``runner`` which jobs are held, ``accepting`` how they come in; ``wrapper`` and ``runpod`` are routes.
"""

from collections.abc import Mapping
from contextlib import AsyncExitStack
from typing import Any

from lib.lifecycle import every
from lib.storage.guard import AddressGuard
from lib.storage.http import GuardedHttp
from router.changes import Change, ChangeKind
from router.parts import Ground
from router.ports import News, NewsKind, RelayJob
from router.relay.jobs.accepting import Accepting
from router.relay.jobs.counts import Counts
from router.relay.jobs.doing import Doing, Limits
from router.relay.jobs.endings import Endings
from router.relay.jobs.live import Live
from router.relay.jobs.notices import Notices
from router.relay.jobs.releases import Releases
from router.relay.jobs.rendering import render_error
from router.relay.jobs.runner import Runner
from router.relay.jobs.runpod import RunPodJobs
from router.relay.jobs.shelf import Shelf
from router.relay.jobs.wrapper import WrapperJobs
from router.relay.ports import JobsHalf, Sizing, Upstream

EXPIRE_S = 300.0
NOTICES_S = 30.0


class Telling:
    """News of jobs, ours and other routers'."""

    def __init__(
        self, ground: Ground, *, endings: Endings, counts: Counts, notices: Notices, releases: Releases
    ) -> None:
        self._ground = ground
        self._releases = releases
        self._endings = endings
        self._counts = counts
        self._notices = notices
        self.runner: Runner | None = None

    def announce(self, job: RelayJob) -> None:
        """There is a job to do."""
        if self.runner is not None:
            self.runner.wake()
        self._spread(job)

    def begun(self, job: RelayJob) -> None:
        """A worker has a job."""
        self._endings.tell(job.job_id)
        self._spread(job)

    def ended(self, job: RelayJob) -> None:
        """A job came to its end here."""
        self._counts.ended(job)
        self._notices.add(job)
        self._endings.tell(job.job_id)
        self._spread(job)

    async def changed(self, job: RelayJob) -> None:
        """Its owner cancelled it, or began it anew."""
        self._hear_of(job.job_id, job.cancel_wanted)
        await self._tell(job)

    def hear(self, news: News) -> None:
        """For ``Newsroom.listen``."""
        if news.origin != self._ground.replica:
            self._hear_of(str(news.body.get("job_id", "")), news.body.get("cancel") is True)

    def trouble(self, trouble: str | None) -> None:
        """For ``StoreLink.listen``: what was told while the store was away was not heard."""
        if trouble is None:
            self._ground.tasks.spawn(self._releases.repeat(), name="relay: releases")
            self._endings.tell_all()
            if self.runner is not None:
                self.runner.wake()

    def change(self, change: Change) -> None:
        """For ``Changes.listen``: a worker that comes may make room for more."""
        if change.kind is ChangeKind.ENDPOINTS and self.runner is not None:
            self.runner.wake()

    def _hear_of(self, job_id: str, cancel: bool) -> None:
        self._endings.tell(job_id)
        if self.runner is not None:
            self.runner.wake()
            if cancel:
                self.runner.cancel(job_id)

    def _spread(self, job: RelayJob) -> None:
        self._ground.tasks.spawn(self._tell(job), name=f"news of {job.job_id}")

    async def _tell(self, job: RelayJob) -> None:
        body = {"job_id": job.job_id, "state": job.state, "cancel": job.cancel_wanted}
        news = News(kind=NewsKind.JOB, origin=self._ground.replica, body=body)
        await self._ground.core.link.attempt(lambda state: state.tell(news), otherwise=None)


async def build_jobs(ground: Ground, stack: AsyncExitStack, *, upstream: Upstream, sizing: Sizing) -> JobsHalf:
    """Build the half of the relay that keeps jobs."""
    settings, dispatcher, clock, jobs = ground.settings, ground.dispatcher, ground.clock, ground.jobs
    http = await stack.enter_async_context(GuardedHttp(AddressGuard(allow=settings.webhook_allow_hosts)))
    endings, counts = Endings(jobs.get, clock=clock), Counts(jobs, dispatcher=dispatcher)
    notices = Notices(jobs, http=http, tasks=ground.tasks, clock=clock)
    releases = Releases(dispatcher, link=ground.core.link, replica=ground.replica)
    telling = Telling(ground, endings=endings, counts=counts, notices=notices, releases=releases)
    doing = Doing(
        dispatcher=dispatcher,
        upstream=upstream,
        releases=releases,
        new_number=ground.core.direct.new_number,
        begun=telling.begun,
        clock=clock,
        limits=Limits(
            max_result_bytes=settings.max_result_bytes, patience_s=settings.patience_s, counted_s=settings.lease_s
        ),
    )
    runner = telling.runner = Runner(
        jobs=jobs,
        doing=doing,
        tasks=ground.tasks,
        clock=clock,
        holder=ground.replica,
        lease_s=settings.lease_s,
        places=lambda endpoint: sum(worker.view.slots for worker in dispatcher.workers(endpoint)),
        count=dispatcher.keep,
        ended=telling.ended,
    )
    accepting = Accepting(jobs, dispatcher=dispatcher, clock=clock, announce=telling.announce)
    shelf = Shelf(
        jobs, endpoints=ground.endpoints, endings=endings, clock=clock, told=telling.changed, notice=notices.add
    )
    live = Live(dispatcher, upstream=upstream)
    wrapper = WrapperJobs(
        endpoints=ground.endpoints,
        accepting=accepting,
        shelf=shelf,
        jobs=jobs,
        live=live,
        sizing=sizing,
        counts=counts,
        max_body_bytes=settings.max_body_bytes,
        public_url=settings.public_url,
    )
    runpod = RunPodJobs(
        endpoints=ground.endpoints,
        accepting=accepting,
        shelf=shelf,
        jobs=jobs,
        live=live,
        sizing=sizing,
        counts=counts,
        tasks=ground.tasks,
        max_body_bytes=settings.max_body_bytes,
    )
    ground.core.newsroom.listen(telling.hear)
    ground.core.link.listen(telling.trouble)
    stack.callback(dispatcher.changes.listen(telling.change))

    def health() -> Mapping[str, Any]:
        return {"held_jobs": len(runner), "ended_jobs": counts.totals()}

    async def expire() -> int:
        return await jobs.expire(older_than=clock.now().timestamp() - settings.result_ttl_s)

    return JobsHalf(
        keep=wrapper.keep,
        routes=[*wrapper.routes(), *runpod.routes()],
        render_error=render_error,
        loops={
            "jobs": runner.run(),
            "leases": runner.keep(),
            "expiry": every(EXPIRE_S, expire, name="relay: expiry", clock=clock),
            "notices": every(NOTICES_S, notices.look, name="relay: notices", clock=clock),
        },
        health=health,
        stop=runner.stop,
    )
