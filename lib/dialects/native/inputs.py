"""Files that callers send beforehand, as a plain body or as multipart; streamed to where inputs are kept."""

from collections.abc import AsyncIterator
from pathlib import PurePosixPath
from typing import Protocol

from aiohttp import BodyPartReader, MultipartReader, web
from aiohttp.http_exceptions import HttpProcessingError

from lib.dialects.native.schema import UploadedInput, UploadedInputs
from lib.dialects.native.translate import dumped
from lib.errors import InvalidRequest
from lib.serving.access import caller_of
from lib.serving.payloads import give_up_body, json_response

ROUTE = "/inputs"
NAME_HEADER = "X-Filename"
MARK_HEADER = "X-Pyworker-Multipart"
MOST_FILES = 100
MOST_NAME = 255
CHUNK_BYTES = 256 * 1024
CREATED = 201


class SaveUpload(Protocol):
    """Keeps a file and returns the reference by which the owner's jobs can name it (``lib.comfy.uploads``)."""

    async def __call__(self, chunks: AsyncIterator[bytes], *, filename: str, owner: str) -> str: ...


class Inputs:
    """``POST /inputs``; ``save`` bounds each file.

    Multipart needs our header, since a web page could send it across origins unasked; the name of a plain body is in
    a header of ours anyway.
    """

    def __init__(self, *, save: SaveUpload) -> None:
        self._save = save

    def routes(self) -> list[web.RouteDef]:
        """The one route."""
        return [web.post(ROUTE, self._upload)]

    async def _upload(self, request: web.Request) -> web.Response:
        owner = caller_of(request).tenant
        try:
            if request.content_type.startswith("multipart/"):
                saved = await self._parts(request, owner)
            else:
                saved = [await self._body(request, owner)]
        except (ValueError, web.RequestPayloadError, HttpProcessingError) as error:
            if not isinstance(error, ValueError):  # then what is left of the body is still to come: aiohttp reads it
                give_up_body(request)
            raise _wrong("body", "a complete body, multipart/form-data or plain") from error
        return json_response(dumped(UploadedInputs(inputs=saved)), status=CREATED)

    async def _body(self, request: web.Request, owner: str) -> UploadedInput:
        name = request.headers.get(NAME_HEADER, "")
        if not name:
            raise _wrong(NAME_HEADER, "the file's name in this header, or multipart/form-data")
        return await self._keep(request.content.iter_chunked(CHUNK_BYTES), name, owner)

    async def _parts(self, request: web.Request, owner: str) -> list[UploadedInput]:
        if MARK_HEADER not in request.headers:
            raise _wrong(MARK_HEADER, "this header, with the value 1, beside multipart/form-data")
        saved: list[UploadedInput] = []
        async for part in await request.multipart():
            if isinstance(part, MultipartReader) or part is None or not part.filename:
                continue  # a form's plain field
            if len(saved) >= MOST_FILES:
                raise _wrong("body", f"at most {MOST_FILES} files")
            saved.append(await self._keep(_chunks(part), part.filename, owner))
        if not saved:
            raise _wrong("body", "at least one part with a filename")
        return saved

    async def _keep(self, chunks: AsyncIterator[bytes], name: str, owner: str) -> UploadedInput:
        plain = PurePosixPath(name.replace("\\", "/")).name
        if plain in ("", "..") or not plain.isprintable() or len(plain) > MOST_NAME:
            raise _wrong("filename", f"a printable name of at most {MOST_NAME} characters")
        counted = _Counted(chunks)
        reference = await self._save(aiter(counted), filename=plain, owner=owner)
        return UploadedInput(reference=reference, filename=plain, size_bytes=counted.size_bytes)


class _Counted:
    """Hands chunks on and adds them up."""

    def __init__(self, chunks: AsyncIterator[bytes]) -> None:
        self._chunks = chunks
        self.size_bytes = 0

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._chunks:
            self.size_bytes += len(chunk)
            yield chunk


async def _chunks(part: BodyPartReader) -> AsyncIterator[bytes]:
    while chunk := await part.read_chunk(CHUNK_BYTES):
        yield bytes(chunk)


def _wrong(name: str, expected: str) -> InvalidRequest:
    place = ["header", name] if name.startswith("X-") else ["body"]
    problem = {"type": "value_error", "loc": place, "msg": f"expected {expected}"}
    return InvalidRequest(f"{name}: expected {expected}", details={"field": name, "errors": [problem]})
