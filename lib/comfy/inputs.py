"""Makes a workflow ready to post: brings its input files in, refuses unsafe ones, draws its placeholders."""

import asyncio
import hashlib
import random
from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, Protocol

from lib.comfy.fields import (
    Form,
    Path,
    Site,
    UploadInputs,
    check_named,
    is_url,
    may_be_base64,
    safe_name,
    sites,
    url_sites,
    used_nodes,
    with_values,
)
from lib.comfy.placing import FOLDER, Placer
from lib.comfy.seclusion import check_stranger
from lib.comfy.separators import Options, repaired
from lib.comfy.uploads import is_upload
from lib.errors import ServiceError, UnsafeInput
from lib.jobs.model import Job, Workflow
from lib.jobs.ports import InputFile, Prepared
from lib.settings import StorageSettings
from lib.storage.inline import blocks, declared_type, holds_media, is_data_uri
from lib.storage.local import Fetched
from lib.storage.problems import for_field, too_large
from lib.storage.sources import Credential, Source
from lib.workflow import placeholders

BIG_WORKFLOW_BYTES = 256 * 1024
"""Workflows above this are gone through in a thread."""
AT_ONCE = 8
"""Inputs of one job that are fetched at the same time."""


class Fetcher(Protocol):
    """Brings a caller's files in, guarded and cached; ``lib.storage.downloads.Downloads`` is one."""

    async def fetch(
        self, source: Source, *, field: str, accept: tuple[str, ...] = (), again: bool = False
    ) -> Fetched: ...

    async def store(
        self, blocks: Iterable[bytes], *, field: str, declared: str = "", accept: tuple[str, ...] = ()
    ) -> Fetched: ...


class Rights(Protocol):
    """Finds what a URL may be read with; ``lib.storage.sources.Sources`` is one."""

    def find(
        self, url: str, *, field: str, credentials: Sequence[Credential] = (), owner: str | None = ""
    ) -> Source: ...


class Uploaded(Protocol):
    """Files that callers sent beforehand; ``lib.comfy.uploads.UploadStore`` is one."""

    async def find(self, reference: str, *, owner: str, field: str, accept: tuple[str, ...] = ()) -> Fetched: ...


class InputPreparer:
    """Implements ``lib.jobs.ports.Preparer``. Inputs come first, then placeholders: a URL is fetched as it is written.

    ``uploads`` tells which inputs of a class ``object_info`` marks for upload, ``options`` the choices of its lists.
    Placeholders are drawn from ``rng`` where it is given, else by the job's id.
    """

    def __init__(
        self,
        *,
        placer: Placer,
        fetcher: Fetcher,
        rights: Rights,
        uploaded: Uploaded,
        settings: StorageSettings,
        uploads: UploadInputs,
        options: Options,
        rng: random.Random | None = None,
    ) -> None:
        self._placer = placer
        self._fetcher = fetcher
        self._rights = rights
        self._uploaded = uploaded
        self._settings = settings
        self._uploads = uploads
        self._options = options
        self._rng = rng

    async def prepare(self, job: Job, workflow: Workflow) -> Prepared:
        """Raises: UnsafeInput, InputFetchFailed, StorageFailed, EngineUnreachable."""
        big = len(job.spec.workflow) >= BIG_WORKFLOW_BYTES
        looked = partial(self._look, workflow, stranger=job.spec.stranger)
        found, changes = await asyncio.to_thread(looked) if big else looked()
        foreign: list[Site] = []
        used = used_nodes(workflow) if found else frozenset()
        for site in found:
            if await _is_content(site):
                foreign.append(site)
                continue
            check_named(site, used)
            if (name := safe_name(site)) != site.value:
                changes[site.path] = name
        paths: tuple[str, ...] = ()
        files: tuple[InputFile, ...] = ()
        if foreign:
            values, files, paths = await self._bring_in(foreign, job)
            changes |= values
        rng = self._rng or placeholders.job_rng(job.job_id)
        filled = partial(placeholders.fill, with_values(workflow, changes), rng=rng)
        graph = await asyncio.to_thread(filled) if big else filled()
        return Prepared(graph=graph, caller_graph=graph, fetched_inputs=paths, files=files)

    def _look(self, workflow: Workflow, *, stranger: bool) -> tuple[list[Site], dict[Path, Any]]:
        """Go through the whole graph: for what may be files, and for paths that have to be written in another way."""
        if stranger:
            check_stranger(workflow, self._uploads)
        found = {site.path: site for site in sites(workflow, self._uploads)}
        if self._settings.input_urls == "any":
            found = {site.path: site for site in url_sites(workflow)} | found
        return list(found.values()), dict(repaired(workflow, self._options))

    async def _bring_in(
        self, found: Sequence[Site], job: Job
    ) -> tuple[dict[Path, Any], tuple[InputFile, ...], tuple[str, ...]]:
        """Fetch and place the files; return what to write into the graph, the files, and all paths where they lie."""
        self._check_paths(found)
        turns = asyncio.Semaphore(AT_ONCE)
        fetched: dict[Path, Fetched] = {}

        async def bring(site: Site) -> None:
            async with turns:
                fetched[site.path] = await self._obtain(site, job)

        try:
            async with asyncio.TaskGroup() as group:
                for site in found:
                    group.create_task(bring(site))
        except ExceptionGroup as errors:
            raise _first(errors) from errors
        changes: dict[Path, Any] = {}
        files: dict[str, InputFile] = {}
        paths: list[str] = []
        for path, together in _by_value(found).items():
            changes[path], names = self._names(together, [fetched[site.path] for site in together])
            for site, name in zip(together, names, strict=True):
                if name not in files:
                    files[name], placed = await self._placer.place(fetched[site.path], name)
                    paths += (*placed, files[name].path)
        return changes, tuple(files.values()), tuple(dict.fromkeys(paths))

    async def _obtain(self, site: Site, job: Job) -> Fetched:
        accept, value = site.kind.accept, site.value.strip() if len(site.value) < 65536 else site.value
        if is_upload(value):
            return await self._uploaded.find(value, owner=job.spec.owner, field=site.label, accept=accept)
        if not is_data_uri(value) and is_url(value):
            nobody = job.spec.stranger and not job.spec.owner
            owner, credentials = None if nobody else job.spec.owner, job.spec.credentials
            source = self._rights.find(value, field=site.label, credentials=credentials, owner=owner)
            return await self._fetcher.fetch(source, field=site.label, accept=accept, again=bool(job.inputs))
        limit = self._settings.input_max_bytes
        if len(value) * 3 // 4 > limit + 1024:  # base64 has four letters for three bytes
            raise for_field(too_large(limit), site.label)
        return await self._fetcher.store(blocks(value), field=site.label, declared=declared_type(value), accept=accept)

    def _check_paths(self, found: Sequence[Site]) -> None:
        """A node that wants a path gets one only where all engines see the same folder."""
        for site in found:
            if site.kind.form in (Form.PATH, Form.FOLDER_PATH) and self._placer.shared_input is None:
                raise UnsafeInput(
                    f"{site.label}: {site.class_type} reads a path, and there is no folder that this worker shares "
                    "with every ComfyUI; use a node that reads an uploaded file",
                    details={"field": site.label, "node_id": str(site.path[0]), "class_type": site.class_type},
                )

    def _names(self, together: Sequence[Site], files: Sequence[Fetched]) -> tuple[str, list[str]]:
        """Name what belongs into one field, one file or a folder of them: the field's new value, and each file's."""
        kind = together[0].kind
        above = f"{kind.under}/{FOLDER}" if kind.under else FOLDER
        if kind.form in (Form.FOLDER, Form.FOLDER_PATH):
            digest = hashlib.sha256("".join(file.sha256 for file in files).encode()).hexdigest()[:32]
            name = f"{above}/{digest}"
            names = [f"{name}/{index:05}{file.extension}" for index, file in enumerate(files)]
        else:
            name = f"{above}/{files[0].sha256[:32]}{files[0].extension}"
            names = [name]
        shared = self._placer.shared_input
        as_path = shared is not None and kind.form in (Form.PATH, Form.FOLDER_PATH)
        return (str(shared / name) if shared is not None and as_path else name), names


async def _is_content(site: Site) -> bool:
    """Whether the value is a URL or the file itself, not a file's name."""
    value = site.value
    if is_data_uri(value) or is_url(value) or _in_folder(site):
        return True
    return may_be_base64(value) and await asyncio.to_thread(holds_media, value)


def _by_value(found: Sequence[Site]) -> dict[Path, list[Site]]:
    """Group the sites by the value in the graph that they fill: a folder's files fill one."""
    groups: defaultdict[Path, list[Site]] = defaultdict(list)
    for site in found:
        groups[site.path[:-1] if _in_folder(site) else site.path].append(site)
    return dict(groups)


def _in_folder(site: Site) -> bool:
    """Whether it is one of the files of a folder, given as a list."""
    return site.kind.form in (Form.FOLDER, Form.FOLDER_PATH) and isinstance(site.path[-1], int)


def _first(errors: ExceptionGroup[Exception]) -> Exception:
    """The first error that a caller can do something about; the others were cancelled or say the same."""
    known, _ = errors.split(ServiceError)
    return (known or errors).exceptions[0]
