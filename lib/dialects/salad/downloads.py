"""``/download``: a model is brought to where ComfyUI looks for it. Checks what is asked for; who brings it is injected.

A name is a name: no folders, nothing that a system takes for anything else. Code is not brought in this way.
"""

import logging
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from http import HTTPStatus
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit

from aiohttp import web

from lib.dialects.salad.credentials import credential
from lib.dialects.salad.schema import SaladDownload, parse
from lib.dialects.salad.translate import NAME
from lib.errors import InvalidRequest, Overloaded, ServiceError
from lib.jobs.model import Credential, JobStatus
from lib.lifecycle import Tasks
from lib.serving.payloads import json_response
from lib.workflow.parameters import Options

log = logging.getLogger(__name__)
SCHEMES = ("http", "https", "s3")
MAX_NAME_BYTES = 255
MAX_URL_CHARS = 8192
MOST_WAITING = 100
"""Downloads that nobody waits for, under way or in line."""
CODE_FOLDERS = frozenset({"custom_nodes"})
"""ComfyUI lists them among its folders, and runs what lies there."""
_UNFIT = frozenset('/\\:<>"|?*')


class BroughtModel(Protocol):
    """A model that is there. ``filename``: what ComfyUI lists it as; ``duration_s``: how long it took."""

    @property
    def filename(self) -> str: ...

    @property
    def size_bytes(self) -> int: ...

    @property
    def duration_s(self) -> float: ...


class Models(Protocol):
    """ComfyUI's models: what there is, and bringing more."""

    async def listed(self, *, tenant: str) -> dict[str, list[str]]:
        """Return the names of the models by type, as every ComfyUI lists them now; types without any too. What other
        tenants brought is left out.

        Raises: EngineUnreachable."""
        ...

    def shown(self, options: Options, *, tenant: str | None) -> Options:
        """Return ComfyUI's choices without what other tenants brought; ``None``: any tenant."""
        ...

    async def types(self) -> Sequence[str]:
        """Return the types that a model may be brought as. Raises: EngineUnreachable."""
        ...

    async def bring(
        self,
        *,
        url: str,
        model_type: str,
        filename: str | None,
        credentials: Sequence[Credential],
        owner: str,
        dialect: str,
    ) -> BroughtModel:
        """Have a model downloaded, once for all who ask at the same time. It is called ``filename``, else as the URL
        calls it; ``owner`` is the tenant who asks.

        Raises: InvalidRequest, UnsafeInput, InputFetchFailed, StorageFailed, EngineUnreachable."""
        ...


Bring = Callable[[], Awaitable[BroughtModel]]


class Downloading:
    """Answers ``/download``. Who does not wait is answered at once; how it ends is logged."""

    def __init__(self, *, models: Models, tasks: Tasks) -> None:
        self._models = models
        self._tasks = tasks
        self._waiting_count = 0

    async def answer(self, body: object, *, owner: str) -> web.Response:
        """Return what became of a request (decoded JSON). Raises: InvalidRequest, Overloaded, and what ``bring``
        raises to whoever waits."""
        asked = parse(SaladDownload, body)
        _check_url(asked.url)
        await self._check_type(asked.model_type)
        if asked.filename is not None:
            _check_name(asked.filename, "filename")
        told = {"url": asked.url, "model_type": asked.model_type, "filename": asked.filename or name_of(asked.url)}
        bring = partial(
            self._models.bring,
            url=asked.url,
            model_type=asked.model_type,
            filename=asked.filename,
            credentials=() if asked.auth is None else (credential(asked.auth),),
            owner=owner,
            dialect=NAME,
        )
        if asked.wait:
            return json_response(told | _completed(await bring()))
        if self._waiting_count >= MOST_WAITING:
            raise Overloaded(f"{MOST_WAITING} downloads are under way; ask again later.", retry_after_s=30)
        self._waiting_count += 1
        self._tasks.spawn(self._bring(bring, asked.model_type), name="salad.download")
        return json_response(told | {"status": "started"}, status=HTTPStatus.ACCEPTED)

    async def _bring(self, bring: Bring, model_type: str) -> None:
        facts = {"event": "model.download", "model_type": model_type}
        try:
            brought = await bring()
        except ServiceError as error:
            log.warning("a model could not be downloaded", extra={**facts, "cause": error.message})
        else:
            log.info("a model was downloaded", extra={**facts, "model": brought.filename, "bytes": brought.size_bytes})
        finally:
            self._waiting_count -= 1

    async def _check_type(self, model_type: str) -> None:
        known = sorted({*await self._models.types()} - CODE_FOLDERS)
        if model_type not in known:
            text = f"Unknown model type: {model_type[:100]}; expected one of {', '.join(known)}"
            raise _refused(text, "model_type")


def name_of(url: str) -> str:
    """Return the last part of a URL's path."""
    return unquote(urlsplit(url).path).rpartition("/")[2]


def _completed(brought: BroughtModel) -> dict[str, Any]:
    return {
        "filename": brought.filename,
        "status": JobStatus.COMPLETED,
        "size": brought.size_bytes,
        "duration": round(brought.duration_s, 3),
    }


def _check_url(url: str) -> None:
    try:
        parts = urlsplit(url)
        usable = len(url) <= MAX_URL_CHARS and bool(parts.hostname)
    except ValueError:
        usable, parts = False, urlsplit("")
    if not usable:
        raise _refused("url must be a URL, with a scheme and a host", "url")
    if parts.scheme.lower() not in SCHEMES:
        raise _refused(f"No storage provider found for URL: its scheme must be one of {', '.join(SCHEMES)}", "url")
    if (name := name_of(url)) and not _is_name(name):
        raise _refused("the last part of the URL's path is no file name; name the file with filename", "url")


def _check_name(name: str, place: str) -> None:
    if not _is_name(name):
        text = f"{place} must be a file name of 1 to {MAX_NAME_BYTES} bytes, without folders"
        raise _refused(text, place)


def _is_name(name: str) -> bool:
    size = len(name.encode("utf-8", "replace"))
    return 0 < size <= MAX_NAME_BYTES and name[0] not in ".~ " and name.isprintable() and not _UNFIT & set(name)


def _refused(message: str, place: str) -> InvalidRequest:
    problem = {"type": "value_error", "loc": [place], "msg": message}
    return InvalidRequest(message, details={"field": place, "errors": [problem]})
