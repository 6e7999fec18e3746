"""What becomes of jobs, told to who waits here and to other routers, and heard from those."""

from router.changes import Change, ChangeKind
from router.parts import Ground
from router.ports import News, NewsKind, RelayJob
from router.relay.jobs.counts import Counts
from router.relay.jobs.endings import Endings
from router.relay.jobs.notices import Notices
from router.relay.jobs.releases import Releases
from router.relay.jobs.runner import Runner


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
        await self._ground.core.link.attempt(lambda state: state.tell(news), otherwise=None, writes=False)
