"""Gives workers free again, also where the store, which counts for all routers, did not hear of it: then once more when
it is back, since what nobody takes back would keep a place until its time is over."""

from router.cases import Ending, Outcome
from router.dispatch import Dispatcher
from router.ports import News, NewsKind, RelayJob
from router.refusals import Refusal
from router.storelink import StoreLink


class Releases:
    """Ends assignments of jobs."""

    def __init__(self, dispatcher: Dispatcher, *, link: StoreLink, replica: str) -> None:
        self._dispatcher = dispatcher
        self._link = link
        self._replica = replica
        self._unheard: dict[str, str] = {}

    async def settled(self, job: RelayJob, ending: Ending, *, run_s: float | None = None) -> None:
        """Its worker is done with it."""
        if job.number and job.worker:
            outcome = Outcome(ending=ending, worker=job.worker, run_s=run_s)
            await self._dispatcher.settle(str(job.number), outcome)
            self._note(job)

    async def refused(self, job: RelayJob, refusal: Refusal) -> None:
        """Its worker did not do it."""
        await self._dispatcher.refused(str(job.number), job.worker, refusal)
        self._note(job)

    async def repeat(self) -> None:
        """The store is back."""
        unheard, self._unheard = self._unheard, {}
        for number, worker in unheard.items():
            told = News(kind=NewsKind.SETTLED, origin=self._replica, body={"request_id": number})
            await self._link.attempt(lambda state, number=number: state.settle(number), otherwise=None)  # type: ignore[misc]
            await self._link.attempt(
                lambda state, told=told: state.tell(told),  # type: ignore[misc]
                otherwise=None,
                writes=False,
            )
            await self._dispatcher.settle(number, Outcome(ending=Ending.LOST, worker=worker))

    def _note(self, job: RelayJob) -> None:
        if self._dispatcher.degraded is not None:
            self._unheard[str(job.number)] = job.worker
