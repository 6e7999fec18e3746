"""Every fetch of a caller's URL: guarded, streamed to disk, capped in size and time, recognised by content, cached.

One fetch runs per source (URL and rights) however many jobs want it. A source seen before is asked again with its
validators (``ETag``, ``Last-Modified``), so that a changed picture is never served stale, and nobody is served what
only another one's credentials open. Messages and logs name hosts, never whole URLs.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import stamina
from aiohttp import ClientError, ClientResponse

from lib.errors import InputFetchFailed, ServiceError
from lib.lifecycle import Tasks
from lib.settings import StorageSettings
from lib.storage.http import GuardedHttp
from lib.storage.inline import NotInline
from lib.storage.keeping import TooLarge, keep
from lib.storage.known import Known, Memory
from lib.storage.local import ContentStore, Fetched
from lib.storage.media import NotMedia
from lib.storage.problems import Transient, accepted, for_field, problem, too_large
from lib.storage.reading import Reader, told_host
from lib.storage.sources import Source

log = logging.getLogger(__name__)
OnBrought = Callable[[int, bool], None]
"""Told of each file that is brought in: its size in bytes, and whether it was here already."""
ATTEMPTS = 3
DECODED_AT_ONCE = 2
"""Files of requests' bodies that are decoded at the same time; more would only share the processor."""
RECORD = ".known"
"""What sources gave last time, in the content store's folder."""
OnDownloaded = Callable[[str, Path, int, float], None]
"""Told of each transfer: URL, place, size in bytes, seconds."""
UNCHANGED = 304
VALIDATORS = {"ETag": "If-None-Match", "Last-Modified": "If-Modified-Since"}


@dataclass(slots=True)
class _Flight:
    """A fetch under way and how many wait for it."""

    task: asyncio.Task[Fetched | ServiceError]
    waiters: int = 0


class Downloads:
    """Brings files in. ``tasks`` owns the fetches, so that a caller who leaves does not fail another one's."""

    def __init__(
        self,
        *,
        store: ContentStore,
        http: GuardedHttp,
        settings: StorageSettings,
        tasks: Tasks,
        on_brought: OnBrought = lambda size_bytes, cached: None,
        on_downloaded: OnDownloaded = lambda url, path, size_bytes, duration_s: None,
        retry_wait_s: float = 0.5,
    ) -> None:
        self._store = store
        self._reader = Reader(http, redirects=settings.input_redirects)
        self._settings = settings
        self._tasks = tasks
        self._on_brought = on_brought
        self._on_downloaded = on_downloaded
        self._retry_wait_s = retry_wait_s
        self._flights: dict[Source, _Flight] = {}
        self._memory = Memory(store.root / RECORD)
        self._decoding = asyncio.Semaphore(DECODED_AT_ONCE)

    async def fetch(self, source: Source, *, field: str, accept: tuple[str, ...] = (), again: bool = False) -> Fetched:
        """Fetch ``source`` for ``field`` (its place in the request, for messages).

        ``accept`` narrows what is taken by MIME prefix (``("image/",)``); by default every kind of media is. With
        ``again`` the job had it before (a worker that was restarted prepares anew): what this source gave last is
        used if it is still here, and nobody is asked.

        Raises: UnsafeInput (refused address or form), InputFetchFailed (everything else that is the URL's fault;
        ``details``: ``field``, ``reason``, ``host``), StorageFailed (our disk).
        """
        result = await self._before(source) if again else None
        if isinstance(result, Fetched):
            self._on_brought(result.size_bytes, True)
        result = result or await self._join(source)
        if isinstance(result, Fetched):
            return accepted(result, accept, field=field)
        raise for_field(result, field)

    async def store(
        self, blocks: Iterable[bytes], *, field: str, declared: str = "", accept: tuple[str, ...] = ()
    ) -> Fetched:
        """Take in a file that came inside the request (base64, data URI); same limits and errors as ``fetch``.

        ``blocks`` is read in a thread, each block going to disk before the next is made; it may raise NotInline.
        """
        try:
            async with self._decoding:
                fetched = await asyncio.to_thread(self._write_all, blocks, declared)
        except InputFetchFailed as error:
            raise for_field(error, field) from error
        except (NotInline, NotMedia, OSError) as error:
            raise for_field(problem(error), field) from error
        return accepted(fetched, accept, field=field)

    async def _before(self, source: Source) -> Fetched | ServiceError | None:
        try:
            return (await asyncio.to_thread(self._recall, source))[1]
        except OSError as error:
            return problem(error)

    def _write_all(self, blocks: Iterable[bytes], declared: str) -> Fetched:
        draft = self._store.draft()
        try:
            for block in blocks:
                if draft.size_bytes + len(block) > self._settings.input_max_bytes:
                    raise too_large(self._settings.input_max_bytes)
                draft.write(block)
            return self._store.adopt(draft, declared=declared)
        finally:
            draft.discard()

    async def _join(self, source: Source) -> Fetched | ServiceError:
        flight = self._flights.get(source)
        if flight is None:
            flight = self._flights[source] = _Flight(self._tasks.spawn(self._run(source), name="input-fetch"))
            flight.task.add_done_callback(lambda task: self._landed(source, task))
        flight.waiters += 1
        try:
            return await asyncio.shield(flight.task)
        finally:
            flight.waiters -= 1
            if not flight.waiters and not flight.task.done():
                self._landed(source, flight.task)
                flight.task.cancel()

    def _landed(self, source: Source, task: asyncio.Task[Fetched | ServiceError]) -> None:
        if (flight := self._flights.get(source)) is not None and flight.task is task:
            del self._flights[source]

    async def _run(self, source: Source) -> Fetched | ServiceError:
        """The whole fetch; a failure is a value, because it may have several owners."""
        host = ""
        try:
            host = self._reader.host(source)
            async with asyncio.timeout(self._settings.input_timeout_s):
                return await self._with_retries(source)
        except ServiceError as error:
            return error
        except (NotMedia, OSError, ClientError, Transient) as error:
            log.info("input fetch failed", extra={"event": "input.failed", "host": host, "cause": type(error).__name__})
            return problem(error, host=host)

    async def _with_retries(self, source: Source) -> Fetched:
        async for attempt in stamina.retry_context(
            on=Transient,
            attempts=ATTEMPTS,
            timeout=None,
            wait_initial=self._retry_wait_s,
            wait_jitter=self._retry_wait_s,
        ):
            with attempt:
                return await self._attempt(source)
        raise AssertionError("stamina ends by returning or raising")

    async def _attempt(self, source: Source) -> Fetched:
        begun = time.monotonic()
        known, held = await asyncio.to_thread(self._recall, source)
        asked = known.validators if known and held else {}
        async with self._reader.opened(source, headers=asked, passing=(UNCHANGED,) if asked else ()) as response:
            if response.status == UNCHANGED and held is not None:
                self._on_brought(held.size_bytes, True)
                return held
            fetched = await self._save(source, response)
        validators = {name: response.headers[told] for told, name in VALIDATORS.items() if told in response.headers}
        now = Known(file_name=fetched.path.name, size_bytes=fetched.size_bytes, validators=validators)
        await asyncio.to_thread(self._memory.put, source.identity, now)
        self._on_brought(fetched.size_bytes, False)
        self._on_downloaded(source.url, fetched.path, fetched.size_bytes, time.monotonic() - begun)
        return fetched

    def _recall(self, source: Source) -> tuple[Known | None, Fetched | None]:
        """What this source gave last time, and the file if it is still here and whole."""
        known = self._memory.get(source.identity)
        held = self._store.find(known.file_name) if known else None
        return known, held if held and known and held.size_bytes == known.size_bytes else None

    async def _save(self, source: Source, response: ClientResponse) -> Fetched:
        disposition = response.content_disposition
        name = (disposition.filename if disposition else None) or response.url.name
        limit, host = self._settings.input_max_bytes, told_host(source, response)
        if (response.content_length or 0) > limit:
            raise too_large(limit, host)
        chunks = response.content.iter_any()
        try:
            return await keep(self._store, chunks, limit_bytes=limit, name=name, declared=response.content_type)
        except TooLarge as error:
            raise too_large(limit, host) from error
