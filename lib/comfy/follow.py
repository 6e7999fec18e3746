"""Following a posted prompt to its end: events first, look-ups where the socket is quiet, and what cuts it short."""

import asyncio
import logging
from dataclasses import dataclass

from lib.comfy import removal
from lib.comfy.client import ComfyClient
from lib.comfy.forget import Forgetter
from lib.comfy.link import Link
from lib.comfy.removal import Removal
from lib.comfy.session import PromptSession
from lib.errors import EngineUnreachable, JobTimeout
from lib.jobs.ports import Withdrawn
from lib.lifecycle import Tasks
from lib.settings import EngineSettings

log = logging.getLogger(__name__)

_LOOK_ANYWAY = 5
"""A prompt is looked up at least every so many poll intervals, however busy the socket is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """On what terms a prompt is followed: ``withdraw`` asks for it back while it waits, ``timeout_s`` bounds its
    execution."""

    withdraw: asyncio.Event
    timeout_s: float | None


class Follower:
    """Follows prompts of one ComfyUI."""

    def __init__(
        self, client: ComfyClient, link: Link, *, settings: EngineSettings, tasks: Tasks, forgetter: Forgetter
    ) -> None:
        self._client = client
        self._link = link
        self._settings = settings
        self._tasks = tasks
        self._forgetter = forgetter

    async def follow(self, session: PromptSession, terms: Terms) -> None:
        """Return when the prompt is over, whatever way.

        Raises: Withdrawn, JobTimeout."""
        if session.over:
            return
        watcher = self._tasks.spawn(terms.withdraw.wait(), name="comfy.withdraw")
        watcher.add_done_callback(lambda _: session.wake())
        try:
            while not session.over:
                await session.news(self._patience(session, terms))
                if not session.over:
                    await self._tend(session, terms)
        finally:
            watcher.cancel()

    async def _tend(self, session: PromptSession, terms: Terms) -> None:
        """Do what is due for a prompt that is not over."""
        try:
            if terms.timeout_s is not None and session.started and _now() >= session.begun_at + terms.timeout_s:
                await self._expire(session, terms.timeout_s)
            elif terms.withdraw.is_set() and not session.started:
                if await removal.withdraw(self._client, session):
                    raise Withdrawn
            elif self._suspicious(session) and not await self.look(session):
                session.lose("the prompt is in neither its queue nor its history")
            self._link.answered()
        except EngineUnreachable as error:
            self._link.failed(error)

    def _suspicious(self, session: PromptSession) -> bool:
        return session.suspect or _now() >= self._look_due(session)

    def _look_due(self, session: PromptSession) -> float:
        """A quiet socket is not trusted for long, a busy one longer."""
        poll_s = self._settings.history_poll_s
        quiet = max(session.looked_at, 0.0 if session.orphaned else self._link.heard_at) + poll_s
        return min(quiet, session.looked_at + _LOOK_ANYWAY * poll_s)

    def _patience(self, session: PromptSession, terms: Terms) -> float:
        if session.suspect:
            return 0.0
        due = self._look_due(session)
        if terms.timeout_s is not None and session.started:
            due = min(due, session.begun_at + terms.timeout_s)
        return max(0.0, due - _now())

    async def look(self, session: PromptSession) -> bool:
        """Look a prompt up in history, queue, history (it may move between two calls); false = ComfyUI has it not.

        Raises: EngineUnreachable."""
        session.suspect, session.looked_at = False, _now()
        entry = await self._client.history(session.prompt_id)
        if entry is None:
            queue = await self._client.queue()
            if session.prompt_id in queue.running:
                session.begin()
                return True
            if session.prompt_id in queue.pending:
                await self._watch_executor(session, idle=not queue.running)
                return True
            entry = await self._client.history(session.prompt_id)
        if entry is None:
            return session.over
        session.conclude(entry)
        return True

    async def _watch_executor(self, session: PromptSession, *, idle: bool) -> None:
        """Prompts that wait while nothing runs: ComfyUI's only worker thread is dead, HTTP notwithstanding."""
        if not idle:
            session.stalled_since = None
        elif session.stalled_since is None:
            session.stalled_since = _now()
        elif _now() - session.stalled_since >= self._settings.stall_timeout_s:
            session.stalled_since = None  # where no restart is possible, the next complaint takes as long
            await self._link.restart("its executor is dead: prompts wait and nothing runs")

    async def _expire(self, session: PromptSession, timeout_s: float) -> None:
        await self.remove(session)
        if not session.story.succeeded:
            raise JobTimeout(
                f"the job ran longer than {timeout_s:g} s and was stopped", details={"timeout_s": timeout_s}
            )

    async def remove(self, session: PromptSession) -> None:
        """Get the prompt out of ComfyUI within the time allowed; further cancellations do not stop this."""
        until = _now() + self._settings.interrupt_timeout_s
        while True:
            try:
                outcome = await removal.remove(self._client, session, until=until)
                if outcome is Removal.STUCK:
                    reason = f"a node ignored the interrupt for {self._settings.interrupt_timeout_s:g} s"
                    await self._link.restart(reason, prompt_id=session.prompt_id)
                break
            except asyncio.CancelledError:
                log.debug("cancelled again while a prompt is removed", extra={"event": "engine.removal"})
            except EngineUnreachable as error:
                self._link.strays.add(session.prompt_id)
                self._link.failed(error)
                break
        self._forgetter.add(session.prompt_id)


def _now() -> float:
    return asyncio.get_running_loop().time()
