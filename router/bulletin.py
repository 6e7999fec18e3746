"""What this replica tells the others, where there are any: workers, assignments, and that those are over."""

from collections.abc import Callable, Mapping
from typing import Any

from lib.lifecycle import Tasks
from router.model import Assignment
from router.ports import News, NewsKind
from router.registry import Epoch
from router.replication import to_wall
from router.storelink import StoreLink

UNBOUNDED = 1_000_000
"""As ``slots``: whatever is reserved there already."""


class Bulletin:
    """Writes to the store that replicas share; without others it does nothing."""

    def __init__(self, link: StoreLink, *, shared: bool, replica: str, epoch: Epoch, tasks: Tasks) -> None:
        self._link = link
        self._shared = shared
        self._replica = replica
        self._epoch = epoch
        self._tasks = tasks

    @property
    def decides(self) -> bool:
        """Whether an assignment has to be granted by the store now."""
        return self._shared and self._link.usable

    async def reserve(self, assignment: Assignment, *, slots: int = UNBOUNDED, ttl_s: float) -> bool:
        """Have an assignment granted, or renewed; a store that is down grants everything."""
        wall = to_wall(assignment, self._epoch)
        return await self._link.attempt(lambda state: state.reserve(wall, slots=slots, ttl_s=ttl_s), otherwise=True)

    def renew(self, assignment: Assignment, *, ttl_s: float) -> None:
        """It goes on; nobody waits for that to be written."""
        if self._shared:
            self._tasks.spawn(self.reserve(assignment, ttl_s=ttl_s), name=f"renew {assignment.request_id}")

    async def over(self, request_id: str, *, run_s: float | None = None) -> None:
        """An assignment has ended; after a run of ``run_s`` seconds, which is news for the replica that gave it."""
        if self._shared:
            await self._link.attempt(lambda state: state.settle(request_id), otherwise=None)
            await self.tell(NewsKind.SETTLED, lambda: {"request_id": request_id, "run_s": run_s})

    def soon_over(self, request_id: str) -> None:
        """The same where nobody can wait for it."""
        if self._shared:
            self._tasks.spawn(self.over(request_id), name=f"settle {request_id}")

    async def tell(self, kind: NewsKind, body: Callable[[], Mapping[str, Any]]) -> None:
        """Tell the others; ``body`` is made only where there are any."""
        if self._shared:
            news = News(kind=kind, origin=self._replica, body=body())
            await self._link.attempt(lambda state: state.tell(news), otherwise=None, writes=False)
