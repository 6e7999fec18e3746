"""Posting a prompt, and what ComfyUI's answer to it means."""

import orjson

from lib.comfy import faults
from lib.comfy.catalog import Catalog, read_class
from lib.comfy.client import ComfyClient, ConnectionRefused, Reply, loads
from lib.comfy.follow import Follower
from lib.comfy.link import Link
from lib.comfy.recall import mark
from lib.comfy.rewrite import Plan
from lib.comfy.session import PromptSession
from lib.errors import BodyTooLarge, EngineUnreachable, ExecutionFailed, InvalidWorkflow


class Poster:
    """Posts prompts to one ComfyUI, marked with their ``owner``."""

    def __init__(self, client: ComfyClient, link: Link, follower: Follower, *, owner: str) -> None:
        self._client = client
        self._link = link
        self._follower = follower
        self._owner = owner

    async def submit(
        self, session: PromptSession, planned: Plan, *, keep_partial: bool = False, api_key: str | None = None
    ) -> tuple[str, ...]:
        """Post; return what is to be told of outputs that ComfyUI refused, of a job that keeps the others.

        Raises: InvalidWorkflow, BodyTooLarge, ExecutionFailed, EngineUnreachable (never posted), EngineDied."""
        body = orjson.dumps(
            {
                "prompt": planned.graph,
                "prompt_id": session.prompt_id,
                "client_id": self._link.client_id,
                "extra_data": mark(planned, owner=self._owner, api_key=api_key),
            }
        )
        session.exposed = True
        try:
            reply = await self._client.post_prompt(body)
        except ConnectionRefused as error:
            self._link.failed(error)
            raise
        except EngineUnreachable as error:
            self._link.failed(error)
            await self._find(session, error)
            return ()
        self._link.answered()
        if reply.status == 200:
            told = await self._refused(session, planned, reply, keep_partial=keep_partial)
            session.accepted()
            return told
        if reply.status == 400:
            raise await self._rejection(reply)
        if reply.status == 413:
            raise BodyTooLarge("the workflow is larger than this ComfyUI takes (its --max-upload-size)")
        text = faults.scrub(reply.body[:200].decode("utf-8", "replace"))
        await self._find(session, ExecutionFailed(f"ComfyUI answered {reply.status} to the prompt: {text}"))
        return ()

    async def _refused(
        self, session: PromptSession, planned: Plan, reply: Reply, *, keep_partial: bool
    ) -> tuple[str, ...]:
        """Outputs that do not validate are dropped with a 200; half a result is what was asked for, or it is not."""
        told = reply.json or {}
        if not told.get("node_errors"):
            return ()
        if keep_partial:
            return faults.dropped(told, planned)
        await self._follower.remove(session)
        raise await self._rejection(reply)

    async def _find(self, session: PromptSession, error: Exception) -> None:
        """The POST failed and may have been queued all the same: look before anybody posts it again."""
        try:
            found = await self._follower.look(session)
        except EngineUnreachable as gone:
            if session.ended:  # the socket has told of its end meanwhile: it had arrived
                session.accepted()
                return
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
        for class_type in faults.misfits(body):
            fresh[class_type] = await self._fresh(class_type)

        def choices(class_type: str, name: str) -> tuple[str, ...]:
            return fresh.get(class_type, self._link.catalog).options(class_type, name)

        return faults.rejection(body, classes=self._link.catalog.names(), choices=choices)

    async def _fresh(self, class_type: str) -> Catalog:
        """Model files come and go while ComfyUI runs."""
        try:
            described = loads(await self._client.object_info(class_type))
        except EngineUnreachable:
            return self._link.catalog
        return Catalog({class_type: read_class((described or {}).get(class_type))})
