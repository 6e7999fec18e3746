"""ComfyEngine: runs jobs on one ComfyUI. Implements ``lib.jobs.ports.Engine``.

One prompt: rewrite, post or recall, follow to the end marker (history being the second witness), collect. What keeps
the connection and knows whether ComfyUI lives is ``link``.
"""

import asyncio
import re
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp

from lib.clock import Clock, SystemClock
from lib.comfy import faults, partner
from lib.comfy.care import PAUSE_S, Carer, Keeper, Meter
from lib.comfy.care_log import CareListener, CareLog
from lib.comfy.catalog import Catalog
from lib.comfy.client import ComfyClient
from lib.comfy.folders import JobFolders
from lib.comfy.follow import Follower, Terms
from lib.comfy.forget import Forgetter
from lib.comfy.harvest import Harvester, Ticket, settled, tries
from lib.comfy.link import Link
from lib.comfy.memory import Gauge
from lib.comfy.models.privacy import Hide, nothing_hidden
from lib.comfy.placing import Placer
from lib.comfy.ports import CareAction, Server
from lib.comfy.post import Poster
from lib.comfy.recall import recalled, shown
from lib.comfy.rewrite import Plan, plan
from lib.comfy.session import PromptSession, is_interrupted, when
from lib.comfy.strays import remove_strays
from lib.comfy.tap import Tap
from lib.errors import EngineDied, EngineUnreachable, ExecutionFailed, JobCancelled, OutOfMemory, ServiceError
from lib.jobs.model import Job, Workflow
from lib.jobs.ports import Collected, Execution, ExecutionObserver, Prepared
from lib.lifecycle import Tasks
from lib.settings import EngineSettings

_SOCKET_CLASSES = frozenset({"SaveImageWebsocket", "ETN_SendImageWebSocket"})
"""Their pictures go over the socket and nowhere else: when that is gone, they are."""
_SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


class ComfyEngine:
    """One ComfyUI as an engine. Construct it on the event loop; ``run`` is its vital loop."""

    def __init__(
        self,
        *,
        name: str,
        server: Server,
        http: aiohttp.ClientSession,
        settings: EngineSettings,
        tasks: Tasks,
        fetch_folder: Path,
        inline_bytes: int = 0,
        placer: Placer | None = None,
        owner: str = "",
        clock: Clock | None = None,
        meter: Meter | None = None,
        care_pause_s: float = PAUSE_S,
        tap: Tap | None = None,
        hide: Hide = nothing_hidden,
    ) -> None:
        """``fetch_folder`` takes files that ComfyUI keeps out of our reach, or sends over the socket; ``inline_bytes``
        bounds what is inlined while it is collected; ``placer`` brings a job's inputs to this ComfyUI; ``owner`` is
        this worker in all its lives; ``tap`` hears the socket; ``hide`` keeps from a caller what is not for him."""
        self._name = name
        self._server = server
        self._owner = owner
        self._settings = settings
        self._placer = placer
        self._hide = hide
        self._clock = clock or SystemClock()
        self._client = ComfyClient(server.base_url, http, timeout_s=settings.request_timeout_s)
        self._care_log = CareLog(name)
        self._link = Link(
            server=server, client=self._client, settings=settings, clock=self._clock, care_log=self._care_log, tap=tap
        )
        self._tasks = tasks
        self._folders = JobFolders()
        self._forgetter = Forgetter(self._client, tasks)
        self._follower = Follower(self._client, self._link, settings=settings, tasks=tasks, forgetter=self._forgetter)
        self._poster = Poster(self._client, self._link, self._follower, owner=owner)
        self._harvester = Harvester(self._client, server=server, fetch_folder=fetch_folder, inline_bytes=inline_bytes)
        self._posting = asyncio.Lock()
        """Prompts go out in the order of their turns, although planning takes some longer than others."""
        self._uncollected: set[str] = set()
        self._carer = self._new_carer(meter or Gauge(), pause_s=care_pause_s)

    def _new_carer(self, meter: Meter, *, pause_s: float) -> Carer:
        return Carer(
            link=self._link,
            client=self._client,
            server=self._server,
            keeper=Keeper(self._settings),
            meter=meter,
            clock=self._clock,
            tasks=self._tasks,
            uncollected=self._uncollected,
            pause_s=pause_s,
        )

    @property
    def name(self) -> str:
        return self._name

    @property
    def healthy(self) -> bool:
        return self._link.healthy

    @property
    def down_reason(self) -> str | None:
        """Why no prompt may be posted now; ``None`` when one may."""
        return self._link.down_reason

    @property
    def recycling(self) -> bool:
        """Whether it is out of service on purpose, with nothing wrong, and will be back."""
        return self._link.recycling

    @property
    def catalog(self) -> Catalog:
        """What this ComfyUI can run; empty until it was connected once."""
        return self._link.catalog

    @property
    def system_facts(self) -> Mapping[str, object]:
        """Versions, device and memory (bytes) as ComfyUI told them when it was connected; no paths."""
        return self._link.facts

    async def relearn(self) -> None:
        """Read the catalogue anew. Raises: EngineUnreachable, ValueError."""
        await self._link.relearn()

    def on_health(self, listener: Callable[[bool], None]) -> None:
        """Have ``listener(healthy)`` called, on the event loop, at each change of this and of ``recycling``."""
        self._link.on_health(listener)

    async def wait_ready(self) -> None:
        """Return when a prompt may be posted."""
        await self._link.wait_ready()

    def on_care(self, listener: CareListener) -> None:
        """Have ``listener(action)`` called, on the event loop, after each thing done for ComfyUI's health."""
        self._care_log.on_care(listener)

    async def run(self) -> None:
        """Keep the connection, for ever; what is still in ComfyUI's history goes when this is cancelled."""
        care = self._tasks.spawn(self._carer.run(), name="comfy.care")
        try:
            await self._link.run()
        finally:
            care.cancel()
            await self._forgetter.close()

    async def remove_strays(self, known: Callable[[str], bool]) -> int:
        """Remove prompts of this worker's earlier lives that are not ``known``: call it when jobs are recovered, and
        each time that this engine becomes healthy afterwards. ``known`` is asked with prompt ids.

        Raises: EngineUnreachable."""
        following = self._link.sessions
        return await remove_strays(
            self._client, owner=self._owner, known=lambda prompt_id: prompt_id in following or known(prompt_id)
        )

    async def execute(
        self,
        job: Job,
        prepared: Prepared,
        *,
        observer: ExecutionObserver,
        withdraw: asyncio.Event,
        timeout_s: float | None,
        prompt_id: str,
        attach: bool = False,
    ) -> Execution:
        """See ``lib.jobs.ports.Engine``. The time limit of a prompt that ran already counts from now."""
        if not self.healthy:
            raise self._unready()
        session = PromptSession(prompt_id=prompt_id, observer=observer, request_id=job.spec.request_id)
        failure: ExecutionFailed | None = None
        try:
            ticket = await self._begin(session, job, prepared, withdraw=withdraw, attach=attach)
            session.on_success = partial(self._harvester.look, ticket, job.spec)
            await self._follower.follow(session, Terms(withdraw=withdraw, timeout_s=timeout_s))
            failure = await self._judge(session, job)
            if failure is not None and not job.spec.keep_partial:
                self._forgetter.add(prompt_id)
                raise failure
        except asyncio.CancelledError:
            await self._follower.remove(session)
            raise
        except ServiceError as error:
            partner.hide(error, partner.key_of(job.spec, self._settings))
            self._hide(error, job.spec)
            raise
        finally:
            self._link.sessions.pop(prompt_id, None)
            ran = session.started and not job.spec.internal  # a warm-up must not ask for the next restart
            self._carer.left(ran=ran, out_of_memory=isinstance(failure, OutOfMemory))
        self._uncollected.add(prompt_id)
        return self._execution(session, ticket if failure is None else replace(ticket, failure=failure))

    async def _begin(
        self, session: PromptSession, job: Job, prepared: Prepared, *, withdraw: asyncio.Event, attach: bool
    ) -> Ticket:
        """Have the prompt with ComfyUI: there already, or posted now."""
        if attach and (planned := await self._recall(session, job)) is not None:
            return self._ticket(session, planned, shown(planned, prepared.caller_graph))
        # An id that was given away before may have left results in ComfyUI's cache: the nonce is another one then.
        nonce = str(uuid.uuid4()) if attach else session.prompt_id
        if self._placer is not None:
            await self._placer.ensure(self._server, prepared.files)
        async with self._posting:
            await self._carer.admit(session, withdraw=withdraw)
            planned = await self._plan(job, prepared, nonce=nonce, again=attach)
            if not self.healthy:
                raise self._unready()
            session.takes(planned.graph, wanted=planned.wanted)
            self._link.sessions[session.prompt_id] = session
            key = partner.key_of(job.spec, self._settings)
            keep = job.spec.keep_partial
            dropped = await self._poster.submit(session, planned, keep_partial=keep, api_key=key)
        ticket = self._ticket(session, planned, prepared.caller_graph)
        return replace(ticket, dropped=dropped) if dropped else ticket

    async def _recall(self, session: PromptSession, job: Job) -> Plan | None:
        """Take a prompt of an earlier life up again: what it tells goes to a socket that is gone."""
        session.exposed = session.orphaned = True
        self._link.strays.discard(session.prompt_id)
        if not await self._looked_up(session):
            session.exposed = session.orphaned = False
            return None
        planned = recalled(session.item, folder=_folder_of(job)) if session.item is not None else None
        if planned is None:
            await self._follower.remove(session)
            raise ExecutionFailed("ComfyUI's record of the prompt can't be read")
        self._folders.taken(planned.folder)
        session.takes(planned.graph, wanted=planned.wanted)
        self._link.sessions[session.prompt_id] = session
        session.accepted()
        if _sends_pictures(session.graph) and not session.over:
            await self._follower.remove(session)
            raise _pictures_lost(session)
        return planned

    async def _looked_up(self, session: PromptSession) -> bool:
        """Whether ComfyUI has the prompt."""
        try:
            async for attempt in tries():
                with attempt:
                    return await self._follower.look(session)
        except EngineUnreachable as error:
            self._link.failed(error)
            raise
        return False

    async def holds(self, prompt_ids: Sequence[str]) -> str | None:
        """See ``lib.jobs.ports.Engine``. An entry of an interrupted prompt is none: that was us, most likely."""
        try:
            found = await self._held(prompt_ids)
        except EngineUnreachable as error:
            self._link.failed(error)
            raise
        self._link.answered()
        return found

    async def _held(self, prompt_ids: Sequence[str]) -> str | None:
        queue = await self._client.queue()
        for prompt_id in prompt_ids:
            if prompt_id in queue:
                return prompt_id
            entry = await self._client.history(prompt_id)
            if entry is not None and not is_interrupted(entry):
                return prompt_id
        return None

    async def collect(self, job: Job, execution: Execution) -> Collected:
        """See ``lib.jobs.ports.Engine``."""
        key = partner.key_of(job.spec, self._settings)
        try:
            collected = await self._harvester.harvest(execution.token, job.spec)
        except ServiceError as error:
            self.forget(execution.prompt_id)
            partner.hide(error, key)
            raise
        finally:
            self._left(execution.prompt_id)
        return collected if key is None else _without(collected, key)

    def forget(self, prompt_id: str) -> None:
        """See ``lib.jobs.ports.Engine``."""
        self._left(prompt_id)
        self._forgetter.add(prompt_id)

    def _left(self, prompt_id: str) -> None:
        """Nothing more is wanted of a prompt that ended."""
        self._uncollected.discard(prompt_id)
        self._carer.collected()

    def _unready(self) -> EngineUnreachable:
        return EngineUnreachable(f"ComfyUI {self._name!r} takes no work: {self.down_reason}")

    async def _plan(self, job: Job, prepared: Prepared, *, nonce: str, again: bool) -> Plan:
        """``again``: an earlier life may have posted this very prompt."""
        folder, folders, again = _folder_of(job), self._server.folders, again or job.attempts > 0
        run = 1 if folder == job.job_id else job.run
        if folders is not None:
            folder = await self._folders.claim(folders.output, folder, run=run, again=again)
        elif run > 1 or again:
            folder = f"{folder}/{nonce[:8]}"
        now = self._clock.now().astimezone()
        return plan(prepared.graph, self.catalog, folder=folder, nonce=nonce, now=now)

    async def _judge(self, session: PromptSession, job: Job) -> ExecutionFailed | None:
        """Return for a success, and for the failure of a node, which is returned; raise for anything else."""
        story = session.story
        if session.ended and not story.decided:
            await self._decide(session)
        if story.succeeded:
            if session.orphaned and _sends_pictures(session.graph):
                self._forgetter.add(session.prompt_id)
                raise _pictures_lost(session)
            return None
        if not story.decided and story.entry is not None:
            self._forgetter.add(session.prompt_id)
            raise ExecutionFailed("ComfyUI's history does not tell how the prompt ended")
        if not story.decided:
            raise self._link.died(session)
        if story.failure is None:
            self._forgetter.add(session.prompt_id)
            raise JobCancelled("the prompt was interrupted in ComfyUI, not by its caller")
        error = faults.execution_error(story.failure, traceback=job.spec.tells_traceback)
        if (fault := faults.gpu_fault(story.failure)) is not None:
            self._forgetter.add(session.prompt_id)
            await self._link.restart(f"the GPU can't be used any more: {fault}", action=CareAction.RESTARTED_GPU)
            raise EngineDied(error.message, started=True, details=error.details)
        if isinstance(error, OutOfMemory):
            await self._link.free("a job ran out of memory")
        return error

    async def _decide(self, session: PromptSession) -> None:
        """The end marker came alone; the history knows which end it was."""
        try:
            session.conclude(await settled(self._client, session.prompt_id))
        except EngineUnreachable as error:
            session.lost = error.message

    def _ticket(self, session: PromptSession, planned: Plan, caller_graph: Workflow) -> Ticket:
        return Ticket(prompt_id=session.prompt_id, story=session.story, plan=planned, caller_graph=caller_graph)

    def _execution(self, session: PromptSession, ticket: Ticket) -> Execution:
        begun, ended = session.story.started_at_ms, session.story.ended_at_ms
        execute_s = (ended - begun) / 1000 if begun and ended else asyncio.get_running_loop().time() - session.begun_at
        return Execution(
            engine=self._name,
            prompt_id=session.prompt_id,
            started_at=when(begun) or self._clock.now(),
            execute_s=max(0.0, execute_s),
            token=ticket,
            failure=ticket.failure,
            partial=bool(ticket.failure or ticket.dropped),
            node_starts_s=session.story.node_starts_s,
        )


def _folder_of(job: Job) -> str:
    """Request ids are easily guessed, and whoever knows a name in ComfyUI's folders can load the file."""
    name = job.spec.request_id
    return name if _SAFE_NAME.fullmatch(name) and not job.spec.stranger else job.job_id


def _without(collected: Collected, key: str) -> Collected:
    """What nodes reported may repeat the key that they were given."""
    return Collected(
        outputs=tuple(replace(output, text=partner.without(output.text, key)) for output in collected.outputs),
        response=partner.without(collected.response, key),
        warnings=tuple(partner.without(collected.warnings, key)),
        problems=tuple(partner.without(collected.problems, key)),
    )


def _sends_pictures(graph: Mapping[str, Any]) -> bool:
    return any(node.get("class_type") in _SOCKET_CLASSES for node in graph.values())


def _pictures_lost(session: PromptSession) -> EngineDied:
    return EngineDied("its pictures went to a connection that was lost", started=session.started)
