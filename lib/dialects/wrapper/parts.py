"""A request as ``multipart/form-data``: the part ``request`` is the JSON, every other one is a file for a node.

A value ``upload://<part's name>`` in the workflow or in the modifications stands for that file. A web page can send
such a body across origins unasked, so it counts only with a header of ours, which a page can't set there.
"""

import re
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from aiohttp import BodyPartReader, web
from aiohttp.http_exceptions import HttpProcessingError

from lib.errors import BodyTooLarge, InvalidRequest
from lib.serving.payloads import give_up_body
from lib.workflow.decoding import check, invalid

MULTIPART_TYPE = "multipart/form-data"
MULTIPART_HEADER = "X-Pyworker-Multipart"
REQUEST_PART = "request"
SCHEME = "upload://"
MAX_PARTS = 64
_CHUNK_BYTES = 256 * 1024
_MAX_NAME_CHARS = 200
_IN = ("workflow_json", "modifications")
_PART_NAME = re.compile(r"[^\x00-\x1f\x7f]{1,200}")


class SaveUpload(Protocol):
    """Keeps a file and returns the value by which the owner's jobs can name it (``lib.comfy.uploads``)."""

    async def __call__(self, chunks: AsyncIterator[bytes], *, filename: str, owner: str) -> str: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Uploads:
    """Where the files of a request go; ``max_bytes`` bounds each one."""

    save: SaveUpload
    max_bytes: int


def is_form(request: web.Request) -> bool:
    """Whether the body comes in parts, with our header. Raises: HTTPUnsupportedMediaType without it."""
    if request.content_type != MULTIPART_TYPE:
        return False
    if request.headers.get(MULTIPART_HEADER) != "1":
        raise web.HTTPUnsupportedMediaType(text=f"A {MULTIPART_TYPE} body needs the header '{MULTIPART_HEADER}: 1'")
    return True


async def read_form(
    request: web.Request, *, limit: int, uploads: Uploads, owner: str
) -> tuple[bytes, Mapping[str, str]]:
    """Store the files as they come; return the JSON and, by part, what stands for each file.

    Raises: InvalidRequest, BodyTooLarge (the JSON is over ``limit`` bytes, or a file), and what saving raises.
    """
    body: bytes | None = None
    stored: dict[str, str] = {}
    try:
        async for number, part in _parts(request):
            name = part.name or ""
            if number > MAX_PARTS or not _PART_NAME.fullmatch(name) or name in stored:
                raise invalid(f"Part {number}: expected at most {MAX_PARTS} parts, each with a name of its own")
            if name == REQUEST_PART:
                body = await _read(part, limit)
            else:
                chunks = _chunks(part, uploads.max_bytes)
                stored[name] = await uploads.save(chunks, filename=part.filename or name, owner=owner)
    except (web.RequestPayloadError, HttpProcessingError) as error:
        give_up_body(request)
        raise _broken(error) from error
    except (ValueError, EOFError) as error:  # what is left of the body is still to come, and aiohttp's to read
        raise _broken(error) from error
    if body is None:
        raise invalid(f"There is no part '{REQUEST_PART}' with the JSON", loc=(REQUEST_PART,))
    return body, stored


def _broken(error: Exception) -> InvalidRequest:
    return invalid(f"The multipart body is broken: {type(error).__name__}", kind="body_encoding")


def with_files(body: bytes, stored: Mapping[str, str]) -> Any:
    """Decode the JSON and put what stands for the files where they are named. Raises: InvalidRequest."""
    payload: Any = check(body)
    asked = payload.get("input") if isinstance(payload, dict) else None
    if not isinstance(asked, dict):
        return payload
    filled = {name: _filled(asked[name], stored, loc=("input", name)) for name in _IN if name in asked}
    return payload | {"input": asked | filled}


def _filled(value: Any, stored: Mapping[str, str], *, loc: tuple[str | int, ...]) -> Any:
    if isinstance(value, dict):
        return {name: _filled(item, stored, loc=(*loc, name)) for name, item in value.items()}
    if isinstance(value, list):
        return [_filled(item, stored, loc=(*loc, index)) for index, item in enumerate(value)]
    if not isinstance(value, str) or not value.startswith(SCHEME):
        return value
    name = value.removeprefix(SCHEME)
    if name not in stored:
        known = ", ".join(sorted(stored)) or "none"
        raise invalid(f"There is no file part of the name {name[:_MAX_NAME_CHARS]!r}; those sent: {known}", loc=loc)
    return stored[name]


async def _parts(request: web.Request) -> AsyncIterator[tuple[int, BodyPartReader]]:
    reader, number = await request.multipart(), 0
    while (part := await reader.next()) is not None:
        number += 1
        if not isinstance(part, BodyPartReader):
            raise InvalidRequest("A part may not hold parts itself")
        yield number, part


async def _read(part: BodyPartReader, limit: int) -> bytes:
    return b"".join([chunk async for chunk in _chunks(part, limit)])


async def _chunks(part: BodyPartReader, limit: int) -> AsyncIterator[bytes]:
    size = 0
    while chunk := await part.read_chunk(_CHUNK_BYTES):
        size += len(chunk)
        if size > limit:
            raise BodyTooLarge(f"The part '{part.name}' is larger than {limit} bytes", details={"limit_bytes": limit})
        yield bytes(chunk)
