"""A finished prompt's outputs: fetch the history entry, check that it is the success it claims, find the files."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import stamina

from lib.comfy import outputs
from lib.comfy.client import ComfyClient
from lib.comfy.faults import kept_in_spite_of, scrub, scrubbed
from lib.comfy.messages import Picture
from lib.comfy.outputs import Early, Item
from lib.comfy.ports import Folders, Server
from lib.comfy.rewrite import Plan, Restorer
from lib.comfy.session import Story
from lib.errors import EngineUnreachable, ExecutionFailed, StorageFailed
from lib.jobs.model import DeliverySpec, JobSpec, Output, Workflow
from lib.jobs.ports import Collected
from lib.lanes import Lane

_TRIES = 4
_FIRST_WAIT_S = 0.02
_LONGEST_WAIT_S = 0.3
_LOOKING = 4
"""Threads that look at files; a folder on a network may be slow."""
_SUFFIXES = {"image/png": ".png", "image/jpeg": ".jpg", "image/webp": ".webp"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Ticket:
    """What ``execute`` hands to ``collect``."""

    prompt_id: str
    story: Story
    plan: Plan
    caller_graph: Workflow
    dropped: tuple[str, ...] = ()
    """What is to be told of wanted outputs that ComfyUI refused when it took the prompt."""
    failure: ExecutionFailed | None = None
    """A node failed, and the files that were there by then are wanted."""


async def settled(client: ComfyClient, prompt_id: str) -> dict[str, Any]:
    """Return the history entry of a prompt that has ended; a moment's patience where ComfyUI has it not, or not whole.

    Raises: EngineUnreachable."""
    try:
        return await _entry(client, prompt_id)
    except EngineUnreachable:
        async for attempt in tries():
            with attempt:
                return await _entry(client, prompt_id)
        raise


async def _entry(client: ComfyClient, prompt_id: str) -> dict[str, Any]:
    entry = await client.history(prompt_id)
    if entry is None:
        raise EngineUnreachable("ComfyUI has lost the history of a prompt that ended")
    return entry


def tries() -> AsyncIterator[stamina.Attempt]:
    """Yield attempts at a call that is worth a second's patience: without its answer work would be done twice."""
    return stamina.retry_context(
        on=EngineUnreachable,
        attempts=_TRIES,
        timeout=None,
        wait_initial=_FIRST_WAIT_S,
        wait_max=_LONGEST_WAIT_S,
        wait_jitter=_FIRST_WAIT_S,
    )


class Harvester:
    """Collects from one ComfyUI."""

    def __init__(self, client: ComfyClient, *, server: Server, fetch_folder: Path, inline_bytes: int = 0) -> None:
        """Jobs that want base64 get it here when their files are together at most ``inline_bytes``."""
        self._client = client
        self._inline_bytes = inline_bytes
        self._server = server
        self._fetch_folder = fetch_folder
        self._lane = Lane(_LOOKING, name="outputs")

    async def harvest(self, ticket: Ticket, spec: JobSpec) -> Collected:
        """Raises: ExecutionFailed (the ticket's own, where it left no file), EngineUnreachable, StorageFailed."""
        entry = await self._entry(ticket)
        missing = _checked(entry, ticket)
        if missing and not spec.keep_partial:
            raise _not_run(missing)
        folders = self._server.folders
        items = outputs.listed(entry, order=ticket.caller_graph, include_temp=spec.delivery.include_temp)
        paths, problems = await self._paths(items, folders, ticket)
        restorer = Restorer(folder=ticket.plan.folder, roots=_roots(folders))
        found = await self._seen(ticket, items, paths)
        if found is None:
            reporting = outputs.reporting(entry) if ticket.story.pictures else frozenset()
            gathering = self._gathering(ticket, spec, items, paths, restorer, reporting=reporting)
            found = await self._lane.run(gathering.outputs)
        if ticket.failure is not None and not any(_is_file(output) for output in found):
            raise ticket.failure
        if ticket.story.blocked is not None and not found:
            raise _blocked(ticket)
        response = _response(entry, ticket, restorer) if spec.keep_response else {}
        problems += _problems(ticket, missing)
        return Collected(outputs=found, response=response, warnings=problems, problems=problems)

    def look(self, ticket: Ticket, spec: JobSpec) -> None:
        """Begin with the files that nodes told of, while ComfyUI writes its history: a thread's turn less to wait for.
        Whether that is what the prompt made is the history's to say."""
        story, folders = ticket.story, self._server.folders
        if folders is None or story.pictures or story.early is not None:
            return
        told = {
            "outputs": {one.node_id: one.output for one in story.reported.values()},
            "meta": {one.node_id: {"display_node": one.shown_id} for one in story.reported.values()},
        }
        items = outputs.listed(told, order=ticket.caller_graph, include_temp=spec.delivery.include_temp)
        paths = {item: outputs.located(item, folders) for item in items}
        if not items or None in paths.values() or any(item.text is not None for item in items):
            return
        restorer = Restorer(folder=ticket.plan.folder, roots=_roots(folders))
        gathering = self._gathering(ticket, spec, items, paths, restorer)
        story.early = Early(paths=paths, found=self._lane.run(gathering.outputs))

    async def _seen(
        self, ticket: Ticket, items: tuple[Item, ...], paths: Mapping[Item, str | None]
    ) -> tuple[Output, ...] | None:
        """What was found already, if the history names just these files; one that was not there is looked for again."""
        early = ticket.story.early
        if early is None or list(early.paths.items()) != list(paths.items()) or len(paths) != len(items):
            return None
        found = await early.found
        return None if any(output.error is not None for output in found) else found

    def _gathering(
        self,
        ticket: Ticket,
        spec: JobSpec,
        items: tuple[Item, ...],
        paths: Mapping[Item, str | None],
        restorer: Restorer,
        *,
        reporting: frozenset[str] = frozenset(),
    ) -> "_Gathering":
        return _Gathering(
            items=items,
            paths=paths,
            restorer=restorer,
            ticket=ticket,
            fetch_folder=self._fetch_folder,
            reporting=reporting,
            inline_bytes=self._inline_bytes if _inlined_as_it_is(spec.delivery) else 0,
            stranger=spec.stranger,
        )

    async def _entry(self, ticket: Ticket) -> dict[str, Any]:
        try:
            return ticket.story.entry or await settled(self._client, ticket.prompt_id)
        except EngineUnreachable as error:
            if ticket.failure is None:
                raise
            raise ticket.failure from error

    async def _paths(
        self, items: tuple[Item, ...], folders: Folders | None, ticket: Ticket
    ) -> tuple[dict[Item, str | None], tuple[str, ...]]:
        paths: dict[Item, str | None] = {}
        problems: list[str] = []
        for item in items:
            if item.text is not None or item in paths:
                continue
            if folders is not None and (item.folder_type != "temp" or folders.temp is not None):
                paths[item] = outputs.located(item, folders)
            elif item.certain:
                paths[item] = await self._fetch(item, self._target(ticket), problems)
        return paths, tuple(problems)

    async def _fetch(self, item: Item, target: Path, problems: list[str]) -> str | None:
        """Bring a file over by ``/view``, into the place that its name has under ``target``."""
        own = Folders(output=target, input=target, temp=target / "temp")
        path = outputs.located(item, own)
        if path is None:
            return None
        try:
            async for attempt in tries():
                with attempt:
                    await self._copy(item, Path(path))
        except FileNotFoundError as error:
            problems.append(f"node {item.node_id}: {error}")
        return path

    async def _copy(self, item: Item, path: Path) -> None:
        """Raises: FileNotFoundError (ComfyUI has it not), StorageFailed (no room for it here), EngineUnreachable."""
        async with self._client.view(
            filename=item.filename, subfolder=item.subfolder, folder_type=item.folder_type
        ) as chunks:
            file = await asyncio.to_thread(_create, path)
            async with AsyncExitStack() as undo:
                undo.push_async_callback(asyncio.to_thread, _drop, file)
                async for chunk in chunks:
                    await asyncio.to_thread(_append, file, chunk)
                await asyncio.to_thread(_close, file)
                undo.pop_all()

    def _target(self, ticket: Ticket) -> Path:
        return self._fetch_folder / ticket.prompt_id


def _inlined_as_it_is(wanted: DeliverySpec) -> bool:
    """Whether the files that ComfyUI wrote are those that the caller wants in the answer."""
    return wanted.inline_base64 and wanted.convert is None and wanted.keep_metadata is not False


@dataclass(frozen=True, slots=True, kw_only=True)
class _Gathering:
    """All file work of one prompt, for one thread."""

    items: tuple[Item, ...]
    paths: Mapping[Item, str | None]
    restorer: Restorer
    ticket: Ticket
    fetch_folder: Path
    reporting: frozenset[str]
    inline_bytes: int
    stranger: bool

    def outputs(self) -> tuple[Output, ...]:
        found = self._found()
        return outputs.within(found, inline_bytes=self.inline_bytes) if self.inline_bytes else found

    def _found(self) -> tuple[Output, ...]:
        pictures = [picture for picture in self.ticket.story.pictures if picture.node_id not in self.reporting]
        items = [item for item in self.items if not (self.stranger and item.bare) or self._is_own(item)]
        found = outputs.inspect(items, paths=self.paths, restorer=self.restorer, inline_bytes=self.inline_bytes)
        if not pictures:
            return found
        saved = {self._item(index, picture): picture for index, picture in enumerate(pictures, 1)}
        target = self.fetch_folder / self.ticket.prompt_id
        own = {item: str(_write(target / item.filename, picture.data)) for item, picture in saved.items()}
        found += outputs.inspect(saved, paths=own, restorer=self.restorer, inline_bytes=self.inline_bytes)
        rank = {node_id: index for index, node_id in enumerate(self.ticket.caller_graph)}
        return tuple(sorted(found, key=lambda output: rank.get(output.node_id, len(rank))))

    def _is_own(self, item: Item) -> bool:
        """Whether a path, which ``Preview3D`` shows whatever it is, leads to a file of this very prompt: to its folder,
        or to what was written since it began."""
        path, began_ms = self.paths.get(item), self.ticket.story.started_at_ms
        if path is None or f"/{self.ticket.plan.folder}/" in path:
            return path is not None
        try:
            return began_ms is not None and Path(path).stat().st_mtime * 1000 >= began_ms
        except OSError:
            return False

    def _item(self, index: int, picture: Picture) -> Item:
        name = f"websocket_{index:05}_{_SUFFIXES.get(picture.mime_type, '.png')}"
        return Item(node_id=picture.node_id, key="images", filename=name)


@contextmanager
def _storing(path: Path) -> Iterator[None]:
    """A disk that is full, or not ours to write, is told as what it is."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise StorageFailed(f"{path.name} could not be written to this worker's disk: {reason}") from error


def _create(path: Path) -> IO[bytes]:
    with _storing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("wb")


def _append(file: IO[bytes], chunk: bytes) -> None:
    with _storing(Path(file.name)):
        file.write(chunk)


def _close(file: IO[bytes]) -> None:
    with _storing(Path(file.name)):
        file.close()


def _drop(file: IO[bytes]) -> None:
    """Half a file only takes room. Closing writes what is buffered, which may fail once more."""
    with suppress(OSError):
        file.close()
    Path(file.name).unlink(missing_ok=True)


def _write(path: Path, data: bytes) -> Path:
    file = _create(path)
    try:
        _append(file, data)
        _close(file)
    except StorageFailed:
        _drop(file)
        raise
    return path


def _roots(folders: Folders | None) -> tuple[str, ...]:
    if folders is None:
        return ()
    return tuple(str(root) for root in (folders.output, folders.temp) if root is not None)


def _is_file(output: Output) -> bool:
    return output.text is None and output.error is None


def _checked(entry: Mapping[str, Any], ticket: Ticket) -> list[str]:
    """Return the wanted outputs that did not run: neither HTTP's 200 nor the socket's success says that all of them
    did; the history does."""
    status, prompt, reported = entry.get("status"), entry.get("prompt"), entry.get("outputs")
    if not isinstance(status, dict) or not isinstance(prompt, list) or not isinstance(reported, dict):
        raise ExecutionFailed("ComfyUI's history of the prompt can't be read", details={"reason": "unreadable"})
    if ticket.failure is None and status.get("status_str") != "success":
        raise ExecutionFailed(f"ComfyUI's history says {status.get('status_str')!r}, not success")
    ran = prompt[4] if len(prompt) > 4 and isinstance(prompt[4], list) else []
    return [node_id for node_id in ticket.plan.wanted if node_id not in ran]


def _not_run(missing: list[str]) -> ExecutionFailed:
    return ExecutionFailed(
        f"ComfyUI did not run output node {', '.join(missing)}", details={"node_ids": missing, "reason": "not_run"}
    )


def _blocked(ticket: Ticket) -> ExecutionFailed:
    blocked = ticket.story.blocked
    assert blocked is not None  # noqa: S101 - for the type checker; the caller just looked
    message = scrub(blocked.message)
    return ExecutionFailed(
        f"Node {blocked.node_id} ({blocked.node_type}) blocked every output: {message}",
        details={
            "node_id": blocked.node_id,
            "node_type": blocked.node_type,
            "exception_type": blocked.exception_type,
            "exception_message": message,
        },
    )


def _problems(ticket: Ticket, missing: list[str]) -> tuple[str, ...]:
    """``missing`` has a reason where this life of the worker posted the prompt."""
    story, problems = ticket.story, list(ticket.dropped)
    if missing and not problems:
        problems.append(_not_run(missing).message)
    if ticket.failure is not None:
        problems.append(kept_in_spite_of(ticket.failure))
    if story.blocked is not None:
        problems.append(f"node {story.blocked.node_id} blocked a branch: {scrub(story.blocked.message)}")
    if story.pictures_dropped:
        problems.append(f"{story.pictures_dropped} pictures sent over the socket were too large to keep")
    return tuple(problems)


def _response(entry: Mapping[str, Any], ticket: Ticket, restorer: Restorer) -> dict[str, Any]:
    """The API wrapper's ``comfyui_response``: ``{prompt_id: history entry, "execution_details": {...}}``."""
    story, outputs_wanted = ticket.story, set(ticket.plan.wanted)
    shown = outputs.cleaned(entry, caller_graph=ticket.caller_graph, restorer=restorer)
    if ticket.failure is not None:  # its messages hold tracebacks and inputs
        shown["status"] = scrubbed(shown["status"])
    return {
        ticket.prompt_id: shown,
        "execution_details": {
            "prompt_id": ticket.prompt_id,
            "nodes_executed": list(story.node_ids),
            "progress_updates": list(story.updates),
            "completed": ticket.failure is None,
            "error": ticket.failure.message if ticket.failure is not None else None,
            "cached": bool(story.cached_ids) and set(story.node_ids) <= outputs_wanted | set(story.cached_ids),
        },
    }
