"""Makes a workflow ready to post: brings its input files in, refuses unsafe ones, draws its placeholders."""

import asyncio
import base64
import binascii
import hashlib
import random
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, Protocol
from urllib.parse import unquote_to_bytes

import aiohttp

from lib.comfy.fields import (
    Form,
    Path,
    Site,
    UploadInputs,
    check_named,
    is_data_uri,
    is_url,
    may_be_base64,
    safe_name,
    sites,
    url_sites,
    with_values,
)
from lib.comfy.placing import FOLDER, Placer
from lib.comfy.ports import Server
from lib.errors import InputFetchFailed, ServiceError, UnsafeInput
from lib.jobs.model import Job, Workflow
from lib.jobs.ports import Prepared
from lib.settings import StorageSettings
from lib.storage.local import Fetched
from lib.storage.media import NotMedia, sniff
from lib.workflow import placeholders

AT_ONCE = 8
"""Inputs of one job that are fetched at the same time."""


class Fetcher(Protocol):
    """Brings a caller's files in, guarded and cached; ``lib.storage.downloads.Downloads`` is one."""

    async def fetch(self, url: str, *, field: str, accept: tuple[str, ...] = ()) -> Fetched: ...

    async def store_bytes(
        self, data: bytes, *, field: str, declared: str = "", accept: tuple[str, ...] = ()
    ) -> Fetched: ...


class InputPreparer:
    """Implements ``lib.jobs.ports.Preparer``. Inputs come first, then placeholders: a URL is fetched as it is written.

    ``uploads`` tells which inputs of a class ``object_info`` marks for upload.
    """

    def __init__(
        self,
        *,
        servers: Sequence[Server],
        http: aiohttp.ClientSession,
        fetcher: Fetcher,
        settings: StorageSettings,
        uploads: UploadInputs,
        rng: random.Random | None = None,
    ) -> None:
        self._placer = Placer(servers, http=http)
        self._fetcher = fetcher
        self._settings = settings
        self._uploads = uploads
        self._rng = rng or random.SystemRandom()

    async def prepare(self, job: Job, workflow: Workflow) -> Prepared:
        """Raises: UnsafeInput, InputFetchFailed, StorageFailed, EngineUnreachable."""
        found = {site.path: site for site in sites(workflow, self._uploads)}
        if self._settings.input_urls == "any":
            found = {site.path: site for site in url_sites(workflow)} | found
        changes: dict[Path, Any] = {}
        foreign: list[Site] = []
        for site in found.values():
            if await self._is_content(site):
                foreign.append(site)
                continue
            check_named(site, workflow)
            if (name := safe_name(site)) != site.value:
                changes[site.path] = name
        placed: tuple[str, ...] = ()
        if foreign:
            values, placed = await self._bring_in(foreign)
            changes |= values
        graph = placeholders.fill(with_values(workflow, changes), rng=self._rng)
        return Prepared(graph=graph, caller_graph=graph, fetched_inputs=placed)

    async def _is_content(self, site: Site) -> bool:
        """Whether the value is a URL or the file itself, not a file's name."""
        value = site.value
        if is_data_uri(value) or is_url(value) or _in_folder(site):
            return True
        return may_be_base64(value) and await asyncio.to_thread(_holds_media, value)

    async def _bring_in(self, found: Sequence[Site]) -> tuple[dict[Path, Any], tuple[str, ...]]:
        """Fetch and place the files; return what to write into the graph, and where the files lie."""
        self._check_paths(found)
        turns = asyncio.Semaphore(AT_ONCE)
        files: dict[Path, Fetched] = {}

        async def bring(site: Site) -> None:
            async with turns:
                files[site.path] = await self._obtain(site)

        try:
            async with asyncio.TaskGroup() as group:
                for site in found:
                    group.create_task(bring(site))
        except ExceptionGroup as errors:
            raise _first(errors) from errors
        changes: dict[Path, Any] = {}
        placed: list[str] = []
        for path, together in _by_value(found).items():
            name, paths = await self._place(together, [files[site.path] for site in together])
            changes[path] = name
            placed += paths
        return changes, tuple(dict.fromkeys(placed))

    async def _obtain(self, site: Site) -> Fetched:
        accept = site.kind.accept
        if not is_data_uri(site.value) and is_url(site.value):
            return await self._fetcher.fetch(site.value.strip(), field=site.label, accept=accept)
        self._check_size(site)
        declared, data = await asyncio.to_thread(_decoded, site)
        return await self._fetcher.store_bytes(data, field=site.label, declared=declared, accept=accept)

    def _check_size(self, site: Site) -> None:
        """Refuse inline data before it is decoded; base64 has four letters for three bytes."""
        limit = self._settings.input_max_bytes
        if len(site.value) * 3 // 4 > limit + 1024:
            raise InputFetchFailed(
                f"{site.label}: the file is larger than INPUT_MAX_BYTES ({limit} bytes)",
                details={"field": site.label, "reason": "too_large", "limit_bytes": limit},
            )

    def _check_paths(self, found: Sequence[Site]) -> None:
        """A node that wants a path gets one only where all engines see the same folder."""
        for site in found:
            if site.kind.form in (Form.PATH, Form.FOLDER_PATH) and self._placer.shared_input is None:
                raise UnsafeInput(
                    f"{site.label}: {site.class_type} reads a path, and there is no folder that this worker shares "
                    "with every ComfyUI; use a node that reads an uploaded file",
                    details={"field": site.label, "node_id": str(site.path[0]), "class_type": site.class_type},
                )

    async def _place(self, together: Sequence[Site], files: Sequence[Fetched]) -> tuple[str, list[str]]:
        """Place what belongs into one field: one file, or a folder of them; return the field's new value."""
        kind = together[0].kind
        above = f"{kind.under}/{FOLDER}" if kind.under else FOLDER
        if kind.form in (Form.FOLDER, Form.FOLDER_PATH):
            digest = hashlib.sha256("".join(file.sha256 for file in files).encode()).hexdigest()[:32]
            name = f"{above}/{digest}"
            names = [f"{name}/{index:05}{file.extension}" for index, file in enumerate(files)]
        else:
            name = f"{above}/{files[0].sha256[:32]}{files[0].extension}"
            names = [name]
        placed: list[str] = []
        for file, target in zip(files, names, strict=True):
            placed += await self._placer.place(file, target)
        shared = self._placer.shared_input
        as_path = shared is not None and kind.form in (Form.PATH, Form.FOLDER_PATH)
        return (str(shared / name) if shared is not None and as_path else name), placed


def _by_value(found: Sequence[Site]) -> dict[Path, list[Site]]:
    """Group the sites by the value in the graph that they fill: a folder's files fill one."""
    groups: defaultdict[Path, list[Site]] = defaultdict(list)
    for site in found:
        groups[site.path[:-1] if _in_folder(site) else site.path].append(site)
    return dict(groups)


def _in_folder(site: Site) -> bool:
    """Whether it is one of the files of a folder, given as a list."""
    return site.kind.form in (Form.FOLDER, Form.FOLDER_PATH) and isinstance(site.path[-1], int)


def _holds_media(value: str) -> bool:
    """Whether the beginning decodes to a kind of file that we know."""
    try:
        head = base64.b64decode(_standard(value[:8192]), validate=True)
        return not sniff(head).mime_type.startswith(("application/", "text/"))
    except (binascii.Error, NotMedia):
        return False


def _decoded(site: Site) -> tuple[str, bytes]:
    """Return the declared MIME type and the bytes of inline data. Raises: InputFetchFailed."""
    declared, payload, encoded = "", site.value, True
    if is_data_uri(site.value):
        head, comma, payload = site.value[5:].partition(",")
        declared, encoded = head.split(";")[0], head.lower().endswith(";base64")
        if not comma:
            raise _undecodable(site, "a data URI without a comma")
    if not encoded:
        return declared, unquote_to_bytes(payload)
    try:
        return declared, base64.b64decode(_standard("".join(payload.split())), validate=True)
    except (binascii.Error, ValueError) as error:
        raise _undecodable(site, str(error)) from error


def _standard(text: str) -> str:
    """Base64 in either alphabet, padded or not, as the strict decoder wants it."""
    text = text.translate({ord("-"): "+", ord("_"): "/"}).rstrip("=")
    return text + "=" * (-len(text) % 4)


def _undecodable(site: Site, reason: str) -> InputFetchFailed:
    return InputFetchFailed(
        f"{site.label}: inline data can't be decoded: {reason}", details={"field": site.label, "reason": "not_base64"}
    )


def _first(errors: ExceptionGroup[Exception]) -> Exception:
    """The first error that a caller can do something about; the others were cancelled or say the same."""
    known, _ = errors.split(ServiceError)
    return (known or errors).exceptions[0]
