"""One prompt while it is with ComfyUI: what the socket and the history told of it so far, and whether it is over.

Does no I/O. The engine feeds messages in, on the event loop, and waits for news.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from lib.comfy import messages as m
from lib.comfy.client import QueueItem
from lib.comfy.outputs import Early
from lib.jobs.model import Preview, Progress
from lib.jobs.ports import ExecutionObserver

MAX_UPDATES = 256
"""Progress ticks kept for the caller, the latest ones."""
MAX_PICTURE_BYTES = 256 << 20
"""Pictures sent over the socket that are held for one prompt."""


@dataclass(slots=True, kw_only=True)
class Story:
    """What happened to a prompt; grows while messages come in."""

    started_at_ms: int | None = None
    ended_at_ms: int | None = None
    node_ids: list[str] = field(default_factory=list)
    """Nodes that ran or came from the cache, in that order of events."""
    cached_ids: tuple[str, ...] = ()
    node_starts_s: dict[str, float] = field(default_factory=dict)  # from the start of the execution
    updates: deque[dict[str, float]] = field(default_factory=lambda: deque(maxlen=MAX_UPDATES))
    pictures: list[m.Picture] = field(default_factory=list)
    picture_bytes: int = 0
    pictures_dropped: int = 0
    reported: dict[str, m.Reported] = field(default_factory=dict)
    early: Early | None = None
    failure: m.Failed | None = None
    blocked: m.Failed | None = None
    interrupted: bool = False
    succeeded: bool = False
    entry: dict[str, Any] | None = None
    """The history entry, where it was already fetched."""

    @property
    def decided(self) -> bool:
        return self.succeeded or self.interrupted or self.failure is not None


class PromptSession:
    """Follows one prompt. ``over`` is final; ``lost`` names why ComfyUI can't finish it any more."""

    def __init__(self, *, prompt_id: str, observer: ExecutionObserver, request_id: str = "") -> None:
        self.prompt_id = prompt_id
        self.request_id = request_id
        """What its caller calls it."""
        self.story = Story()
        self.started = False
        self.ended = False
        self.lost: str | None = None
        self.exposed = False
        """ComfyUI may have the prompt: it must be removed when nobody wants it any more."""
        self.posted = False
        """ComfyUI has, or had, the prompt."""
        self.item: QueueItem | None = None
        """ComfyUI's own record of it, where it was looked up."""
        self.suspect = False
        """The socket may have missed something: look the prompt up now."""
        self.stalled_since: float | None = None
        self.graph: Mapping[str, Any] = {}
        self.on_success: Callable[[], None] | None = None
        """Called soon after the last node is done, a moment before the prompt is over."""
        self._picture_nodes: frozenset[str] = frozenset()
        self._observer = observer
        self._news = asyncio.Event()
        self._seen: set[str] = set()
        self._percent = 0.0
        self.begun_at = 0.0
        """Event loop's time when the prompt was seen to start."""
        self.looked_at = asyncio.get_running_loop().time()
        """Event loop's time of the last look-up in history and queue."""
        self.heard_at = self.looked_at
        """Event loop's time of the last sign that its executor lives: a message of its own, or a log that says nothing
        of its end."""
        self.orphaned = False
        """Its events went to a socket that is gone."""

    @property
    def over(self) -> bool:
        return self.ended or self.lost is not None

    def takes(self, graph: Mapping[str, Any], *, wanted: Iterable[str]) -> None:
        """Learn what is posted; pictures that ``wanted`` nodes send over the socket are kept."""
        self.graph, self._picture_nodes = graph, frozenset(wanted)

    async def news(self, timeout_s: float | None) -> None:
        """Wait for a start, an end, a loss or ``wake``, or so many seconds."""
        late = None if timeout_s is None else asyncio.get_running_loop().call_later(timeout_s, self._news.set)
        try:
            await self._news.wait()
        finally:
            if late is not None:
                late.cancel()
        self._news.clear()

    def wake(self) -> None:
        self._news.set()

    def doubt(self) -> None:
        """Have the prompt looked up as soon as possible."""
        self.suspect = True
        self._news.set()

    def lose(self, reason: str) -> None:
        """ComfyUI ended or forgot the prompt; does nothing when it is over."""
        if not self.over:
            self.lost = reason
            self._news.set()

    def accepted(self) -> None:
        """ComfyUI has the prompt; what came in before is now told to the observer."""
        self.posted = True
        self._observer.posted(self.prompt_id)
        if self.started:
            self._observer.started()

    def begin(self, at_ms: int | None = None) -> None:
        """The executor has the prompt; an earlier stamp is kept."""
        if self.story.started_at_ms is None:
            self.story.started_at_ms = at_ms
        if self.started:
            return
        self.started = True
        self.begun_at = asyncio.get_running_loop().time()
        self._news.set()
        if self.posted:
            self._observer.started()

    def apply(self, message: m.Message) -> None:
        """Take in a message of this prompt."""
        story = self.story
        match message:
            case m.Ended():
                self._end()
            case m.NodeStarted(node_id=node_id):
                self._node(node_id)
            case m.NodeProgressed():
                self._tick(message)
            case m.Started(at_ms=at_ms):
                self.begin(at_ms)
            case m.Cached(node_ids=node_ids):
                self._cached(node_ids)
            case m.Reported(node_id=node_id):
                story.reported[node_id] = message
            case m.Succeeded(at_ms=at_ms):
                self._succeed(at_ms)
            case m.Failed(blocked=True):
                story.blocked = message
            case m.Failed(at_ms=at_ms):
                story.failure, story.ended_at_ms = message, at_ms
            case m.Interrupted():
                story.interrupted = True
            case m.Picture():
                self._picture(message)

    def conclude(self, entry: dict[str, Any]) -> None:
        """End the prompt by its history entry, which tells what the socket may not have told."""
        for message in _messages(entry):
            self.apply(message)
        if not self.story.decided:
            self.story.succeeded = _status(entry).get("status_str") == "success"
        self.story.entry = entry
        self._end()

    def _succeed(self, at_ms: int | None) -> None:
        self.story.succeeded, self.story.ended_at_ms = True, at_ms
        if self.on_success is not None:
            asyncio.get_running_loop().call_soon(self.on_success)

    def _cached(self, node_ids: tuple[str, ...]) -> None:
        self.story.cached_ids = node_ids
        self.story.node_ids += [node_id for node_id in node_ids if node_id not in self._seen]
        self._seen.update(node_ids)

    def _end(self) -> None:
        if not self.over:
            self.begin()
            self.ended = True
            self._news.set()

    def _node(self, node_id: str) -> None:
        self.begin()
        if node_id not in self._seen:
            self._seen.add(node_id)
            self.story.node_ids.append(node_id)
            self.story.node_starts_s[node_id] = asyncio.get_running_loop().time() - self.begun_at
        self._report(node_id, done=len(self._seen) - 1)

    def _tick(self, tick: m.NodeProgressed) -> None:
        elapsed = asyncio.get_running_loop().time() - self.begun_at if self.started else 0.0
        share = min(1.0, tick.value / tick.maximum) if tick.maximum > 0 else 0.0
        self.story.updates.append(
            {
                "time": round(elapsed, 3),
                "value": tick.value,
                "max": tick.maximum,
                "percentage": round(100 * share, 2),
            }
        )
        self._report(tick.node_id, done=len(self._seen) - 1 + share, tick=tick)

    def _report(self, node_id: str | None, *, done: float, tick: m.NodeProgressed | None = None) -> None:
        if not self.posted:
            return
        self._percent = max(self._percent, min(99.0, 100.0 * max(0.0, done) / max(1, len(self.graph))))
        node = self.graph.get(node_id) if node_id is not None else None
        self._observer.progressed(
            Progress(
                percent=self._percent,
                node_id=node_id,
                node_type=node["class_type"] if node else None,
                value=tick.value if tick else None,
                maximum=tick.maximum if tick else None,
            )
        )

    def _picture(self, picture: m.Picture) -> None:
        """Keep the work of nodes that send their pictures nowhere else; the others are previews."""
        story = self.story
        if picture.node_id not in self._picture_nodes:
            if self.posted:
                preview = Preview(node_id=picture.node_id, mime_type=picture.mime_type, data=picture.data)
                self._observer.previewed(preview)
            return
        if story.picture_bytes + len(picture.data) > MAX_PICTURE_BYTES:
            story.pictures_dropped += 1
            return
        story.pictures.append(picture)
        story.picture_bytes += len(picture.data)


def is_interrupted(entry: Mapping[str, Any]) -> bool:
    """Whether a history entry is that of a prompt that was stopped."""
    return any(isinstance(message, m.Interrupted) for message in _messages(entry))


def _messages(entry: Mapping[str, Any]) -> Iterator[m.Message]:
    messages = _status(entry).get("messages")
    for pair in messages if isinstance(messages, list) else ():
        if isinstance(pair, list) and len(pair) == 2 and (message := m.message_of(pair[0], pair[1])) is not None:
            yield message


def _status(entry: Mapping[str, Any]) -> Mapping[str, Any]:
    status = entry.get("status")
    return status if isinstance(status, Mapping) else {}


def when(at_ms: int | None) -> datetime | None:
    """Turn ComfyUI's stamp into an aware UTC time."""
    return datetime.fromtimestamp(at_ms / 1000, UTC) if at_ms is not None else None
