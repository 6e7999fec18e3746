"""The connection to one ComfyUI: one socket, what it can run, whether it is fit for work, and the prompts with it.

Messages are routed to their prompts; when ComfyUI ends, its prompts learn it at once. Posting and collecting are
``engine``'s; when it is restarted for its health, ``care``'s and ``follow``'s.
"""

import asyncio
import logging
import math
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import aiohttp

from lib.clock import Clock
from lib.comfy.care_log import CareLog
from lib.comfy.catalog import Catalog, read_catalog
from lib.comfy.client import ComfyClient, ConnectionRefused
from lib.comfy.faults import scrub
from lib.comfy.liveness import facts_of
from lib.comfy.messages import HELLO, QueueChanged, kind_of, parse_picture, parse_text
from lib.comfy.ports import CareAction, Server
from lib.comfy.session import PromptSession
from lib.comfy.tap import Tap, pass_on
from lib.errors import EngineDied, EngineUnreachable
from lib.settings import EngineSettings

log = logging.getLogger(__name__)

HEARTBEAT_S = 20.0
_LEAST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 5.0
"""Between two attempts to open the socket again, from the second on."""
_CAUSE_WAIT_S = 0.5
"""The socket breaks a moment before the end of the process is seen, with its exit code."""
_LOG_LINES = 50


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Fault:
    """ComfyUI answers and must not be given work. ``prompt_id`` is what it is stuck on, if that is all; ``draining``:
    nothing is wrong with what it has; ``planned``: nothing is wrong at all, it is renewed between jobs."""

    reason: str
    prompt_id: str | None = None
    draining: bool = False
    planned: bool = False


class Link:
    """Owns the socket. ``run`` is a vital loop; the rest may be called from the event loop at any time."""

    def __init__(
        self,
        *,
        server: Server,
        client: ComfyClient,
        settings: EngineSettings,
        clock: Clock,
        care_log: CareLog,
        tap: Tap | None = None,
    ) -> None:
        self.server = server
        self.client = client
        self.client_id = ""
        self.catalog = Catalog()
        self.facts: Mapping[str, object] = {}
        self.sessions: dict[str, PromptSession] = {}
        self.strays: set[str] = set()
        """Prompts of this life that may have been posted although nobody follows them; removed at the next
        connection. Those of an earlier life are ``strays.remove_strays``'s."""
        self.heard_at = 0.0
        """Event loop's time of the last sign of the executor: any message but the queue's length."""
        self.empty = asyncio.Event()
        """Set while ComfyUI's queue was last told to be empty, of whomever."""
        self.freed_at = -math.inf
        """Event loop's time when ComfyUI was last asked to unload its models: its executor is busy with that."""
        self._settings = settings
        self._clock = clock
        self._care_log = care_log
        self._tap = tap
        self._ready = asyncio.Event()
        self._ended = asyncio.Event()
        self._why = "not connected yet"
        self._fault: Fault | None = None
        self._failures = 0
        self._unanswered = 0
        self._fit = asyncio.Event()
        """Set while healthy, as it was last told."""
        self._told = (False, False)
        self._scope: asyncio.Timeout | None = None
        self._listeners: list[Callable[[bool], None]] = []
        server.on_down(self._server_ended)

    @property
    def healthy(self) -> bool:
        return self._ready.is_set() and self._fault is None and self.server.down_reason is None

    @property
    def down_reason(self) -> str | None:
        """Why no prompt may be posted now; ``None`` when one may."""
        if self.healthy:
            return None
        return self._fault.reason if self._fault else self.server.down_reason or self._why

    @property
    def draining(self) -> bool:
        """Whether prompts that only wait are to be given back."""
        return self._fault is not None and self._fault.draining

    @property
    def recycling(self) -> bool:
        """Whether it is out of service on purpose, with nothing wrong, and will be back."""
        return self._fault is not None and self._fault.planned

    def on_health(self, listener: Callable[[bool], None]) -> None:
        """Have ``listener(healthy)`` called at each change of this and of ``recycling``."""
        self._listeners.append(listener)

    async def wait_ready(self) -> None:
        """Return when a prompt may be posted."""
        await self._fit.wait()

    async def run(self) -> None:
        """Connect, listen, connect again; for ever."""
        pause = first = self._settings.reconnect_delay_s
        while True:
            await self._answering()
            why = await self._connected()
            if self._ready.is_set():
                pause = first
            self._set_ready(False, why)
            log.warning("ComfyUI's socket closed", extra={"event": "engine.disconnected", "cause": why})
            await self._explain_drop()
            await self._clock.sleep(pause)
            pause = min(max(pause * 2, _LEAST_PAUSE_S), max(first, _LONGEST_PAUSE_S))

    async def _answering(self) -> None:
        """Wait until ComfyUI answers. One that has worked, and now runs on without an answer, is restarted."""
        patience_s = self._settings.request_timeout_s * self._settings.failure_threshold
        while True:
            try:
                async with asyncio.timeout(patience_s if self.client_id and self.server.restartable else None):
                    return await self.server.wait_answering()
            except TimeoutError:
                await self._restart_if_hung()

    async def _restart_if_hung(self) -> None:
        """A connection that is refused means that it is down: who owns it sees that without us."""
        try:
            await self.client.remaining()
        except ConnectionRefused:
            return
        except EngineUnreachable as error:
            await self.restart(f"it runs and does not answer: {error.message}", action=CareAction.RESTARTED_STUCK)

    async def _connected(self) -> str:
        """Connect and listen; return why that is over."""
        before = self.client_id
        try:
            await self._listen()
            return "the connection to ComfyUI was lost"
        except (EngineUnreachable, ValueError) as error:
            why = str(error)
        except TimeoutError:
            why = "ComfyUI does not answer"
        if self.client_id == before:
            self._unanswered += 1
            if self._unanswered >= self._settings.failure_threshold and self.server.restartable:
                self._unanswered = 0
                await self._restart_if_hung()
        return why

    async def restart(self, reason: str, *, action: CareAction, prompt_id: str | None = None) -> bool:
        """Take the engine out of service and have ComfyUI restarted; false = that can't be done.

        Every prompt with it is lost then. Where it can't be, the engine stays out of service until ComfyUI gives up
        the prompt it is stuck on, or is restarted by somebody else.
        """
        planned = action is CareAction.RECYCLED
        fault = self._fault = Fault(reason=reason, prompt_id=prompt_id, planned=planned)
        self._tell()
        doomed, scope = tuple(self.sessions.values()), self._scope
        try:
            begun = await self.server.restart(reason, planned=planned)
        except EngineUnreachable as error:
            facts = {"event": "engine.stuck", "reason": reason, "cause": error.message}
            log.error("ComfyUI needs a restart and can't be restarted", extra=facts)
            if planned:
                self.resume(fault)
            return False
        if begun:
            self._care_log.tell(action, reason)
        for session in doomed:
            session.lose(reason)
        if self._scope is scope:  # a connection that was made meanwhile is to the new process
            self._drop()
        return True

    async def free(self, cause: str) -> None:
        """Have ComfyUI unload its models and drop its caches as soon as nothing runs."""
        try:
            await self.client.free()
        except EngineUnreachable as error:
            self.failed(error)
            return
        self.freed_at = asyncio.get_running_loop().time()
        self._care_log.tell(CareAction.FREED, cause)

    def drain(self, reason: str) -> Fault:
        """Take no new prompts and give back those that wait; what runs goes on. Ends with ``resume``, or with the
        next connection."""
        fault = self._fault = Fault(reason=reason, draining=True, planned=True)
        self._tell()
        for session in self.sessions.values():
            session.wake()
        return fault

    def holds(self, fault: Fault) -> bool:
        """Whether that is still why no prompts are taken."""
        return self._fault is fault

    def resume(self, fault: Fault) -> None:
        """Take prompts again, unless there is another reason not to by now."""
        if self._fault is fault:
            self._fault = None
            self._tell()

    def lose_all(self, reason: str) -> None:
        for session in tuple(self.sessions.values()):
            session.lose(reason)

    def answered(self) -> None:
        """A call got through."""
        self._failures = 0

    def failed(self, error: EngineUnreachable) -> None:
        """A call got no answer; so many in a row and ComfyUI counts as dead although its socket is open."""
        self._failures += 1
        if self._failures >= self._settings.failure_threshold:
            self._set_ready(False, error.message)
            self.strays.update(self.sessions)  # it may be silent only, and still work on them
            self.lose_all(error.message)
            self._drop()

    def _drop(self) -> None:
        """Leave the socket; ``run`` makes a new one as soon as ComfyUI answers."""
        if self._scope is not None:
            self._scope.reschedule(asyncio.get_running_loop().time())

    def died(self, session: PromptSession) -> EngineDied:
        """Make the error of a lost prompt."""
        lines = [scrub(line) for line in self.server.log_tail(_LOG_LINES)]
        return EngineDied(
            f"ComfyUI lost the job: {session.lost}",
            started=session.started,
            details={"log_tail": lines} if lines else {},
        )

    async def _listen(self) -> None:
        client_id = str(uuid.uuid4())
        socket = await self.client.socket(client_id, heartbeat_s=HEARTBEAT_S)
        try:
            async with asyncio.timeout(self._settings.request_timeout_s):
                await self._greet(socket)
                await self._learn()
            await self._sweep()
            self.client_id, self._fault, self._failures, self._unanswered = client_id, None, 0, 0
            self._ended.clear()
            self.heard_at = asyncio.get_running_loop().time()
            self._set_ready(True)
            for session in self.sessions.values():
                session.doubt()
            async with asyncio.timeout(None) as self._scope:
                await self._read(socket)
        finally:
            self._scope = None
            self.client.hang_up()
            await socket.close()

    async def _greet(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        """The first ``status`` proves that the server knows our id."""
        await socket.send_str(HELLO)
        async for frame in socket:
            if frame.type is aiohttp.WSMsgType.TEXT and isinstance(told := parse_text(frame.data), QueueChanged):
                self._queue_changed(told.remaining)
                return
        raise EngineUnreachable("ComfyUI closed the socket at once")

    async def relearn(self) -> None:
        """Read anew what ComfyUI can run: its models are other ones now. Raises: EngineUnreachable, ValueError."""
        self.catalog = await asyncio.to_thread(read_catalog, await self.client.object_info())

    async def _learn(self) -> None:
        await self.relearn()
        self.facts = facts_of(await self.client.system_stats())

    async def _sweep(self) -> None:
        for prompt_id in tuple(self.strays):
            await self.client.delete(prompt_id)
            await self.client.interrupt(prompt_id)
            self.strays.discard(prompt_id)

    async def _read(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        time, traced = asyncio.get_running_loop().time, self._settings.socket_trace
        while True:
            frame = await socket.receive()
            if traced:
                log.debug("socket message", extra={"event": "engine.message", "type": kind_of(frame.data)})
            if frame.type is aiohttp.WSMsgType.TEXT:
                message = parse_text(frame.data)
                if self._tap is not None:
                    pass_on(self._tap, frame.data, self._named)
            elif frame.type is aiohttp.WSMsgType.BINARY:
                message = parse_picture(frame.data)
            else:
                return
            if isinstance(message, QueueChanged):
                self._queue_changed(message.remaining)
                continue
            self.heard_at = time()
            if message is not None and (session := self.sessions.get(message.prompt_id)) is not None:
                session.heard_at = self.heard_at
                session.apply(message)

    def _named(self, prompt_id: str) -> str | None:
        session = self.sessions.get(prompt_id)
        return session.request_id if session is not None else None

    def _queue_changed(self, remaining: int) -> None:
        """Prompts of an earlier socket get no messages of their own: this may be their end."""
        if remaining:
            self.empty.clear()
        else:
            self.empty.set()
        for session in self.sessions.values():
            if session.orphaned:
                session.doubt()
        if self._fault is not None and self._fault.prompt_id is not None and remaining == 0:
            self.resume(self._fault)  # ComfyUI got over what it was stuck on

    async def _explain_drop(self) -> None:
        for session in self.sessions.values():
            session.orphaned = True
        if not self.sessions:
            return
        try:
            await self.client.remaining()
        except ConnectionRefused as error:
            self.lose_all(await self.explain(error.message))
        except EngineUnreachable as error:
            self._failures = max(self._failures, 1)
            log.warning("ComfyUI does not answer", extra={"event": "engine.silent", "cause": error.message})

    async def explain(self, fallback: str) -> str:
        """Return why ComfyUI is gone, as soon as that is known."""
        if self.server.down_reason is None:
            try:
                async with asyncio.timeout(_CAUSE_WAIT_S):
                    await self._ended.wait()
            except TimeoutError:
                pass
        return self.server.down_reason or fallback

    def _server_ended(self, reason: str, action: CareAction | None) -> None:
        self._ended.set()
        if action is not None and self.recycling:  # by itself, at its start: that was not planned
            self._fault = None
        self._set_ready(False, reason)
        self.lose_all(reason)
        if action is not None:
            self._care_log.tell(action, reason)

    def _set_ready(self, ready: bool, why: str = "") -> None:
        if ready:
            self._ready.set()
        else:
            self._ready.clear()
            self._why = why
        self._tell()

    def _tell(self) -> None:
        healthy = self.healthy
        if self._told == (healthy, self.recycling):
            return
        self._told = (healthy, self.recycling)
        if healthy:
            self._fit.set()
        else:
            self._fit.clear()
        log.info("engine health", extra={"event": "engine.health", "healthy": healthy, "cause": self.down_reason})
        for listener in tuple(self._listeners):
            listener(healthy)
