"""ComfyEngine: runs jobs on one ComfyUI. Implements ``lib.jobs.ports.Engine``.

One prompt: rewrite, post, follow to the end marker (history being the second witness), collect. What keeps the
connection and knows whether ComfyUI lives is ``link``.
"""

import asyncio
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import aiohttp
import orjson

from lib.clock import Clock, SystemClock
from lib.comfy import faults
from lib.comfy.catalog import Catalog, read_class
from lib.comfy.client import ComfyClient, ConnectionRefused, Reply, loads
from lib.comfy.folders import JobFolders
from lib.comfy.follow import Follower, Terms
from lib.comfy.forget import Forgetter
from lib.comfy.harvest import Harvester, Ticket
from lib.comfy.link import Link
from lib.comfy.ports import Server
from lib.comfy.rewrite import Plan, plan
from lib.comfy.session import PromptSession, when
from lib.errors import (
    BodyTooLarge,
    EngineDied,
    EngineUnreachable,
    ExecutionFailed,
    InvalidWorkflow,
    JobCancelled,
    OutOfMemory,
)
from lib.jobs.model import Job
from lib.jobs.ports import Collected, Execution, ExecutionObserver, Prepared
from lib.lifecycle import Tasks
from lib.settings import EngineSettings

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
        clock: Clock | None = None,
    ) -> None:
        """``fetch_folder`` takes files that ComfyUI keeps out of our reach, or sends over the socket;
        ``inline_bytes`` bounds what is inlined while it is collected."""
        self._name = name
        self._server = server
        self._clock = clock or SystemClock()
        self._client = ComfyClient(server.base_url, http, timeout_s=settings.request_timeout_s)
        self._link = Link(server=server, client=self._client, settings=settings, clock=self._clock)
        self._folders = JobFolders()
        self._forgetter = Forgetter(self._client, tasks)
        self._follower = Follower(self._client, self._link, settings=settings, tasks=tasks, forgetter=self._forgetter)
        self._harvester = Harvester(self._client, server=server, fetch_folder=fetch_folder, inline_bytes=inline_bytes)

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
    def catalog(self) -> Catalog:
        """What this ComfyUI can run; empty until it was connected once."""
        return self._link.catalog

    @property
    def system_facts(self) -> Mapping[str, object]:
        """Versions, device and memory (bytes) as ComfyUI told them when it was connected; no paths."""
        return self._link.facts

    def on_health(self, listener: Callable[[bool], None]) -> None:
        """Have ``listener(healthy)`` called, on the event loop, at each change."""
        self._link.on_health(listener)

    async def wait_ready(self) -> None:
        """Return when a prompt may be posted."""
        await self._link.wait_ready()

    async def run(self) -> None:
        """Keep the connection, for ever; what is still in ComfyUI's history goes when this is cancelled."""
        try:
            await self._link.run()
        finally:
            await self._forgetter.close()

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
        """See ``lib.jobs.ports.Engine``."""
        if not self.healthy:
            raise self._unready()
        planned = await self._plan(job, prepared, nonce=prompt_id)
        if not self.healthy:
            raise self._unready()
        session = PromptSession(
            prompt_id=prompt_id, graph=planned.graph, picture_nodes=frozenset(planned.wanted), observer=observer
        )
        self._link.sessions[prompt_id] = session
        try:
            await self._submit(session, planned)
            await self._follower.follow(session, Terms(withdraw=withdraw, timeout_s=timeout_s))
            await self._judge(session)
        except asyncio.CancelledError:
            await self._follower.remove(session)
            raise
        finally:
            del self._link.sessions[prompt_id]
        return self._execution(session, planned, prepared)

    async def holds(self, prompt_ids: Sequence[str]) -> str | None:
        """See ``lib.jobs.ports.Engine``."""
        queue = await self._client.queue()
        for prompt_id in prompt_ids:
            if prompt_id in queue.running or prompt_id in queue.pending:
                return prompt_id
            if await self._client.history(prompt_id) is not None:
                return prompt_id
        return None

    async def collect(self, job: Job, execution: Execution) -> Collected:
        """See ``lib.jobs.ports.Engine``."""
        ticket: Ticket = execution.token
        try:
            return await self._harvester.harvest(ticket, job.spec)
        finally:
            self._forgetter.add(execution.prompt_id)

    def _unready(self) -> EngineUnreachable:
        return EngineUnreachable(f"ComfyUI {self._name!r} takes no work: {self.down_reason}")

    async def _plan(self, job: Job, prepared: Prepared, *, nonce: str) -> Plan:
        folder = job.spec.request_id if _SAFE_NAME.fullmatch(job.spec.request_id) else job.job_id
        folders, again = self._server.folders, job.attempts > 0
        if folders is not None:
            folder = await self._folders.claim(folders.output, folder, run=job.run, again=again)
        elif job.run > 1 or again:
            folder = f"{folder}/{nonce[:8]}"
        now = self._clock.now().astimezone()
        return plan(prepared.graph, self.catalog, folder=folder, nonce=nonce, now=now)

    async def _submit(self, session: PromptSession, planned: Plan) -> None:
        body = orjson.dumps(
            {"prompt": planned.graph, "prompt_id": session.prompt_id, "client_id": self._link.client_id},
        )
        try:
            reply = await self._client.post_prompt(body)
        except ConnectionRefused as error:
            self._link.failed(error)
            raise
        except EngineUnreachable as error:
            self._link.failed(error)
            await self._find(session, error)
            return
        self._link.answered()
        if reply.status == 200:
            await self._accepted(session, reply)
        elif reply.status == 400:
            raise await self._rejection(reply)
        elif reply.status == 413:
            raise BodyTooLarge("the workflow is larger than this ComfyUI takes (its --max-upload-size)")
        else:
            text = faults.scrub(reply.body[:200].decode("utf-8", "replace"))
            await self._find(session, ExecutionFailed(f"ComfyUI answered {reply.status} to the prompt: {text}"))

    async def _accepted(self, session: PromptSession, reply: Reply) -> None:
        """Outputs that do not validate are dropped with a 200; half a result is not what was asked for."""
        if (reply.json or {}).get("node_errors"):
            await self._follower.remove(session)
            raise await self._rejection(reply)
        session.accepted()

    async def _find(self, session: PromptSession, error: Exception) -> None:
        """The POST failed and may have been queued all the same: look before anybody posts it again."""
        try:
            found = await self._follower.look(session)
        except EngineUnreachable as gone:
            # It had the prompt, and is gone, perhaps for that reason: this counts as an attempt.
            self._link.strays.add(session.prompt_id)
            session.lose(await self._link.explain(gone.message))
            died = self._link.died(session)
            died.started = True
            raise died from gone
        if not found:
            self._link.strays.add(session.prompt_id)
            raise self._link.died(session) if session.lost else error
        session.accepted()

    async def _rejection(self, reply: Reply) -> InvalidWorkflow:
        body = reply.json or {"error": {"message": reply.body[:200].decode("utf-8", "replace")}}
        fresh: dict[str, Catalog] = {}
        for facts in (body.get("node_errors") or {}).values():
            class_type = str(facts.get("class_type"))
            if class_type not in fresh and any(error.get("type") == "value_not_in_list" for error in facts["errors"]):
                fresh[class_type] = await self._fresh(class_type)

        def choices(class_type: str, name: str) -> tuple[str, ...]:
            return fresh.get(class_type, self.catalog).options(class_type, name)

        return faults.rejection(body, classes=self.catalog.names(), choices=choices)

    async def _fresh(self, class_type: str) -> Catalog:
        """Model files come and go while ComfyUI runs."""
        try:
            described = loads(await self._client.object_info(class_type))
        except EngineUnreachable:
            return self.catalog
        return Catalog({class_type: read_class((described or {}).get(class_type))})

    async def _judge(self, session: PromptSession) -> None:
        """Return for a success, raise for anything else."""
        story = session.story
        if session.ended and not story.decided:
            await self._decide(session)
        if story.succeeded:
            return
        if not story.decided:
            raise self._link.died(session)
        self._forgetter.add(session.prompt_id)
        if story.failure is None:
            raise JobCancelled("the prompt was interrupted in ComfyUI, not by its caller")
        error = faults.execution_error(story.failure)
        if (fault := faults.gpu_fault(story.failure)) is not None:
            await self._link.restart(f"the GPU can't be used any more: {fault}")
            raise EngineDied(error.message, started=True, details=error.details)
        if isinstance(error, OutOfMemory):
            await self._free()
        raise error

    async def _decide(self, session: PromptSession) -> None:
        """The end marker came alone; the history knows which end it was."""
        try:
            entry = await self._client.history(session.prompt_id)
        except EngineUnreachable as error:
            session.lost = error.message
            return
        if entry is None:
            session.lost = "the history has no trace of it"
        else:
            session.conclude(entry)

    async def _free(self) -> None:
        try:
            await self._client.free()
        except EngineUnreachable as error:
            self._link.failed(error)

    def _execution(self, session: PromptSession, planned: Plan, prepared: Prepared) -> Execution:
        story = session.story
        begun, ended = story.started_at_ms, story.ended_at_ms
        execute_s = (ended - begun) / 1000 if begun and ended else _now() - session.begun_at
        return Execution(
            engine=self._name,
            prompt_id=session.prompt_id,
            started_at=when(begun) or self._clock.now(),
            execute_s=max(0.0, execute_s),
            token=Ticket(prompt_id=session.prompt_id, story=story, plan=planned, caller_graph=prepared.caller_graph),
        )


def _now() -> float:
    return asyncio.get_running_loop().time()
