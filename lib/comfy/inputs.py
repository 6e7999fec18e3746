"""Makes a workflow ready to post: brings its input files in, refuses unsafe ones, draws its placeholders."""

import asyncio
import hashlib
import random
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

from lib.comfy import named, separators
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
from lib.comfy.models.fields import ModelSite
from lib.comfy.models.fields import url_sites as model_sites
from lib.comfy.models.inputs import Brought, ModelInputs
from lib.comfy.placing import FOLDER, Placer
from lib.comfy.seclusion import check_stranger
from lib.comfy.separators import Options
from lib.comfy.uploads import is_upload
from lib.errors import ServiceError, UnsafeInput
from lib.jobs.model import Job, NamedInput, Workflow
from lib.jobs.ports import Aside, InputFile, Prepared, Tell, untold
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
PREFIX_CHARS = 300
"""In which a file's prefix ends, such as ``data:image/png;base64,``."""


NO_MODELS = Brought(names={})


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
        self, url: str, *, field: str, credentials: Sequence[Credential] = (), owner: str | None = "", dialect: str = ""
    ) -> Source: ...


class Uploaded(Protocol):
    """Files that callers sent beforehand; ``lib.comfy.uploads.UploadStore`` is one."""

    async def find(self, reference: str, *, owner: str, field: str, accept: tuple[str, ...] = ()) -> Fetched: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seen:
    """What a graph holds for us: the places of the request's own files, other strings that may be files, URLs that may
    be models, and paths that have to be written in another way."""

    named: list[Site]
    found: list[Site]
    models: list[ModelSite]
    changes: dict[Path, Any]


class InputPreparer:
    """Implements ``lib.jobs.ports.Preparer``. Inputs come first, then placeholders: a URL is fetched as it is written.

    ``uploads`` tells which inputs of a class ``object_info`` marks for upload, ``options`` the choices of its lists;
    ``models`` brings in what is a model. Placeholders are drawn from ``rng`` where it is given, else by the job's id.
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
        models: ModelInputs | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self._placer = placer
        self._fetcher = fetcher
        self._rights = rights
        self._uploaded = uploaded
        self._settings = settings
        self._uploads = uploads
        self._options = options
        self._models = models
        self._rng = rng

    async def prepare(
        self, job: Job, workflow: Workflow, *, tell: Tell = untold, aside: Aside = nullcontext
    ) -> Prepared:
        """Raises: InvalidRequest, UnsafeInput, InputFetchFailed, StorageFailed, EngineUnreachable."""
        named.check_names(job.spec.files)
        big = len(job.spec.workflow) >= BIG_WORKFLOW_BYTES
        looked = partial(self._look, workflow, job)
        seen = await asyncio.to_thread(looked) if big else looked()
        foreign: list[Site] = []
        models = NO_MODELS
        if self._models and seen.models:
            models = await self._models.bring(seen.models, job, tell=tell, aside=aside)
        changes = seen.changes
        used = used_nodes(workflow) if seen.found else frozenset()
        for site in seen.found:
            if site.path in models.names:
                continue
            if await _is_content(site):
                foreign.append(site)
                continue
            if site.kind.loose:
                continue
            check_named(site, used)
            if (name := safe_name(site)) != site.value:
                changes[site.path] = name
        warnings = separators.told(changes) + named.unused(job.spec.files, seen.named)
        paths: tuple[str, ...] = ()
        files: tuple[InputFile, ...] = ()
        if foreign or job.spec.files:
            fetched = await self._bring_in(seen.named, foreign, job)
            values, files, paths = await self._place([*seen.named, *foreign], fetched)
            changes |= values
        changes |= models.names
        graph = with_values(workflow, changes)
        if placeholders.TOKEN_BYTES in job.spec.workflow:
            rng = self._rng or placeholders.job_rng(job.job_id)
            filled = partial(placeholders.fill, graph, rng=rng)
            graph = await asyncio.to_thread(filled) if big else filled()
        shown = with_values(graph, {site.path: site.value for site in map(_whole, seen.named)})
        return Prepared(
            graph=graph,
            caller_graph=shown,
            fetched_inputs=paths,
            files=files,
            holds=models.holds,
            warnings=warnings,
        )

    def _look(self, workflow: Workflow, job: Job) -> _Seen:
        """Go through the whole graph."""
        if job.spec.stranger:
            check_stranger(workflow, self._uploads)
        own: list[Site] = []
        if job.spec.files:
            own = named.uses(workflow, job.spec.files, uploads=self._uploads, options=self._options)
        found = {site.path: site for site in sites(workflow, self._uploads)}
        models = [site for site in model_sites(workflow) if site.path not in found] if self._models else []
        if self._settings.input_urls == "any":
            found = {site.path: site for site in url_sites(workflow)} | found
        changes: dict[Path, Any] = dict(separators.repaired(workflow, self._options))
        for site in own:
            for path in (site.path, _whole(site).path):
                found.pop(path, None)
                changes.pop(path, None)
        return _Seen(named=own, found=list(found.values()), models=models, changes=changes)

    async def _bring_in(self, own: Sequence[Site], foreign: Sequence[Site], job: Job) -> dict[Path, Fetched]:
        """Fetch the request's own files, and what else is no name."""
        self._check_paths([*own, *foreign])

        async def obtain(file: NamedInput) -> Fetched:
            return await self._obtain(_without_prefix(file.value), job, field=file.field)

        fetched = await named.obtained(job.spec.files, own, obtain)
        return fetched | await self._obtain_all(foreign, job)

    async def _obtain_all(self, found: Sequence[Site], job: Job) -> dict[Path, Fetched]:
        turns = asyncio.Semaphore(AT_ONCE)
        fetched: dict[Path, Fetched] = {}

        async def bring(site: Site) -> None:
            async with turns:
                try:
                    accept = site.kind.accept
                    fetched[site.path] = await self._obtain(site.value, job, field=site.label, accept=accept)
                except ServiceError as error:
                    where = {"node_id": str(site.path[0]), "class_type": site.class_type}
                    raise type(error)(error.message, details={**error.details, **where}) from error

        try:
            async with asyncio.TaskGroup() as group:
                for site in found:
                    group.create_task(bring(site))
        except ExceptionGroup as errors:
            raise _first(errors) from errors
        return fetched

    async def _place(
        self, found: Sequence[Site], fetched: Mapping[Path, Fetched]
    ) -> tuple[dict[Path, Any], tuple[InputFile, ...], tuple[str, ...]]:
        """Place the files; return what to write into the graph, the files, and all paths where they lie."""
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

    async def _obtain(self, value: str, job: Job, *, field: str, accept: tuple[str, ...] = ()) -> Fetched:
        value = value.strip() if len(value) < 65536 else value
        if is_upload(value):
            return await self._uploaded.find(value, owner=job.spec.owner, field=field, accept=accept)
        if not is_data_uri(value) and is_url(value):
            nobody = job.spec.stranger and not job.spec.owner
            owner, credentials = None if nobody else job.spec.owner, job.spec.credentials
            dialect = job.spec.dialect
            source = self._rights.find(value, field=field, credentials=credentials, owner=owner, dialect=dialect)
            return await self._fetcher.fetch(source, field=field, accept=accept, again=bool(job.inputs))
        limit = self._settings.input_max_bytes
        if len(value) * 3 // 4 > limit + 1024:  # base64 has four letters for three bytes
            raise for_field(too_large(limit), field)
        return await self._fetcher.store(blocks(value), field=field, declared=declared_type(value), accept=accept)

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
        groups[_whole(site).path].append(site)
    return dict(groups)


def _whole(site: Site) -> Site:
    """The site of the folder, for one of its files."""
    return replace(site, path=site.path[:-1]) if _in_folder(site) else site


def _in_folder(site: Site) -> bool:
    """Whether it is one of the files of a folder, given as a list."""
    return site.kind.form in (Form.FOLDER, Form.FOLDER_PATH) and isinstance(site.path[-1], int)


def _without_prefix(value: str) -> str:
    """A file as worker-comfyui takes it: whatever stands before the first comma of what is no URL is left off."""
    comma = value.find(",", 0, PREFIX_CHARS)
    if comma < 0 or is_url(value) or is_upload(value):
        return value
    return value if is_data_uri(value) and value[:comma].lower().endswith(";base64") else value[comma + 1 :]


def _first(errors: ExceptionGroup[Exception]) -> Exception:
    """The first error that a caller can do something about; the others were cancelled or say the same."""
    known, _ = errors.split(ServiceError)
    return (known or errors).exceptions[0]
