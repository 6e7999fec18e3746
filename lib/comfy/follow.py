"""Following a posted prompt to its end: events first, look-ups where the socket is quiet, and what cuts it short."""

import asyncio
from dataclasses import dataclass

from lib.comfy import removal
from lib.comfy.client import ComfyClient, QueueItem
from lib.comfy.faults import tell_of_dead_executor
from lib.comfy.forget import Forgetter
from lib.comfy.link import Link
from lib.comfy.ports import CareAction
from lib.comfy.removal import Removal
from lib.comfy.session import PromptSession
from lib.errors import EngineUnreachable, JobTimeout
from lib.jobs.ports import Withdrawn
from lib.lifecycle import Tasks
from lib.settings import EngineSettings

_LOOK_ANYWAY = 5
"""A prompt is looked up at least every so many poll intervals, however busy the socket is."""
_WITHDRAW_UNHEARD_S = 0.05
"""A prompt that starts sooner needs no task that listens for its withdrawal."""
_SILENCE_POLLS = 5
"""After so many poll intervals without a sign of a running prompt, ComfyUI's log is asked whether its executor died."""
_UNLOAD_S = 25.0
"""The executor may be busy so long with unloading models, while prompts wait and none runs."""


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
        watcher: asyncio.Task[bool] | None = None
        try:
            while not session.over:
                heard = session.started or watcher is not None
                patience_s = self._patience(session, terms)
                await session.news(patience_s if heard else min(patience_s, _WITHDRAW_UNHEARD_S))
                if not session.over:
                    await self._tend(session, terms)
                if watcher is None and not session.started:
                    watcher = self._tasks.spawn(terms.withdraw.wait(), name="comfy.withdraw")
                    watcher.add_done_callback(lambda _: session.wake())
        finally:
            if watcher is not None:
                watcher.cancel()

    async def _tend(self, session: PromptSession, terms: Terms) -> None:
        """Do what is due for a prompt that is not over."""
        try:
            if terms.timeout_s is not None and session.started and _now() >= session.begun_at + terms.timeout_s:
                await self._expire(session, terms.timeout_s)
            elif (terms.withdraw.is_set() or self._link.draining) and not session.started:
                if await removal.withdraw(self._client, session):
                    raise Withdrawn
            elif self._suspicious(session) and not await self.look(session):
                session.lose("the prompt is in neither its queue nor its history")
            else:
                return
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
            session.item = queue.item(session.prompt_id)
            if session.prompt_id in queue.running:
                session.begin()
                await self._watch_thread(session)
                return True
            if session.prompt_id in queue.pending:
                await self._watch_executor(session, idle=not queue.running)
                return True
            entry = await self._client.history(session.prompt_id)
        if entry is None:
            return session.over
        session.item = _item_of(entry)
        session.conclude(entry)
        return True

    async def _watch_executor(self, session: PromptSession, *, idle: bool) -> None:
        """Prompts that wait while nothing runs: ComfyUI's only worker thread is dead, HTTP notwithstanding."""
        patience_s = self._settings.stall_timeout_s
        if not idle:
            session.stalled_since = None
        elif session.stalled_since is None:
            session.stalled_since = max(_now(), self._link.freed_at + _UNLOAD_S - patience_s)
        elif _now() - session.stalled_since >= patience_s:
            await self._replace_executor(session, "its executor is dead: prompts wait and nothing runs")

    async def _watch_thread(self, session: PromptSession) -> None:
        """A prompt that runs without a sign may be on a dead thread; only ComfyUI's log knows. A thread that a
        ``SystemExit`` ended leaves no trace there unless our node pack is loaded: then the time limit has to do."""
        if _now() - session.heard_at < _SILENCE_POLLS * self._settings.history_poll_s:
            return
        session.heard_at = _now()
        try:
            dead = tell_of_dead_executor(await self._client.log_writes())
        except EngineUnreachable:  # a newer or older ComfyUI need not have that route
            return
        if dead:
            await self._replace_executor(session, "its executor died under a prompt")

    async def _replace_executor(self, session: PromptSession, reason: str) -> None:
        """Where it can't be restarted, others may take the job; should this one come to life, it has to be idle
        first."""
        action, prompt_id = CareAction.RESTARTED_EXECUTOR, session.prompt_id
        if not await self._link.restart(reason, action=action, prompt_id=prompt_id):
            self._link.strays.add(prompt_id)
            session.lose(reason)

    async def _expire(self, session: PromptSession, timeout_s: float) -> None:
        await self.remove(session)
        if not session.story.succeeded:
            raise JobTimeout(
                f"the job ran longer than {timeout_s:g} s and was stopped", details={"timeout_s": timeout_s}
            )

    async def remove(self, session: PromptSession) -> None:
        """Get the prompt out of ComfyUI within the time allowed; a cancellation meanwhile is raised afterwards."""
        if not session.exposed:
            return
        cancelled: asyncio.CancelledError | None = None
        until = _now() + self._settings.interrupt_timeout_s
        while session.exposed:
            try:
                outcome = await removal.remove(self._client, session, until=until)
                if outcome is Removal.STUCK:
                    reason = f"a node ignored the interrupt for {self._settings.interrupt_timeout_s:g} s"
                    await self._link.restart(reason, action=CareAction.RESTARTED_STUCK, prompt_id=session.prompt_id)
                session.exposed = False
            except asyncio.CancelledError as error:
                cancelled = error
            except EngineUnreachable as error:
                self._link.strays.add(session.prompt_id)
                self._link.failed(error)
                session.exposed = False
        self._forgetter.add(session.prompt_id)
        if cancelled is not None:
            raise cancelled


def _item_of(entry: dict[str, object]) -> QueueItem | None:
    prompt = entry.get("prompt")
    return prompt if isinstance(prompt, list) else None


def _now() -> float:
    return asyncio.get_running_loop().time()
