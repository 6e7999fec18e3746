"""Models by URL: each fetched once, into the folder that ComfyUI reads, kept until others need the room.

A file is named by its content, so that two URLs never share one, and no content is kept twice. A source that was
fetched before is asked whether it changed, with the caller's own rights, unless it was asked a moment ago.
"""

import asyncio
import logging
import time
import weakref
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Protocol

import aiohttp

from lib.comfy.models.folders import ModelFolders
from lib.comfy.models.index import Index, Known, Model
from lib.comfy.models.names import PICKLES, bare_url, content_name, split_digest, suffix_of, unsigned_url, url_name
from lib.comfy.models.privacy import STRANGER
from lib.comfy.models.shelf import shelve
from lib.comfy.models.transfer import ATTEMPTS, Arrived, Order, Transfer, pickle_refused
from lib.errors import ServiceError, StorageFailed
from lib.jobs.ports import Aside, Tell, untold
from lib.lifecycle import Tasks
from lib.storage.problems import Transient, for_field, problem
from lib.storage.reading import Reader
from lib.storage.sources import Credential, Source

log = logging.getLogger(__name__)

FRESH_S = 300.0
"""A source that was asked so lately is not asked again."""
AT_ONCE = 4
"""Models that come at the same time for one owner; who wants more keeps nobody else waiting."""
OnDownloaded = Callable[[str, Path, int, float], None]
"""Told of each transfer: URL (without secrets), place, size in bytes, seconds."""
OnDeleted = Callable[[str, Path, int], None]
"""Told of each model that was removed: URL, place, size in bytes."""


class Rights(Protocol):
    """Finds what a URL may be read with; ``lib.storage.sources.Sources`` is one."""

    def find(
        self, url: str, *, field: str, credentials: Sequence[Credential] = (), owner: str | None = "", dialect: str = ""
    ) -> Source: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Of one model: its size, and how long its transfer may take."""

    max_bytes: int
    timeout_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """A model that a request names by ``url``, with the request's rights. ``field``: where the request has it."""

    url: str
    field: str
    credentials: Sequence[Credential] = ()
    owner: str | None = ""
    dialect: str = ""
    pickles: bool = True

    @property
    def holder(self) -> str:
        """Who is told of the model afterwards."""
        return STRANGER if self.owner is None else self.owner


@dataclass(frozen=True, slots=True, kw_only=True, weakref_slot=True)
class Held:
    """A model that is here: while somebody holds this object it is not removed to make room."""

    sha256: str
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Obtained:
    """A model in ComfyUI's folder."""

    name: str
    held: Held


@dataclass(slots=True, kw_only=True)
class _Flight:
    """A transfer under way, who waits for it, and what they were told last."""

    source: Source
    draft: Path
    digest: str
    wish: Wish
    task: asyncio.Task["tuple[Model, Held] | ServiceError"] | None = None
    tells: list[Tell] = field(default_factory=list)
    told: str = ""

    def progressed(self, done: int, total: int | None) -> None:
        name = url_name(self.source.url)[:80] or "it"
        far = f"{min(100, 100 * done // total)} %" if total else f"{done >> 20} MiB"
        if (text := f"Downloading model {name}: {far}") != self.told:
            self.told = text
            for tell in self.tells:
                tell(text)


class Library:
    """``tasks`` owns the transfers, so that a caller who leaves fails nobody else's; when the last one leaves it ends,
    and what is there is resumed another time. ``on_new`` is called when ComfyUI has a model that it did not have."""

    def __init__(
        self,
        *,
        folders: ModelFolders,
        reader: Reader,
        rights: Rights,
        index: Index,
        limits: Limits,
        tasks: Tasks,
        on_new: Callable[[], None] = lambda: None,
        on_downloaded: OnDownloaded = lambda url, path, size_bytes, duration_s: None,
        on_deleted: OnDeleted = lambda url, path, size_bytes: None,
        now: Callable[[], float] = time.time,
        retry_wait_s: float = 1.0,
    ) -> None:
        self._folders = folders
        self._reader = reader
        self._rights = rights
        self._index = index
        self._limits = limits
        self._tasks = tasks
        self._on_new = on_new
        self._on_downloaded = on_downloaded
        self._on_deleted = on_deleted
        self._now = now
        self._retry_wait_s = retry_wait_s
        self._flights: dict[str, _Flight] = {}
        self._held: weakref.WeakValueDictionary[str, Held] = weakref.WeakValueDictionary()
        self._shelving = asyncio.Lock()
        self._turns: defaultdict[str | None, asyncio.Semaphore] = defaultdict(lambda: asyncio.Semaphore(AT_ONCE))
        self._fresh: dict[str, tuple[float, bool]] = {}
        """Models that came in, and that nobody was told of yet: seconds of the transfer, and whether its content is
        new, so that nobody knows it by a name."""

    async def obtain(
        self, wish: Wish, folder: str, *, name: str = "", tell: Tell = untold, aside: Aside = nullcontext
    ) -> Obtained:
        """Have a model in a folder of ComfyUI's, under a name of its own, or as ``name`` if nothing else has that. The
        caller steps ``aside`` while it is on its way.

        Raises: InvalidRequest, UnsafeInput, InputFetchFailed, StorageFailed, EngineUnreachable; ``details["field"]``.
        """
        places, source, digest = await self._checked(wish, folder)
        result: tuple[Model, Held] | ServiceError | None = await self._at_hand(source, digest)
        if result is None:
            with aside():
                result = await self._join(source, places[0], wish=wish, digest=digest, tell=tell)
        if isinstance(result, ServiceError):
            raise for_field(result, wish.field)
        model, held = result
        _check_kind(wish, model.paths[0])
        try:
            async with self._shelving:
                came = self._fresh.pop(model.sha256, None)
                fresh = came is not None and came[1]
                await asyncio.to_thread(self._index.own, model.sha256, wish.holder)
                name, new = await asyncio.to_thread(shelve, self._index, model, places, wanted=name, fresh=fresh)
                if came is not None:
                    self._on_downloaded(model.url, places[0] / name, model.size_bytes, came[0])
        except OSError as error:
            cause = error.strerror or type(error).__name__
            raise StorageFailed(f"{wish.field}: the model can't be stored: {cause}") from error
        if new:
            self._on_new()
        return Obtained(name=name, held=held)

    async def _checked(self, wish: Wish, folder: str) -> tuple[tuple[Path, ...], Source, str]:
        """All that can be said before anything is fetched: where it will lie, how it is read, what it has to be.

        Raises: InvalidRequest, UnsafeInput, InputFetchFailed, EngineUnreachable."""
        url, digest = split_digest(wish.url.strip())
        _check_kind(wish, url_name(url))
        given, owner, dialect = wish.credentials, wish.owner, wish.dialect
        source = self._rights.find(url, field=wish.field, credentials=given, owner=owner, dialect=dialect)
        try:
            self._reader.host(source)
        except ServiceError as error:
            raise for_field(error, wish.field) from error
        return await self._folders.places(folder, field=wish.field), source, digest

    # -- the transfer ------------------------------------------------------------------------------------------------

    async def _at_hand(self, source: Source, digest: str) -> tuple[Model, Held] | None:
        """The model, if it is here and nobody needs to be asked."""
        own, _, held = await asyncio.to_thread(self._recall, _names(source), digest)
        return (held, self._hold(held)) if held and self._is_fresh(own, digest) else None

    def _is_fresh(self, own: Known | None, digest: str) -> bool:
        return own is not None and (own.sha256 == digest or self._now() - own.checked_at < FRESH_S)

    def _hold(self, model: Model) -> Held:
        held = self._held.get(model.sha256)
        if held is None:
            held = self._held[model.sha256] = Held(sha256=model.sha256, size_bytes=model.size_bytes)
        return held

    async def _join(
        self, source: Source, home: Path, *, wish: Wish, digest: str, tell: Tell
    ) -> tuple[Model, Held] | ServiceError:
        key = sha256(f"{source.identity} {digest} {wish.pickles}".encode()).hexdigest()[:32]
        flight = self._flights.get(key)
        if flight is None or flight.task is None:
            flight = _Flight(source=source, draft=home / f".{key}.part", digest=digest, wish=wish)
            self._flights[key] = flight
            flight.task = self._tasks.spawn(self._run(flight), name="model-fetch")
            flight.task.add_done_callback(lambda task: self._landed(key, task))
        flight.tells.append(tell)
        if flight.told:
            tell(flight.told)
        try:
            return await asyncio.shield(flight.task)
        finally:
            flight.tells.remove(tell)
            if not flight.tells and not flight.task.done():
                self._landed(key, flight.task)
                flight.task.cancel()

    def _landed(self, key: str, task: object) -> None:
        if (flight := self._flights.get(key)) is not None and flight.task is task:
            del self._flights[key]

    async def _run(self, flight: _Flight) -> tuple[Model, Held] | ServiceError:
        """The whole fetch; a failure is a value, because it may have several owners."""
        host = self._reader.host(flight.source)
        try:
            model = await self._fetched(flight)
        except ServiceError as error:
            await asyncio.to_thread(self._index.give_up, flight.draft)
            return error
        except (Transient, OSError, aiohttp.ClientError) as error:  # TimeoutError is an OSError
            log.info("model fetch failed", extra={"event": "model.failed", "host": host, "cause": type(error).__name__})
            return problem(error, host=host)
        return model, self._hold(model)

    async def _fetched(self, flight: _Flight) -> Model:
        source, digest, now = flight.source, flight.digest, self._now()
        names = _names(source)
        own, known, held = await asyncio.to_thread(self._recall, names, digest)
        if held and self._is_fresh(own, digest):
            return held
        order = Order(
            source=source,
            draft=flight.draft,
            limit_bytes=self._limits.max_bytes,
            sha256=digest,
            pickles=flight.wish.pickles,
            validators=known.validators if known and held else {},
            resumes=await asyncio.to_thread(self._index.resumable, flight.draft),
            on_progress=flight.progressed,
            on_begin=lambda validator: self._index.begin(flight.draft, validator),
            make_room=self._make_room,
            attempts=1 if own and held else ATTEMPTS,
        )
        try:
            async with nullcontext() if own and held else self._turns[flight.wish.owner]:
                begun = time.monotonic()
                async with asyncio.timeout(self._limits.timeout_s):
                    arrived = await Transfer(self._reader, order, retry_wait_s=self._retry_wait_s).run()
        except Transient:
            if own is None or held is None:
                raise
            log.info("model not asked for changes", extra={"event": "model.unasked", "host": self._reader.host(source)})
            return held
        if arrived is not None:
            return await self._kept(arrived, flight, names, begun=begun)
        if known is None or held is None:
            raise Transient("says that nothing changed, although it was not asked")
        await asyncio.to_thread(self._index.learn, names, replace(known, checked_at=now))
        return held

    def _recall(self, names: tuple[str, str], digest: str) -> tuple[Known | None, Known | None, Model | None]:
        """What this very source gave last, what it or one like it did, and that model, if it is here and what is
        wanted."""
        own = self._index.source(names[0])
        known = own or self._index.source(names[1])
        if known is None or digest not in ("", known.sha256):
            return None, None, None
        return own, known, self._index.find(known.sha256, now=self._now())

    async def _kept(self, arrived: Arrived, flight: _Flight, names: tuple[str, str], *, begun: float) -> Model:
        draft, url, now = flight.draft, bare_url(flight.source.url), self._now()
        final = draft.with_name(content_name(arrived.name, sha256=arrived.sha256, suffix=arrived.suffix))
        model = Model(
            sha256=arrived.sha256,
            size_bytes=arrived.size_bytes,
            paths=(str(final),),
            url=url,
            used_at=now,
            owners=(flight.wish.holder,),
        )
        known = Known(sha256=arrived.sha256, validators=arrived.validators, checked_at=now)

        def keep() -> tuple[Model, bool]:
            new = self._index.find(model.sha256, now=now) is None
            kept = self._index.keep(model, draft)
            self._index.learn(names, known)
            return kept, new

        model, new = await asyncio.to_thread(keep)
        duration_s = time.monotonic() - begun
        self._fresh[model.sha256] = (duration_s, new)
        await self._make_room(0, keep=model.sha256)
        facts = {"event": "model.downloaded", "file": final.name, "bytes": model.size_bytes}
        log.info("model downloaded", extra=facts | {"duration_s": round(duration_s, 3)})
        return model

    async def _make_room(self, needed_bytes: int, *, keep: str = "") -> None:
        kept, busy = {keep, *self._held}, {flight.draft for flight in self._flights.values()}
        make_room = partial(self._index.make_room, needed_bytes, keep=kept, busy=busy, now=time.time())
        for model in await asyncio.to_thread(make_room):
            log.info("model removed", extra={"event": "model.removed", "bytes": model.size_bytes})
            self._on_deleted(model.url, Path(model.paths[0]), model.size_bytes)


def _names(source: Source) -> tuple[str, str]:
    """What a source is known by: itself, and what it has in common with others like it."""
    return source.identity, "~" + sha256(unsigned_url(source.url).encode()).hexdigest()


def _check_kind(wish: Wish, name: str) -> None:
    if not wish.pickles and (suffix := suffix_of(name)) in PICKLES:
        raise for_field(pickle_refused(suffix), wish.field)
