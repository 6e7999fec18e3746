"""What each watcher of a job has not seen yet, and how news come to thousands of them without holding up the rest."""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Protocol

from lib.jobs.model import JobView, Preview

BATCH = 100
"""Readers that are handed news in one turn of the event loop."""


class Reader(Protocol):
    """Who takes views as they come, without a task being woken for each."""

    def take(self, view: JobView) -> bool:
        """Take a view at once; false when that can't be done now: it is told again, and ``turn`` asked first."""
        ...

    async def turn(self) -> None:
        """Return when there may be a view again."""
        ...


class Handing:
    """Hands news to readers, batch by batch: many of them watch one job, and all have news at the same moment."""

    def __init__(self) -> None:
        self._line: deque[Mailbox] = deque()
        self._turn_due = False

    def add(self, mailbox: "Mailbox") -> None:
        """There is news for this one."""
        self._line.append(mailbox)
        if not self._turn_due:
            self._turn_due = True
            asyncio.get_running_loop().call_soon(self._turn)

    def _turn(self) -> None:
        try:
            for _ in range(min(BATCH, len(self._line))):
                self._line.popleft().hand_over()
        finally:
            self._turn_due = bool(self._line)
            if self._turn_due:
                asyncio.get_running_loop().call_soon(self._turn)


class Mailbox:
    """What one watcher has not seen yet: that there is news, and the newest preview where previews were asked for.

    It holds no views: whoever looks takes the newest one. So a slow reader costs nothing and misses nothing that
    still matters. A ``reader`` is handed what ``newest`` returns, while it waits; ``None`` there is not for it."""

    __slots__ = ("_handing", "_in_line", "_newest", "_reader", "_wake", "preview", "previews", "unread")

    def __init__(
        self, *, previews: bool, handing: Handing, newest: Callable[[], JobView | None], reader: Reader | None = None
    ) -> None:
        self.previews = previews
        self.preview: Preview | None = None
        self.unread = True
        self._handing = handing
        self._newest = newest
        self._reader = reader
        self._in_line = False
        self._wake: asyncio.Future[None] | None = None

    def tell(self) -> None:
        """There is something new to see."""
        self.unread = True
        if self._reader is None or self.preview is not None:
            self._wake_up()
        elif self._wake is not None and not self._in_line:
            self._in_line = True
            self._handing.add(self)

    def hand_over(self) -> None:
        """Have the reader take the news, or wake its watcher for that."""
        self._in_line = False
        if self._reader is None or self._wake is None or self._wake.done() or not self.unread:
            return
        view = None if self.preview is not None else self._newest()
        if view is not None and self._reader.take(view):
            self.unread = False
        else:
            self._wake_up()

    async def news(self) -> None:
        """Return when there is something that was not seen yet, and a reader is ready for it."""
        if not self.unread:
            self._wake = asyncio.get_running_loop().create_future()
            try:
                await self._wake
            finally:
                self._wake = None
        if self._reader is not None:
            await self._reader.turn()
        self.unread = False

    def _wake_up(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)
