"""Every fetch of a caller's URL: guarded, streamed to disk, capped in size and time, recognised by content, cached.

One fetch runs per URL however many jobs want it. A URL seen before is asked again with its validators (``ETag``,
``Last-Modified``), so that a changed picture is never served stale. Messages and logs name hosts, never whole URLs.
"""

import asyncio
import hashlib
import logging
from collections import OrderedDict
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass

import stamina
from aiohttp import (
    ClientConnectionError,
    ClientConnectorCertificateError,
    ClientConnectorSSLError,
    ClientError,
    ClientPayloadError,
    ClientResponse,
)

from lib.errors import InputFetchFailed, ServiceError, StorageFailed
from lib.lifecycle import Tasks
from lib.settings import StorageSettings
from lib.storage.http import GuardedHttp
from lib.storage.local import ContentStore, Fetched
from lib.storage.media import NotMedia

log = logging.getLogger(__name__)
BLOCK_BYTES = 1 << 20
"""Read this much before a thread writes it: fewer hops, bounded memory."""
ATTEMPTS = 3
REMEMBERED_URLS = 10_000
EXPECTED = "an image, audio, video or 3D file"


class _Transient(Exception):
    """An attempt failed in a way that the next one may not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Known:
    """What a URL gave last time."""

    file_name: str
    validators: Mapping[str, str]


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
        retry_wait_s: float = 0.5,
    ) -> None:
        self._store = store
        self._http = http
        self._settings = settings
        self._tasks = tasks
        self._retry_wait_s = retry_wait_s
        self._flights: dict[str, _Flight] = {}
        self._known: OrderedDict[bytes, _Known] = OrderedDict()

    async def fetch(self, url: str, *, field: str, accept: tuple[str, ...] = ()) -> Fetched:
        """Fetch ``url`` for ``field`` (its place in the request, for messages).

        ``accept`` narrows what is taken by MIME prefix (``("image/",)``); by default every kind of media is.

        Raises: UnsafeInput (refused address or form), InputFetchFailed (everything else that is the URL's fault;
        ``details``: ``field``, ``reason``, ``host``), StorageFailed (our disk).
        """
        result = await self._join(url)
        if isinstance(result, Fetched):
            return _accepted(result, accept, field=field)
        raise _for_field(result, field)

    async def store_bytes(
        self, data: bytes, *, field: str, declared: str = "", accept: tuple[str, ...] = ()
    ) -> Fetched:
        """Take in a file that came inside the request (base64, data URI); same limits and errors as ``fetch``."""
        if len(data) > self._settings.input_max_bytes:
            raise _for_field(self._too_large(""), field)
        try:
            fetched = await asyncio.to_thread(self._write_once, data, declared)
        except (NotMedia, OSError) as error:
            raise _for_field(_problem(error, host=""), field) from error
        return _accepted(fetched, accept, field=field)

    def _write_once(self, data: bytes, declared: str) -> Fetched:
        draft = self._store.draft()
        draft.write(data)
        return self._store.adopt(draft, declared=declared)

    async def _join(self, url: str) -> Fetched | ServiceError:
        flight = self._flights.get(url)
        if flight is None:
            flight = self._flights[url] = _Flight(self._tasks.spawn(self._run(url), name="input-fetch"))
            flight.task.add_done_callback(lambda task: self._landed(url, task))
        flight.waiters += 1
        try:
            return await asyncio.shield(flight.task)
        finally:
            flight.waiters -= 1
            if not flight.waiters and not flight.task.done():
                self._landed(url, flight.task)
                flight.task.cancel()

    def _landed(self, url: str, task: asyncio.Task[Fetched | ServiceError]) -> None:
        if (flight := self._flights.get(url)) is not None and flight.task is task:
            del self._flights[url]

    async def _run(self, url: str) -> Fetched | ServiceError:
        """The whole fetch; a failure is a value, because it may have several owners."""
        host = ""
        try:
            host = self._http.guard.check_url(url).host or ""
            async with asyncio.timeout(self._settings.input_timeout_s):
                return await self._with_retries(url)
        except ServiceError as error:
            return error
        except (NotMedia, OSError, ClientError, _Transient) as error:
            log.info("input fetch failed", extra={"event": "input.failed", "host": host, "cause": type(error).__name__})
            return _problem(error, host=host)

    async def _with_retries(self, url: str) -> Fetched:
        async for attempt in stamina.retry_context(
            on=_Transient,
            attempts=ATTEMPTS,
            timeout=None,
            wait_initial=self._retry_wait_s,
            wait_jitter=self._retry_wait_s,
        ):
            with attempt:
                try:
                    return await self._attempt(url)
                except (ClientConnectorCertificateError, ClientConnectorSSLError):
                    raise
                except (ClientConnectionError, ClientPayloadError) as error:
                    raise _Transient(_connection_text(error)) from error
        raise AssertionError("stamina ends by returning or raising")

    async def _attempt(self, url: str) -> Fetched:
        key = hashlib.sha256(url.encode("utf-8", "surrogatepass")).digest()
        known = self._known.get(key)
        held = await asyncio.to_thread(self._store.find, known.file_name) if known else None
        headers = known.validators if known and held else {}
        async with self._http.stream(url, max_redirects=self._settings.input_redirects, headers=headers) as response:
            if response.status == 304 and held is not None:
                return held
            self._check_status(response)
            fetched = await self._save(response)
        self._remember(key, fetched, response)
        return fetched

    def _check_status(self, response: ClientResponse) -> None:
        host = response.url.host or ""
        if response.status >= 500:
            raise _Transient(f"answered with status {response.status}")
        if not 200 <= response.status < 300:
            details = {"reason": "status", "status": response.status, "host": host}
            raise InputFetchFailed(f"host {host!r} answered with status {response.status}", details=details)
        if (response.content_length or 0) > self._settings.input_max_bytes:
            raise self._too_large(host)

    async def _save(self, response: ClientResponse) -> Fetched:
        disposition = response.content_disposition
        name = (disposition.filename if disposition else None) or response.url.name
        draft = await asyncio.to_thread(self._store.draft)
        try:
            async for block in _blocks(response):
                if draft.size_bytes + len(block) > self._settings.input_max_bytes:
                    raise self._too_large(response.url.host or "")
                await asyncio.to_thread(draft.write, block)
            return await asyncio.to_thread(self._store.adopt, draft, name=name, declared=response.content_type)
        finally:
            asyncio.get_running_loop().run_in_executor(None, draft.discard)

    def _remember(self, key: bytes, fetched: Fetched, response: ClientResponse) -> None:
        names = {"ETag": "If-None-Match", "Last-Modified": "If-Modified-Since"}
        validators = {names[name]: response.headers[name] for name in names if name in response.headers}
        self._known.pop(key, None)
        if validators:
            self._known[key] = _Known(file_name=fetched.path.name, validators=validators)
            while len(self._known) > REMEMBERED_URLS:
                self._known.popitem(last=False)

    def _too_large(self, host: str) -> InputFetchFailed:
        limit = self._settings.input_max_bytes
        return InputFetchFailed(
            f"the file is larger than INPUT_MAX_BYTES ({limit} bytes)",
            details={"reason": "too_large", "limit_bytes": limit, "host": host},
        )


async def _blocks(response: ClientResponse) -> AsyncIterator[bytes]:
    buffer = bytearray()
    async for chunk in response.content.iter_any():
        buffer += chunk
        if len(buffer) >= BLOCK_BYTES:
            yield bytes(buffer)
            buffer.clear()
    if buffer:
        yield bytes(buffer)


def _connection_text(error: Exception) -> str:
    """Name the cause without the library's text, which may hold the URL."""
    if isinstance(error, TimeoutError):
        return "did not answer in time"
    if isinstance(error, ClientPayloadError):
        return "broke the transfer off"
    cause = getattr(error, "os_error", None)
    return f"can't be reached ({cause.strerror})" if cause is not None and cause.strerror else "can't be reached"


def _problem(error: Exception, *, host: str) -> ServiceError:
    """The one place where a failed fetch becomes an error of ours; the field comes in ``_for_field``."""
    where = f"host {host!r} " if host else ""
    if isinstance(error, NotMedia):
        text = f"{where}answered with {error}" if where else f"it is {error}"
        return InputFetchFailed(f"{text}, expected {EXPECTED}", details={"reason": "not_media", "host": host})
    if isinstance(error, TimeoutError):
        return InputFetchFailed(f"{where}took too long", details={"reason": "timeout", "host": host})
    if isinstance(error, _Transient):
        return InputFetchFailed(f"{where}{error}", details={"reason": "unreachable", "host": host})
    if isinstance(error, ClientConnectorCertificateError | ClientConnectorSSLError):
        return InputFetchFailed(f"{where}has no valid TLS certificate", details={"reason": "tls", "host": host})
    if isinstance(error, ClientError):
        return InputFetchFailed(
            f"{where}can't be used: {type(error).__name__}", details={"reason": "http", "host": host}
        )
    return StorageFailed(f"the input can't be stored: {getattr(error, 'strerror', None) or type(error).__name__}")


def _for_field(error: ServiceError, field: str) -> ServiceError:
    kind: type[ServiceError] = type(error)
    return kind(f"{field}: {error.message}", details={"field": field, **error.details})


def _accepted(fetched: Fetched, accept: tuple[str, ...], *, field: str) -> Fetched:
    if accept and not fetched.mime_type.startswith(accept):
        kinds = " or ".join(prefix.rstrip("/") for prefix in accept)
        raise InputFetchFailed(
            f"{field}: the file is {fetched.mime_type}, expected {kinds}",
            details={"field": field, "reason": "wrong_kind", "mime_type": fetched.mime_type, "expected": kinds},
        )
    return fetched
