"""Files of jobs over HTTP: to who has a signed link, the job's token, or may see the job."""

import asyncio
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol
from urllib.parse import quote

from aiohttp import web

from lib.clock import Clock
from lib.errors import Forbidden, OutputNotFound
from lib.jobs.model import Job, Output
from lib.jobs.service import JobService
from lib.serving.access import CALLER, caller_of, token_of
from lib.serving.signing import Signer

ROUTE = "/outputs/{job_id}/{name}"
MOUNTED = ROUTE.replace("{name}", "{name:[^/]+}")
"""aiohttp's own pattern takes no names with braces."""
SHOWN = frozenset({"image/png", "image/jpeg", "image/webp", "image/gif", "image/avif", "image/bmp", "text/plain"})
"""Besides video and audio, what a browser may show in our origin; the rest is saved: SVG and HTML are programs."""
_POLICY = "sandbox; default-src 'none'; img-src 'self' data:; media-src 'self'; style-src 'unsafe-inline'"


class NamedFile(Protocol):
    """A file of a job: where it really is, and what."""

    @property
    def path(self) -> Path: ...

    @property
    def mime_type(self) -> str: ...


FilesOf = Callable[[Sequence[Output]], Mapping[str, NamedFile]]
"""Every file of a job by its name within the job, thumbnails among them (``lib.delivery.uploads.named_files``)."""


class OutputFiles:
    """``GET`` and ``HEAD /outputs/{job_id}/{name}``, with ranges. ``roots`` tells the folders that the files must lie
    in, wherever links lead."""

    def __init__(
        self,
        *,
        jobs: JobService,
        signer: Signer,
        files_of: FilesOf,
        roots: Callable[[], Sequence[Path]],
        clock: Clock,
    ) -> None:
        self._jobs = jobs
        self._signer = signer
        self._files_of = files_of
        self._roots = roots
        self._clock = clock

    def routes(self) -> Sequence[web.RouteDef]:
        """For the API listener."""
        return [web.get(MOUNTED, self._show)]

    def public_routes(self) -> Sequence[web.RouteDef]:
        """For the public listener, which knows nobody."""
        return [web.get(MOUNTED, self._show_public)]

    async def _show(self, request: web.Request) -> web.StreamResponse:
        if self._opened(request):
            return await self._show_public(request)
        if CALLER not in request and "signature" in request.query:
            raise _bad_link()
        named = request.match_info["job_id"]
        return await self._answer(request, await self._jobs.find(named, owner=caller_of(request).owner))

    async def _show_public(self, request: web.Request) -> web.StreamResponse:
        if self._opened(request):
            return await self._answer(request, await self._jobs.get(request.match_info["job_id"]))
        raise _bad_link() if "signature" in request.query else OutputNotFound("No such file.")

    def _opened(self, request: web.Request) -> bool:
        job_id, name, query = request.match_info["job_id"], request.match_info["name"], request.query
        signature = query.get("signature", "")
        if signature and self._signer.output_valid(
            job_id, name, query.get("expires", ""), signature, self._clock.now()
        ):
            return True
        token = token_of(request)
        return bool(token) and self._signer.job_token_valid(job_id, token)

    async def _answer(self, request: web.Request, job: Job) -> web.StreamResponse:
        name = request.match_info["name"]
        file = self._files_of(job.outputs).get(name)
        if file is None:
            raise OutputNotFound("The job has no file of this name.")
        path = await asyncio.to_thread(_real_file, file.path, self._roots())
        if path is None:
            raise OutputNotFound("The file was cleaned up; finished jobs' files are kept for a limited time.")
        return web.FileResponse(path, headers=_headers(name, file.mime_type))


def _real_file(path: Path, roots: Sequence[Path]) -> Path | None:
    """The file itself, links followed, if it is one and lies in one of the folders."""
    real = Path(os.path.realpath(path))
    if not any(real.is_relative_to(os.path.realpath(root)) for root in roots):
        return None
    return real if real.is_file() else None


def _headers(name: str, mime_type: str) -> dict[str, str]:
    shown = mime_type in SHOWN or mime_type.startswith(("video/", "audio/"))
    plain = "".join(c if c.isascii() and c.isprintable() and c not in '"\\' else "_" for c in name)
    full = quote(name, safe="", errors="replace")
    place = "inline" if shown else "attachment"
    return {
        "Content-Type": f"{mime_type}; charset=utf-8" if mime_type.startswith("text/") else mime_type,
        "Content-Disposition": f"{place}; filename=\"{plain}\"; filename*=UTF-8''{full}",
        "Content-Security-Policy": _POLICY,
        "X-Content-Type-Options": "nosniff",
        "Cache-Control": "private",
    }


def _bad_link() -> Forbidden:
    return Forbidden("The link's signature does not fit, or it has expired; ask for the job's result again.")
